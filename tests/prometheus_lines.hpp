// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Reads the text format of Prometheus as strictly as a server does.
#pragma once

#include <cctype>
#include <cstdlib>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>

namespace cake_metrics_test {

/// Each sample by what stands before its value: name{label="value"}. What breaks a rule of the format
/// throws.
class PrometheusLines {
 public:
  explicit PrometheusLines(std::string_view text) {
    if (!text.empty() && text.back() != '\n') fail("no end of the last line");
    while (!text.empty()) {
      const std::size_t end = text.find('\n');
      line(std::string(text.substr(0, end)));
      text.remove_prefix(end + 1);
    }
  }
  bool has(const std::string& sample) const { return values_.contains(sample); }
  double at(const std::string& sample) const {
    const auto found = values_.find(sample);
    if (found == values_.end()) fail("no sample " + sample);
    return found->second;
  }
  const std::map<std::string, std::string>& types() const { return types_; }
  const std::map<std::string, std::string>& helps() const { return helps_; }
  std::size_t size() const { return values_.size(); }

 private:
  [[noreturn]] static void fail(const std::string& what) { throw std::runtime_error(what); }

  void line(const std::string& text) {
    if (text.starts_with("# HELP ")) return comment(text.substr(7), helps_);
    if (text.starts_with("# TYPE ")) return comment(text.substr(7), types_);
    if (text.starts_with('#')) fail("a comment of no kind: " + text);
    const std::size_t space = text.rfind(' ');
    if (space == std::string::npos) fail("no value: " + text);
    const std::string sample = text.substr(0, space);
    check_name(sample);
    check_labels(sample);
    if (!values_.emplace(sample, value_of(text.substr(space + 1))).second) {
      fail("named twice: " + sample);
    }
  }
  void comment(const std::string& text, std::map<std::string, std::string>& to) {
    const std::size_t space = text.find(' ');
    if (space == std::string::npos) fail("a comment without text: " + text);
    if (!to.emplace(text.substr(0, space), text.substr(space + 1)).second) {
      fail("told twice: " + text);
    }
    if (&to == &types_) begin(text.substr(0, space));
  }
  /// All samples of a name follow its type.
  void begin(const std::string& name) {
    family_ = name;
    if (!helps_.contains(name)) fail("no help before the type of " + name);
  }
  void check_name(const std::string& sample) const {
    const std::string name = sample.substr(0, sample.find('{'));
    std::string base = name;
    if (types_.contains(family_) && types_.at(family_) == "histogram") {
      for (const char* const end : {"_bucket", "_sum", "_count"}) {
        if (name == family_ + end) base = family_;
      }
    }
    if (base != family_) fail(name + " does not follow its type");
    for (const char c : name) {
      if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '_') fail("a name: " + name);
    }
    const bool total = name.ends_with("_total");
    if (total != (types_.at(family_) == "counter")) fail("_total is for counters: " + name);
  }
  static void check_labels(const std::string& sample) {
    bool quoted = false;
    for (std::size_t i = sample.find('{'); i < sample.size(); ++i) {
      if (quoted && sample[i] == '\\') {
        ++i;
        if (i == sample.size() ||
            std::string_view("\\n\"").find(sample[i]) == std::string_view::npos) {
          fail("an escape: " + sample);
        }
      } else if (sample[i] == '"') {
        quoted = !quoted;
      } else if (sample[i] == '}' && !quoted && i + 1 != sample.size()) {
        fail("something behind the labels: " + sample);
      }
    }
    if (quoted) fail("a label has no end: " + sample);
  }
  static double value_of(const std::string& text) {
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0') fail("no number: " + text);
    return value;
  }

  std::map<std::string, double> values_;
  std::map<std::string, std::string> types_, helps_;
  std::string family_;
};

}  // namespace cake_metrics_test
