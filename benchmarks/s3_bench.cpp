// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Loads from a bucket, verified, beside curl's own ranged GETs of the same objects in the same run, by
// turns, as many at once and of the same size; both throw away what they got.
//
//     s3_bench s3://BUCKET/PREFIX [ROUNDS]     credentials and server as AWS tools take them
//     CAKE_TEST_WEED=PROGRAM s3_bench          a SeaweedFS of its own on loopback
//
// Stores 512 MiB there, which are erased at the end. Needs the program curl. The server shares the
// processors with both.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/s3.hpp"
#include "tests/storage/s3_weed.hpp"

namespace {

using namespace cake;
using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kChunk = 256;
constexpr std::uint32_t kChunks = 16;  // of 32 MiB
constexpr std::size_t kPiece = std::size_t{4} << 20;

/// Has the KV shape of Llama-3.1-8B, computes nothing and keeps nothing.
struct Sink {
  UniformKvLayout layout() const { return {32, 8, 128, DType::bf16, KvOrder::nhd}; }
  ModelFingerprint fingerprint() const {
    return FingerprintBuilder().add("weights", "s3_bench").finish();
  }
  Status prefill(Tokens, TokenRange) { return {}; }
  Status insert(const Slice&, const KvView&) { return {}; }
  Status extract(const Slice& slice, const MutableKvView& to) {
    std::uint32_t x = slice.chunk + 1;
    for (std::uint32_t l = slice.layers.begin; l < slice.layers.end; ++l) {
      for (auto& b : to.k(l)) b = static_cast<std::byte>((x = x * 1664525 + 1013904223) >> 24);
      for (auto& b : to.v(l)) b = static_cast<std::byte>((x = x * 1664525 + 1013904223) >> 24);
    }
    return {};
  }
};
static_assert(ComputeBackend<Sink>);

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

class Bench {
 public:
  explicit Bench(const S3Options& options)
      : options_(options), store_(options), lanes_(store_, {}), prompt_(kChunk * kChunks + 1) {
    for (std::size_t i = 0; i < prompt_.size(); ++i) prompt_[i] = static_cast<TokenId>(i % 1000);
    store_.check_access().value();
    const auto begin = Clock::now();
    const SaveReport saved = save(engine_, store_, prompt_, {.chunk_tokens = kChunk});
    saved.status.value();
    std::printf("saved %.0f MB, %.2f GB/s\n", static_cast<double>(saved.bytes) / 1e6,
                static_cast<double>(saved.bytes) / 1e9 / seconds_since(begin));
    keys_ = prefix_chain(root_key(engine_.fingerprint(), engine_.layout(), kChunk, {}), prompt_,
                         kChunk);
    const auto stored = store_.lookup(keys_).value();
    for (const StoredChunk& chunk : stored) bytes_ += chunk.size;
    object_ = bytes_ / kChunks;
    write_config();
  }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;
  ~Bench() {
    for (const ChunkKey& key : keys_) (void)store_.erase(key);
    std::remove(config_.c_str());
  }

  /// GB/s of a prompt that is loaded whole.
  double load() {
    PrefillSession<Sink, S3Storage, LoadOnlyScheduler> session(
        engine_, lanes_, {.chunk_tokens = kChunk}, {},
        {.lookup_timeout = std::chrono::seconds(10)});
    const auto begin = Clock::now();
    const PrefillReport report = prefill(session, prompt_);
    const double seconds = seconds_since(begin);
    report.status.value();
    if (report.tokens_loaded != kChunk * kChunks) {
      throw Exception(report.load_error ? Error{Errc::io, 0, "not all was loaded"}
                                        : report.load_error.error());
    }
    return static_cast<double>(bytes_) / 1e9 / seconds;
  }
  /// GB/s of the same bytes by the program curl.
  double curl() {
    const std::string command =
        "curl --no-progress-meter --fail --parallel --parallel-immediate "
        "--parallel-max " +
        std::to_string(options_.connections) + " --config " + config_;
    const auto begin = Clock::now();
    if (std::system(command.c_str()) != 0) {
      throw Exception({Errc::io, 0, "curl failed; is the program installed?"});
    }
    return static_cast<double>(bytes_) / 1e9 / seconds_since(begin);
  }

 private:
  void write_config() {
    std::string name = "/tmp/cake-s3-bench-XXXXXX";
    ::close(::mkstemp(name.data()));
    config_ = name;
    std::ofstream out(config_);
    for (const ChunkKey& key : keys_) {
      const std::string hex = key.hex();
      for (std::size_t at = 0; at < object_; at += kPiece) {
        if (out.tellp() > 0) out << "next\n";
        out << "url = \"" << store_.url() << "/" << hex.substr(0, 2) << "/" << hex
            << ".ckv\"\nrange = \"" << at << "-" << std::min(at + kPiece, object_) - 1
            << "\"\noutput = \"/dev/null\"\naws-sigv4 = \"aws:amz:" << options_.region
            << ":s3\"\nuser = \"" << options_.credentials.access_key << ":"
            << options_.credentials.secret_key << "\"\n";
        if (!options_.credentials.session_token.empty()) {
          out << "header = \"x-amz-security-token: " << options_.credentials.session_token
              << "\"\n";
        }
      }
    }
  }

  S3Options options_;
  Sink engine_;
  S3Storage store_;
  IoLanes<S3Storage> lanes_;
  std::vector<TokenId> prompt_;
  std::vector<ChunkKey> keys_;
  std::uint64_t bytes_ = 0;
  std::uint64_t object_ = 0;
  std::string config_;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::unique_ptr<cake_s3_test::Weed> weed;
    S3Options options;
    if (argc > 1) {
      options = s3_options(argv[1]).value();
    } else {
      const char* const program = cake_s3_test::weed_program();
      if (program == nullptr) return 2;
      weed = std::make_unique<cake_s3_test::Weed>(program);
      options = weed->options();
    }
    const int rounds = argc > 2 ? std::atoi(argv[2]) : 7;
    Bench bench(options);
    bench.load();
    bench.curl();
    std::vector<double> loads, plain, ratios;
    std::printf("%u connections, %u threads; GB/s\n  load   curl  ratio\n", options.connections,
                options.threads);
    for (int i = 0; i < rounds; ++i) {
      loads.push_back(bench.load());
      plain.push_back(bench.curl());
      ratios.push_back(loads.back() / plain.back());
      std::printf("%6.2f %6.2f %6.2f\n", loads.back(), plain.back(), ratios.back());
    }
    std::printf("%6.2f %6.2f %6.2f  medians\n", median(loads), median(plain), median(ratios));
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "s3_bench: %s\n", e.what());
    return 1;
  }
}
