// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What the quickstart shows and writes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "cake/report.hpp"
#include "cake/result.hpp"
#include "cake/types.hpp"

namespace cake::examples {

/// One mode's run.
struct ModeRun {
  std::string mode;
  PrefillReport report;
  std::vector<TokenId> answer_tokens;
  std::string answer;
  std::vector<std::pair<TokenId, float>> first_logits;  // the ten largest, largest first
};

struct QuickstartResult {
  std::string device;  // cpu or cuda
  std::vector<TokenId> prompt_tokens;
  double link_mbit = 0;  // 0: nothing was loaded
  std::uint32_t chunk_tokens = 0;
  std::vector<ModeRun> runs;

  const ModeRun* find(std::string_view mode) const;
  /// Time to first token of the better baseline that ran; 0 if none did. Seconds.
  double better_baseline() const;
  bool same_answers() const;
  /// Whether every mode's first token is the first mode's, or one whose logit there is at most
  /// `margin` below the largest: what rounding may turn around.
  bool same_first_tokens(float margin) const;
};

/// One line for each run. Ratios that mean nothing are dashes: to the better of one baseline, or to
/// a bound that the run's own rates do not give.
std::string table(const QuickstartResult& result);
/// Valid JSON whatever the result holds: a number that JSON does not have is null, and bytes that
/// are no UTF-8 are replaced.
std::string to_json(const QuickstartResult& result);

/// Writes the file whole or not at all; what is no regular file, as a pipe or /dev/null, is written
/// to as it is.
Status write_file(const std::filesystem::path& path, const std::string& text);
/// Whether write_file() could succeed there, without writing anything.
Status check_writable(const std::filesystem::path& path);

}  // namespace cake::examples
