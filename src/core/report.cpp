// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/report.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace cake::inline CAKE_ABI {

void PrefillReport::summarize() {
  tokens_resident = spec.resident_tokens;
  tokens_computed = tokens_loaded = tokens_out_of_window = chunks_recomputed = 0;
  bytes_read = 0;
  meet_token = spec.prefix_end();
  for (const StepReport& step : steps) {
    if (!step.voided && step.ended != Time{0}) tokens_computed += step.tokens.size();
  }
  for (std::uint32_t c = 0; c < chunks.size(); ++c) {
    const ChunkReport& chunk = chunks[c];
    if (chunk.source == Source::loaded) {
      tokens_loaded += spec.chunk_range(c).size();
      meet_token = std::min(meet_token, spec.chunk_range(c).begin);
    }
    if (chunk.source == Source::out_of_window) tokens_out_of_window += spec.chunk_range(c).size();
    bytes_read += chunk.bytes;
    const bool wanted = chunk.load_error == Errc::ok || chunk.load_error == Errc::superseded;
    if (chunk.source == Source::computed && !wanted) ++chunks_recomputed;
  }
}

void PrefillReport::set_bound() {
  bound_s = 0;
  rates.n_layers = spec.n_layers;
  rates.step_tokens = spec.max_step_tokens;
  rates.load_per_token = 0;
  const double computing = compute_rates();
  const double bytes_per_second = load_rate();
  if (bytes_per_second > 0 && spec.chunk_tokens > 0) {
    rates.load_per_token = static_cast<double>(spec.read_bytes({0, spec.n_layers})) /
                           spec.chunk_tokens / bytes_per_second;
  }
  if (!status || computing <= 0 || ttft <= Time{0}) return;
  const std::uint32_t resident = std::min(spec.resident_tokens, spec.n_tokens);
  const std::uint32_t n = std::max(spec.prefix_end(), resident);
  std::uint32_t absent = 0;  // tokens that no schedule could have loaded
  for (std::uint32_t c = 0; c < chunks.size(); ++c) {
    const TokenRange range = spec.chunk_range(c);
    if (range.end <= resident) continue;
    if (range.begin < resident || chunks[c].load_error == Errc::not_found) {
      absent += range.end - std::max(range.begin, resident);
    }
  }
  if (rates.load_per_token <= 0) {
    if (absent < n - resident) return;
    rates.load_per_token = 0;
  }
  // A hair less, for the rounding of sums.
  bound_s = least_time(rates, n, spec.n_tokens - n, resident, absent) * (1 - 1e-9);
}

/// Fits overhead and cost per token to the passes of this run, so that all of them together take no
/// longer than they did. Returns the seconds in which the device was at work.
double PrefillReport::compute_rates() {
  const double growth =
      rates.per_token > 0 ? std::clamp(rates.per_position / rates.per_token, 0.0, 1e-2) : 0;
  double n[2] = {};     // passes: all, and those that waited at no gate
  double took[2] = {};  // seconds
  double work[2] = {};  // tokens, those further up count for more
  double squares = 0;   // of work,
  double products = 0;  // and with time
  double shortest = 1e18;
  double least = 1e18;
  double most = 0;
  Time until{0};  // steps follow each other on the device
  for (const StepReport& step : steps) {
    if (step.ended == Time{0}) continue;
    const double busy = seconds_of(std::max(Time{0}, step.ended - std::max(step.issued, until)));
    until = std::max(until, step.ended);
    if (step.voided || step.tokens.empty()) continue;
    const double x = step.tokens.begin;
    const double y = step.tokens.end;
    const double w = y - x + growth * (y * y - x * x);
    // A wide step is as many passes as its tokens take in others.
    const double passes = std::ceil((y - x) / std::max(1u, spec.max_step_tokens));
    for (int i = 0; i < (step.gated ? 1 : 2); ++i) {
      n[i] += passes;
      took[i] += busy;
      work[i] += w;
    }
    if (step.gated) continue;
    squares += w * w;
    products += w * busy;
    shortest = std::min(shortest, busy);
    least = std::min(least, w);
    most = std::max(most, w);
  }
  rates.overhead = rates.per_token = rates.per_position = 0;
  const int of = n[1] > 0 ? 1 : 0;
  if (work[of] <= 0) return 0;
  if (n[1] > 2 && most > 2 * least) {  // a line through them
    const double slope =
        (n[1] * products - work[1] * took[1]) / (n[1] * squares - work[1] * work[1]);
    rates.overhead = std::clamp((took[1] - slope * work[1]) / n[1], 0.0, shortest);
  }
  double per_token = (took[of] - n[of] * rates.overhead) / work[of];
  const double all = n[0] * rates.overhead + work[0] * per_token;
  const double share = all > took[0] ? took[0] / all : 1;
  rates.overhead *= share;
  per_token *= share;
  rates.per_token = per_token;
  rates.per_position = growth * per_token;
  return took[0];
}

/// Bytes per second of all lanes together, while they had reads under way.
double PrefillReport::load_rate() const {
  double bytes_per_second = 0;
  for (LaneId lane = 0; lane < spec.n_lanes; ++lane) {
    Time busy{0};
    Time until{0};
    double bytes = 0;
    for (const LoadReport& load : loads) {  // in the order of issue
      const bool arrived = load.outcome == Errc::ok || load.outcome == Errc::corrupt ||
                           load.outcome == Errc::mismatch || load.outcome == Errc::device;
      if (load.lane != lane || !arrived || load.landed == Time{0} || load.landed > ttft) continue;
      busy += std::max(Time{0}, load.landed - std::max(load.issued, until));
      until = std::max(until, load.landed);
      bytes += static_cast<double>(load.bytes);
    }
    if (busy > Time{0}) bytes_per_second += bytes / seconds_of(busy);
  }
  return bytes_per_second;
}

namespace {

std::size_t column(Time t, Time end, std::size_t width) {
  if (end <= Time{0}) return 0;
  const double share = static_cast<double>(t.count()) / static_cast<double>(end.count());
  return std::min(width - 1, static_cast<std::size_t>(share * static_cast<double>(width)));
}

void paint(std::string& row, Time begin, Time end, Time total, char mark) {
  const std::size_t first = column(begin, total, row.size());
  const std::size_t last = std::max(first, column(end - Time(1), total, row.size()));
  for (std::size_t i = first; i <= last; ++i) row[i] = mark;
}

}  // namespace

std::string PrefillReport::timeline(std::size_t width) const {
  width = std::max<std::size_t>(width, 8);
  std::string text;
  char line[160];
  std::string compute(width, '.');
  for (const StepReport& step : steps) {
    if (step.ended == Time{0}) continue;
    paint(compute, step.issued, step.ended, ttft,
          step.voided                              ? 'x'
          : step.gated                             ? '+'
          : step.tokens.begin >= spec.prefix_end() ? 's'
                                                   : '#');
  }
  text += "  compute |" + compute + "|\n";
  for (LaneId lane = 0; lane < spec.n_lanes; ++lane) {
    std::string row(width, '.');
    for (const LoadReport& load : loads) {
      if (load.lane != lane || load.issued > ttft) continue;
      const Time end = load.resident != Time{0} ? load.resident
                       : load.landed != Time{0} ? load.landed
                                                : ttft;
      paint(row, load.issued, std::min(end, ttft), ttft, load.outcome == Errc::ok ? '=' : 'x');
    }
    std::snprintf(line, sizeof line, "  lane %-2u |", lane);
    text += line + row + "|\n";
  }
  std::string tokens(width, ' ');
  for (std::size_t i = 0; i < width; ++i) {
    const auto token = static_cast<std::uint32_t>(static_cast<double>(i) /
                                                  static_cast<double>(width) * spec.n_tokens);
    const std::uint32_t chunk = spec.chunk_tokens ? token / spec.chunk_tokens : 0;
    char mark = 's';
    if (chunk < chunks.size()) {
      const Source source = chunks[chunk].source;
      mark = source == Source::loaded          ? '='
             : source == Source::resident      ? 'r'
             : source == Source::computed      ? '#'
             : source == Source::out_of_window ? 'w'
                                               : '?';
    }
    tokens[i] = mark;
  }
  text += "  tokens  |" + tokens + "|\n";
  std::snprintf(line, sizeof line, "           0%*s%.3f s\n", static_cast<int>(width) - 7, "",
                seconds_of(ttft));
  text += line;
  text += "           # compute  = load  s suffix  + gated pass  x dropped  r resident\n";
  if (tokens_out_of_window != 0) text += "           w below every window\n";
  return text;
}

std::string PrefillReport::chrome_trace() const {
  std::string json = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[";
  char line[320];
  const auto name_row = [&](unsigned row, const std::string& name) {
    std::snprintf(
        line, sizeof line,
        "{\"ph\":\"M\",\"pid\":1,\"tid\":%u,\"name\":\"thread_name\",\"args\":{\"name\":\"%s\"}}",
        row, name.c_str());
    json += line;
  };
  name_row(0, "compute");
  for (LaneId lane = 0; lane < spec.n_lanes; ++lane) {
    json += ',';
    name_row(lane + 1, "lane " + std::to_string(lane));
  }
  const auto event = [&](unsigned row, const char* name, Time begin, Time end,
                         const std::string& args) {
    std::snprintf(line, sizeof line,
                  ",{\"ph\":\"X\",\"pid\":1,\"tid\":%u,\"name\":\"%s\",\"ts\":%.3f,\"dur\":%.3f,"
                  "\"args\":{%s}}",
                  row, name, static_cast<double>(begin.count()) / 1e3,
                  static_cast<double>(std::max(Time{0}, end - begin).count()) / 1e3, args.c_str());
    json += line;
  };
  event(0, "planning", Time{0}, planning, "");
  for (const StepReport& step : steps) {
    const std::string args = "\"begin\":" + std::to_string(step.tokens.begin) +
                             ",\"end\":" + std::to_string(step.tokens.end) +
                             ",\"gated\":" + (step.gated ? "true" : "false");
    event(0, step.voided ? "void step" : "step", step.issued,
          step.ended == Time{0} ? ttft : step.ended, args);
  }
  for (const LoadReport& load : loads) {
    const std::string args = "\"chunk\":" + std::to_string(load.slice.chunk) + ",\"layers\":\"" +
                             std::to_string(load.slice.layers.begin) + "-" +
                             std::to_string(load.slice.layers.end) +
                             "\",\"bytes\":" + std::to_string(load.bytes) + ",\"outcome\":\"" +
                             std::string(to_string(load.outcome)) + "\"";
    const Time landed = load.landed == Time{0} ? ttft : load.landed;
    event(load.lane + 1, "read", load.issued, landed, args);
    if (load.resident != Time{0}) event(load.lane + 1, "insert", load.landed, load.resident, args);
  }
  json += "]}\n";
  return json;
}

}  // namespace cake::inline CAKE_ABI
