// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// What the quickstart writes, and what it says of its options.
#include "examples/quickstart_output.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>

#include "catch.hpp"
#include "examples/quickstart_options.hpp"
#include "examples/temporary_folder.hpp"

namespace {

using namespace cake;
using namespace cake::examples;

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

ModeRun run_of(const std::string& mode, double ttft_s) {
  ModeRun run;
  run.mode = mode;
  run.report.ttft = Time(static_cast<std::int64_t>(ttft_s * 1e9));
  run.report.tokens_computed = 10;
  run.report.tokens_loaded = 20;
  run.answer_tokens = {5};
  run.first_logits = {{5, 1.5f}};
  return run;
}

std::string answer_of(const std::string& text) {
  QuickstartResult result;
  result.runs.push_back(run_of("cake", 1));
  result.runs.back().answer = text;
  const std::string json = to_json(result);
  const std::string open = "\"answer\":";
  const std::size_t at = json.find(open) + open.size();
  return json.substr(at, json.find(",\"first_logits\"") - at);
}

Result<QuickstartOptions> options(std::vector<std::string> words) {
  words.insert(words.begin(), "quickstart");
  std::vector<char*> pointers;
  pointers.reserve(words.size());
  for (std::string& word : words) pointers.push_back(word.data());
  return parse_options(static_cast<int>(pointers.size()), pointers.data());
}
std::string wrong(const std::vector<std::string>& words) {
  const auto parsed = options(words);
  REQUIRE(!parsed.has_value());
  CHECK(parsed.error().code == Errc::invalid_argument);
  return parsed.error().context;
}

}  // namespace

TEST_CASE("numbers that JSON does not have are null") {
  QuickstartResult result;
  CHECK(has(to_json(result), "\"runs\":[\n]}"));
  for (const double value : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    result.link_mbit = value;
    result.runs.assign(1, run_of("cake", 1));
    result.runs[0].report.bound_s = value;
    result.runs[0].first_logits = {{5, static_cast<float>(value)}};
    const std::string json = to_json(result);
    CHECK(has(json, "\"link_mbit\":null"));
    CHECK(has(json, "\"bound_s\":null"));
    CHECK(has(json, "[5,null]"));
    CHECK(!has(json, "nan"));
    CHECK(!has(json, "inf"));
  }
  result.runs[0].answer_tokens.clear();
  result.runs[0].first_logits.clear();
  CHECK(has(to_json(result), "\"answer_tokens\":[]"));
  CHECK(has(to_json(result), "\"first_logits\":[]"));
}

TEST_CASE("an answer of any bytes is a JSON string") {
  CHECK(answer_of("a\"b\\c") == R"("a\"b\\c")");
  CHECK(answer_of(std::string("\0\n\x1f", 3)) == R"("\u0000\u000a\u001f")");
  CHECK(answer_of("\u00e9\u65e5\U0001f600") == "\"\u00e9\u65e5\U0001f600\"");
  const std::string no = "\xef\xbf\xbd";
  for (const char* bad : {"\xff", "\x80", "\xc0", "\xc1", "\xf5", "\xe6", "\xf0"}) {
    CHECK(answer_of(bad) == "\"" + no + "\"");
  }
  CHECK(answer_of("\xe6\x97") == "\"" + no + no + "\"");                    // cut
  CHECK(answer_of("\xc0\xaf") == "\"" + no + no + "\"");                    // a long form of '/'
  CHECK(answer_of("\xe0\x80\xaf") == "\"" + no + no + no + "\"");           // another
  CHECK(answer_of("\xed\xa0\x80") == "\"" + no + no + no + "\"");           // half of a pair
  CHECK(answer_of("\xf4\x90\x80\x80") == "\"" + no + no + no + no + "\"");  // beyond Unicode
  CHECK(answer_of("\xf0\x80\x80\xaf") == "\"" + no + no + no + no + "\"");  //
  CHECK(answer_of("\xe6"
                  "a") == "\"" + no + "a\"");
}

TEST_CASE("ratios that mean nothing are dashes") {
  QuickstartResult result;
  result.runs.push_back(run_of("compute", 2));
  result.runs.back().report.tokens_loaded = 0;
  result.runs.back().report.bound_s = 1;
  CHECK(has(table(result), "                    -          -\n"));
  result.runs.push_back(run_of("load", 3));
  result.runs.push_back(run_of("cake", 1.1));
  result.runs.back().report.bound_s = 1;
  const std::string text = table(result);
  CHECK(has(text, "1.00          -\n"));  // computing alone measures no link
  CHECK(has(text, "1.50          -\n"));  // no bound
  CHECK(has(text, "0.55       1.10\n"));
  for (const double bound : {2.0, std::nan(""), 0.0, -1.0}) {
    result.runs.back().report.bound_s = bound;
    CHECK(has(table(result), "0.55          -\n"));
    CHECK(has(to_json(result), "\"bound_s\":null"));
  }
}

TEST_CASE("results are written whole, through links, and devices are left what they are") {
  const TemporaryFolder folder;
  const auto read = [](const std::filesystem::path& path) {
    std::ifstream file(path);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  const auto file = folder.path() / "out.json";
  CHECK(check_writable(file).has_value());
  CHECK(write_file(file, "one").has_value());
  CHECK(read(file) == "one");
  const auto link = folder.path() / "link.json";
  std::filesystem::create_symlink(file, link);
  CHECK(check_writable(link).has_value());
  CHECK(write_file(link, "two").has_value());
  CHECK(std::filesystem::is_symlink(link));
  CHECK(read(file) == "two");
  CHECK(check_writable("/dev/null").has_value());
  CHECK(write_file("/dev/null", "three").has_value());
  CHECK(std::filesystem::is_character_file("/dev/null"));
  CHECK(!check_writable(folder.path()).has_value());
  CHECK(!check_writable(folder.path() / "no" / "out.json").has_value());
  CHECK(!write_file(folder.path() / "no" / "out.json", "x").has_value());
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 2);
}

TEST_CASE("wrong options are told with what was typed") {
  CHECK(has(wrong({"--mode", "both"}), "--mode takes compute, load, cake or all, not \"both\""));
  CHECK(has(wrong({"--mode=both"}), "not \"both\""));
  CHECK(has(wrong({"--modes", "x"}), "unknown option \"--modes\""));
  CHECK(has(wrong({"document.txt"}), "unexpected argument \"document.txt\""));
  CHECK(has(wrong({"--mode"}), "--mode takes a value"));
  CHECK(has(wrong({"--model", "--json", "x"}), "\"--json\" is an option"));
  CHECK(has(wrong({"--threads", "0"}), "1 to 1024, not \"0\""));
  CHECK(has(wrong({"--chunk-tokens", "8"}), "16 to 4096, not \"8\""));
  CHECK(has(wrong({"--link-mbit", "nan"}), "not \"nan\""));
  CHECK(has(wrong({"--device", "gpu"}), "cpu or cuda, not \"gpu\""));
  CHECK(has(wrong({"--question="}), "not empty"));
  CHECK(wrong({"--mode", std::string(5000, 'x')}).size() < 300);
  CHECK(has(wrong({"--json", "a", "--trace", "a"}), "--trace and --json both name \"a\""));
  CHECK(has(wrong({"--json", "a", "--model", "a"}), "\"a\", which is read"));
  CHECK(options({"--question=--json", "--link-mbit=2.5"}).value().question == "--json");
  CHECK(options({"--question=a=b"}).value().question == "a=b");
}
