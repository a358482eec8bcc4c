// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// An engine of one's own (custom_engine.hpp) restores a prompt: computed once and saved, then, as
// after a restart, computed and loaded at once. The store is real; the link to it is slowed down
// until loading is about as fast as computing.
#include "custom_engine.hpp"

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

#include "cake/cake.hpp"
#include "cake/storage/posix.hpp"
#include "cake/storage/throttled.hpp"
#include "cake/testing/check_engine.hpp"
#include "temporary_folder.hpp"

using cake::examples::TinyEngine;

namespace {

/// The prompt again, with what a whole process shares.
bool served(const std::filesystem::path& directory, TinyEngine& sequence, cake::Tokens prompt,
            const std::string& tenant) {
  // [ten_lines]
  // One of each per process; sessions borrow the lanes.
  cake::PosixStorage storage({.directory = directory});
  cake::IoLanes lanes(storage);
  // One object for saving and loading.
  const cake::ChunkOptions chunks{.chunk_tokens = 64, .salt = tenant};
  // One engine object and one session per sequence; the scheduler is the default one.
  cake::PrefillSession session(sequence, lanes, chunks);
  cake::PrefillReport report = cake::prefill(session, prompt);  // or the engine's own loop
  // Runs beside the next work.
  cake::SaveTicket saved = cake::save(sequence, lanes, prompt, chunks);
  // [/ten_lines]
  return report.status && saved.wait().status;
}

}  // namespace

int main(int argc, char** argv) try {
  const cake::examples::TemporaryFolder temporary;
  const std::filesystem::path directory = argc > 1 ? argv[1] : temporary.path() / "store";
  constexpr std::uint32_t kTokens = 1500;
  std::vector<cake::TokenId> prompt(kTokens);
  for (std::size_t i = 0; i < prompt.size(); ++i) {
    prompt[i] = static_cast<cake::TokenId>(i * i % 31);
  }

  // Rules that a concept cannot say are tried out once, when an engine is new.
  TinyEngine fresh(kTokens);
  for (const std::string& broken : cake::testing::check(fresh, prompt)) std::puts(broken.c_str());

  // [loader]
  TinyEngine engine(kTokens);
  cake::PosixStorage storage({.directory = directory});
  cake::LoaderOptions options;
  options.chunks.chunk_tokens = 64;
  options.session.max_step_tokens = 128;
  cake::Loader loader(engine, storage, options);
  const cake::PrefillReport first = loader.prefill(prompt);
  if (!first.status) throw cake::Exception(first.status.error());
  const cake::SaveReport saved = loader.save(prompt);
  if (!saved.status) throw cake::Exception(saved.status.error());
  // [/loader]
  std::printf("first run: %u tokens computed, %u loaded; then saved %u chunks of %u\n",
              first.tokens_computed, first.tokens_loaded, saved.written,
              saved.written + saved.present);

  TinyEngine restarted(kTokens);
  const double kv_bytes =
      static_cast<double>(engine.layout().bytes_per_token()) * static_cast<double>(prompt.size());
  const double seconds = cake::PrefillReport::seconds_of(first.ttft);
  cake::ThrottledStorage link(storage, cake::LinkOptions{.bytes_per_second = kv_bytes / seconds});
  // The link is another storage; what the device takes is known.
  const auto calibration = std::make_shared<cake::Calibration>();
  calibration->take_models(*loader.lanes().calibration());
  options.lanes.calibration = calibration;
  cake::Loader again(restarted, link, options);
  const cake::PrefillReport report = again.prefill(prompt);
  if (!report.status) throw cake::Exception(report.status.error());
  std::printf("second run: %u computed, %u loaded, met at token %u; %.3f s, %.2f of the first\n%s",
              report.tokens_computed, report.tokens_loaded, report.meet_token,
              cake::PrefillReport::seconds_of(report.ttft),
              cake::PrefillReport::seconds_of(report.ttft) / seconds, report.timeline().c_str());
  TinyEngine shared(kTokens);
  const bool same = restarted.logits() == engine.logits() &&
                    served(directory, shared, prompt, "") && shared.logits() == engine.logits();
  std::printf("the logits are %s\n", same ? "the same, bit for bit" : "NOT the same");
  return same ? 0 : 1;
} catch (const std::exception& e) {
  std::fprintf(stderr, "custom_engine: %s\n", e.what());
  return 1;
}
