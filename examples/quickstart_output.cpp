// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "quickstart_output.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <fstream>

namespace cake::examples {

const ModeRun* QuickstartResult::find(std::string_view mode) const {
  for (const ModeRun& run : runs) {
    if (run.mode == mode) return &run;
  }
  return nullptr;
}

double QuickstartResult::better_baseline() const {
  double best = 0;
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
    std::snprintf(line, sizeof line, "  %-7s %6.3f s   %8u %8u  %8u  %5.1f MB   %18s   %8.2f\n",
                  run.mode.c_str(), ttft, r.tokens_computed, r.tokens_loaded, r.meet_token,
                  static_cast<double>(r.bytes_read) / 1e6, ratio, ttft / result.bound_s);
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

/// The longest part of the text that is whole UTF-8: an answer cut by the token limit may end
/// inside a character.
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
  char text[40];
  std::snprintf(text, sizeof text, "%.9g", value);
  return text;
}

}  // namespace

std::string to_json(const QuickstartResult& result) {
  std::string out = "{\"device\":" + quoted(result.device) +
                    ",\"prompt_tokens\":" + ids(result.prompt_tokens) +
                    ",\"link_mbit\":" + number(result.link_mbit) +
                    ",\"chunk_tokens\":" + std::to_string(result.chunk_tokens) + ",\"runs\":[";
  for (const ModeRun& run : result.runs) {
    const PrefillReport& r = run.report;
    if (&run != &result.runs.front()) out += ',';
    out += "\n{\"mode\":" + quoted(run.mode) +
           ",\"ttft_s\":" + number(PrefillReport::seconds_of(r.ttft)) +
           ",\"tokens_computed\":" + std::to_string(r.tokens_computed) +
           ",\"tokens_loaded\":" + std::to_string(r.tokens_loaded) +
           ",\"meet_token\":" + std::to_string(r.meet_token) +
           ",\"bytes_read\":" + std::to_string(r.bytes_read) +
           ",\"holes\":" + std::to_string(r.holes) + ",\"bound_s\":" + number(result.bound_s) +
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

Status write_file(const std::filesystem::path& path, const std::string& text) {
  const std::filesystem::path temporary = path.string() + ".tmp" + std::to_string(getpid());
  {
    std::ofstream file(temporary, std::ios::binary);
    file << text;
    file.close();
    if (!file) {
      std::error_code ignored;
      std::filesystem::remove(temporary, ignored);
      return errno_error(errno != 0 ? errno : EIO, "write " + path.string());
    }
  }
  std::error_code error;
  std::filesystem::rename(temporary, path, error);
  if (!error) return {};
  std::error_code ignored;
  std::filesystem::remove(temporary, ignored);
  return errno_error(error.value(), "write " + path.string());
}

Status check_writable(const std::filesystem::path& path) {
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    return Error{Errc::invalid_argument, 0, path.string() + " is a directory; name a file"};
  }
  if (access(folder.c_str(), W_OK | X_OK) != 0)
    return errno_error(errno, "cannot write into " + folder.string());
  return {};
}

}  // namespace cake::examples
