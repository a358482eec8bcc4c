// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// An engine with KV pages and kernels of its own (cuda_paged.cu), which takes from cake only the
// loader, a store, and the copies into its pages. Computes a prompt and saves it; then, in a second
// engine with other pages, computes it from the front while it loads it from the back.
#include "cuda_paged.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>

#include "cake/cake.hpp"
#include "cake/cuda/kv_transfer.hpp"
#include "cake/cuda/pinned_staging.hpp"
#include "cake/storage/posix.hpp"
#include "cake/storage/throttled.hpp"
#include "cake/testing/check_engine.hpp"
#include "temporary_folder.hpp"

using namespace cake;

namespace {

// [engine]
/// A pass that the device may still be busy with.
struct Pass {
  cuda::Event done;
  Status status = {};
  bool ready() { return !status || done.ready(); }
  Status wait() { return status ? done.wait() : status; }
};

class PagedEngine {
 public:
  static constexpr std::uint32_t kLayers = 8;

  PagedEngine(std::uint32_t max_tokens, unsigned seed)
      : n_pages_((max_tokens + examples::kPageTokens - 1) / examples::kPageTokens),
        pool_bytes_(std::size_t{n_pages_} * examples::kPageTokens * examples::kTokenBytes),
        memory_(2 * kLayers * pool_bytes_),
        tokens_(max_tokens * sizeof(TokenId)),
        table_(n_pages_ * sizeof(std::int32_t)),
        there_(max_tokens, kLayers) {
    for (std::uint32_t l = 0; l < kLayers; ++l) {
      k_.push_back(memory_.as<std::byte>() + 2 * l * pool_bytes_);
      v_.push_back(memory_.as<std::byte>() + (2 * l + 1) * pool_bytes_);
    }
    auto* const pages = table_.as<std::int32_t>();  // as a pool that was used for a while
    std::iota(pages, pages + n_pages_, 0);
    std::shuffle(pages, pages + n_pages_, std::mt19937(seed));
  }

  // The shape of the KV, and a name for everything that changes its bytes.
  UniformKvLayout layout() const {
    return {kLayers, examples::kHeads, examples::kHeadDim, DType::bf16, KvOrder::nhd};
  }
  ModelFingerprint fingerprint() const {
    return FingerprintBuilder().add("weights", "hash of the tokens so far").finish();
  }

  // Enqueues KV of `range` and returns at once. KV below it comes layer by layer behind the gate.
  // Numbers that kernels need lie in mapped pinned memory: a copy of them would wait behind loads.
  Pass prefill(Tokens prompt, TokenRange range, LayerGate gate = {}) {
    auto* const tokens = tokens_.as<std::int32_t>();
    std::copy(prompt.begin() + range.begin, prompt.begin() + range.end, tokens + range.begin);
    Pass pass;
    for (std::uint32_t l = 0; l < kLayers && pass.status; ++l) {
      if (!gate.wait(l)) {
        pass.status = Error{Errc::superseded, 0, "prefill"};
      } else {
        pass.status = cuda::to_status(
            examples::toy_layer({k_[l], v_[l], table_.device<std::int32_t>(),
                                 tokens_.device<std::int32_t>(), l, range.begin, range.end},
                                stream_.get()),
            "toy_layer");
        if (pass.status) there_.add(range, {l, l + 1});
      }
    }
    if (pass.status) pass.status = pass.done.record(stream_.get());
    if (!pass.status) (void)stream_.wait();  // what was enqueued of it is over, too
    return pass;
  }

  // [transfer]
  // Loaded KV into the pages, and the other way for save(): all that cake does to them. Of tokens
  // that have no KV nothing is given out.
  cuda::Transfer insert(const Slice& slice, const KvView& from) {
    there_.add(slice.tokens, slice.layers);
    return transfer_.insert(pages(), slice, from);
  }
  cuda::Transfer extract(const Slice& slice, const MutableKvView& to) {
    if (auto missing = there_.missing(slice.tokens, slice.layers)) {
      return cuda::Transfer(no_kv(*missing));
    }
    return transfer_.extract(pages(), slice, to);
  }
  static constexpr EngineAbilities abilities{
      .staging_memory = true, .parallel_extracts = 4, .inserts_parts = true};
  StagingMemory* staging_memory() { return &staging_; }  // the loader reads into pinned memory

 private:
  cuda::PagedKv pages() const {
    return {layout(),
            examples::kPageTokens,
            n_pages_,
            cuda::PageStrides::packed(layout(), examples::kPageTokens),
            k_,
            v_,
            {table_.as<std::int32_t>(), n_pages_}};
  }
  // [/transfer]

  std::uint32_t n_pages_;
  std::size_t pool_bytes_;
  cuda::DeviceBuffer memory_;  // [layer][K|V][page][token][head][element]
  cuda::PinnedBuffer tokens_;
  cuda::PinnedBuffer table_;
  std::vector<void*> k_, v_;
  KvPresence there_;  // what was computed or inserted, or is enqueued to be
  cuda::PinnedStaging staging_;
  cuda::Stream stream_;
  cuda::KvTransfer transfer_;
};
static_assert(ComputeBackend<PagedEngine>);
// [/engine]

std::vector<std::byte> all_kv(PagedEngine& engine, std::uint32_t n) {
  std::vector<std::byte> bytes(engine.layout().bytes_per_token() * n);
  const std::size_t run = engine.layout().run_bytes(n);
  const MutableKvView view(bytes.data(), 0, run, run);
  engine.extract({0, {0, n}, {0, PagedEngine::kLayers}}, view).wait().value();
  return bytes;
}

}  // namespace

int main() try {
  if (const Status status = cuda::usable(); !status) {
    std::printf("cuda_paged needs a GPU: %s\n", status.error().message().c_str());
    return 77;
  }
  constexpr std::uint32_t kTokens = 4000;
  std::vector<TokenId> prompt(kTokens);
  for (std::uint32_t i = 0; i < kTokens; ++i) prompt[i] = static_cast<TokenId>(i * i % 31);

  // Rules that a concept cannot say are tried out once, when an engine is new.
  PagedEngine fresh(kTokens, 1);
  const auto broken = testing::check(fresh, Tokens(prompt).first(100));
  for (const std::string& rule : broken) std::puts(rule.c_str());

  const examples::TemporaryFolder folder;
  PosixStorage storage({.directory = folder.path() / "store"});
  const LoaderOptions options{.chunks = {.chunk_tokens = 128}, .session = {.max_step_tokens = 256}};
  PagedEngine engine(kTokens, 2);
  Loader loader(engine, storage, options);
  const PrefillReport first = loader.prefill(prompt);
  first.status.value();
  const SaveReport saved = loader.save(prompt);
  saved.status.value();
  const double seconds = PrefillReport::seconds_of(first.ttft);
  std::printf("first run: %u tokens computed in %.3f s; %u chunks saved\n", first.tokens_computed,
              seconds, saved.written);

  // The link to the store is slowed down until loading takes about as long as computing.
  const std::vector<std::byte> computed = all_kv(engine, kTokens);
  ThrottledStorage link(storage,
                        {.bytes_per_second = static_cast<double>(computed.size()) / seconds});
  PagedEngine restarted(kTokens, 3);
  // The link is another storage; what the device takes is known.
  LoaderOptions slower = options;
  slower.lanes.calibration = std::make_shared<Calibration>();
  slower.lanes.calibration->take_models(*loader.lanes().calibration());
  Loader again(restarted, link, slower);
  const PrefillReport report = again.prefill(prompt);
  report.status.value();
  std::printf("second run: %u computed, %u loaded, met at token %u; %.3f s, %.2f of the first\n%s",
              report.tokens_computed, report.tokens_loaded, report.meet_token,
              PrefillReport::seconds_of(report.ttft),
              PrefillReport::seconds_of(report.ttft) / seconds, report.timeline().c_str());
  const bool same = all_kv(restarted, kTokens) == computed;
  std::printf("%u tokens were loaded, and the KV is %s\n", report.tokens_loaded,
              same ? "the same, byte for byte" : "NOT the same");
  return same && broken.empty() && report.tokens_loaded > 0 ? 0 : 1;
} catch (const std::exception& e) {
  std::fprintf(stderr, "cuda_paged: %s\n", e.what());
  return 1;
}
