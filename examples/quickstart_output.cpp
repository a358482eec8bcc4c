// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "quickstart_output.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <optional>

namespace cake::examples {

const ModeRun* QuickstartResult::find(std::string_view mode) const {
  for (const ModeRun& run : runs) {
    if (run.mode == mode) return &run;
  }
  return nullptr;
}

double QuickstartResult::better_baseline() const {
  double best = 0;
  if (runs.size() < 2) return best;  // nothing to compare with
  for (const char* mode : {"compute", "load"}) {
    const ModeRun* run = find(mode);
    if (run == nullptr) continue;
    const double ttft = PrefillReport::seconds_of(run->report.ttft);
    best = best == 0 ? ttft : std::min(best, ttft);
  }
  return best;
}

bool QuickstartResult::same_answers() const {
  return std::all_of(runs.begin(), runs.end(), [&](const ModeRun& run) {
    return run.answer_tokens == runs.front().answer_tokens;
  });
}

bool QuickstartResult::same_first_tokens(float margin) const {
  return std::all_of(runs.begin(), runs.end(), [&](const ModeRun& run) {
    const auto& logits = runs.front().first_logits;
    return std::any_of(logits.begin(), logits.end(), [&](const auto& entry) {
      return entry.first == run.answer_tokens.front() &&
             entry.second >= logits.front().second - margin;
    });
  });
}

namespace {

/// The least time of any schedule at the rates of this very run, in seconds; none where the run did
/// not measure them all.
std::optional<double> bound_of(const PrefillReport& report) {
  const double ratio = report.bound_ratio();
  const bool measured = report.tokens_loaded > 0 && report.tokens_computed > 0;
  if (!measured || !std::isfinite(ratio) || ratio < 1) return std::nullopt;
  return report.bound_s;
}

}  // namespace

std::string table(const QuickstartResult& result) {
  std::string text =
      "  mode       TTFT   computed   loaded   meet at      read   vs better baseline   vs bound\n";
  char line[256];
  const double baseline = result.better_baseline();
  for (const ModeRun& run : result.runs) {
    const PrefillReport& r = run.report;
    const double ttft = PrefillReport::seconds_of(r.ttft);
    char ratio[32] = "-";
    if (baseline > 0) std::snprintf(ratio, sizeof ratio, "%.2f", ttft / baseline);
    char over[32] = "-";
    if (const auto bound = bound_of(r)) std::snprintf(over, sizeof over, "%.2f", ttft / *bound);
    std::snprintf(line, sizeof line, "  %-7s %6.3f s   %8u %8u  %8u  %5.1f MB   %18s   %8s\n",
                  run.mode.c_str(), ttft, r.tokens_computed, r.tokens_loaded, r.meet_token,
                  static_cast<double>(r.bytes_read) / 1e6, ratio, over);
    text += line;
  }
  return text;
}

namespace {

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(byte));
      out += escape;
    } else {
      out += c;
    }
  }
  return out + "\"";
}

/// The text, with a replacement character for each byte that belongs to no whole one: an answer cut
/// by the token limit may end inside a character.
std::string whole_utf8(const std::string& text) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const std::size_t length = byte < 0x80                   ? 1
                               : byte >= 0xc2 && byte < 0xe0 ? 2
                               : byte >= 0xe0 && byte < 0xf0 ? 3
                               : byte >= 0xf0 && byte < 0xf5 ? 4
                                                             : 0;
    bool whole = length != 0 && i + length <= text.size();
    for (std::size_t k = 1; whole && k < length; ++k)
      whole = (static_cast<unsigned char>(text[i + k]) & 0xc0) == 0x80;
    if (whole && length > 2) {
      // Not what a shorter form holds, no half of a UTF-16 pair, nothing beyond U+10FFFF.
      const auto next = static_cast<unsigned char>(text[i + 1]);
      whole = !(byte == 0xe0 && next < 0xa0) && !(byte == 0xed && next >= 0xa0) &&
              !(byte == 0xf0 && next < 0x90) && !(byte == 0xf4 && next >= 0x90);
    }
    out += whole ? text.substr(i, length) : std::string("\xef\xbf\xbd");
    i += whole ? length : 1;
  }
  return out;
}

std::string ids(const std::vector<TokenId>& tokens) {
  std::string out = "[";
  for (const TokenId token : tokens) {
    if (out.size() > 1) out += ',';
    out += std::to_string(token);
  }
  out += ']';
  return out;
}

std::string number(double value) {
  if (!std::isfinite(value)) return "null";
  char text[40];
  std::snprintf(text, sizeof text, "%.9g", value);
  return text;
}

}  // namespace

std::string to_json(const QuickstartResult& result) {
  std::string out = "{\"device\":" + quoted(whole_utf8(result.device)) +
                    ",\"prompt_tokens\":" + ids(result.prompt_tokens) +
                    ",\"link_mbit\":" + number(result.link_mbit) +
                    ",\"chunk_tokens\":" + std::to_string(result.chunk_tokens) + ",\"runs\":[";
  for (const ModeRun& run : result.runs) {
    const PrefillReport& r = run.report;
    const auto bound = bound_of(r);
    if (&run != &result.runs.front()) out += ',';
    out += "\n{\"mode\":" + quoted(whole_utf8(run.mode)) +
           ",\"ttft_s\":" + number(PrefillReport::seconds_of(r.ttft)) +
           ",\"tokens_computed\":" + std::to_string(r.tokens_computed) +
           ",\"tokens_loaded\":" + std::to_string(r.tokens_loaded) +
           ",\"meet_token\":" + std::to_string(r.meet_token) +
           ",\"bytes_read\":" + std::to_string(r.bytes_read) +
           ",\"chunks_recomputed\":" + std::to_string(r.chunks_recomputed) +
           ",\"bound_s\":" + (bound ? number(*bound) : "null") +
           ",\"answer_tokens\":" + ids(run.answer_tokens) +
           ",\"answer\":" + quoted(whole_utf8(run.answer)) + ",\"first_logits\":[";
    for (const auto& [token, logit] : run.first_logits) {
      if (out.back() != '[') out += ',';
      out += '[';
      out += std::to_string(token);
      out += ',';
      out += number(static_cast<double>(logit));
      out += ']';
    }
    out += "]}";
  }
  return out + "\n]}\n";
}

namespace {

/// What is there and is no regular file: a device, a pipe. It must not be replaced.
bool is_special(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::exists(path, error) && !std::filesystem::is_regular_file(path, error);
}

Status write_into(const std::filesystem::path& path, const std::string& text) {
  errno = 0;
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (file) return {};
  return errno_error(errno != 0 ? errno : EIO, "write " + path.string());
}

}  // namespace

Status write_file(const std::filesystem::path& path, const std::string& text) {
  if (is_special(path)) return write_into(path, text);
  std::error_code error;
  // Behind a symbolic link the file is written that it leads to.
  const auto target = std::filesystem::weakly_canonical(path, error);
  const std::filesystem::path& final_path = error ? path : target;
  const std::filesystem::path temporary = final_path.string() + ".tmp" + std::to_string(getpid());
  Status status = write_into(temporary, text);
  if (status) {
    std::filesystem::rename(temporary, final_path, error);
    if (!error) return {};
    status = errno_error(error.value(), "write " + path.string());
  }
  std::error_code ignored;
  std::filesystem::remove(temporary, ignored);
  return status;
}

Status check_writable(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    return Error{Errc::invalid_argument, 0, path.string() + " is a directory; name a file"};
  }
  if (is_special(path)) {
    if (access(path.c_str(), W_OK) != 0)
      return errno_error(errno, "cannot write to " + path.string());
    return {};
  }
  const auto target = std::filesystem::weakly_canonical(path, error);
  const std::filesystem::path folder =
      !error && target.has_parent_path() ? target.parent_path() : std::filesystem::path(".");
  if (access(folder.c_str(), W_OK | X_OK) != 0)
    return errno_error(errno, "cannot write into " + folder.string());
  return {};
}

}  // namespace cake::examples
