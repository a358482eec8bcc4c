// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// cake_store: the command line, and what its commands have in common.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <exception>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <limits>
#include <string_view>

#include "cake/identity.hpp"
#include "cake/version.hpp"
#include "commands.hpp"

namespace cake::tools {

int refused(const Error& error) {
  std::fprintf(stderr, "cake_store: %s\n", without_secrets(error.message()).c_str());
  return error.code == Errc::invalid_argument ? kWrongUse : kFailed;
}

namespace {

constexpr const char* kAbout =
    "Looks at and looks after stores of cake's KV chunks.\n"
    "\n"
    "STORE is a directory, s3://BUCKET[/PREFIX], or redis://[USER:PASSWORD@]HOST[:PORT][/PREFIX]\n"
    "(rediss:// with TLS). A bucket's credentials, region and endpoint come from "
    "AWS_ACCESS_KEY_ID,\n"
    "AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL and AWS_CA_BUNDLE; "
    "the\n"
    "password of Redis may come from REDISCLI_AUTH, so that no list of processes shows it.\n"
    "\n"
    "Only objects of cake are read, copied or erased. Other files, symbolic links, and files that\n"
    "belong to another user or that others may write (unless --trust-directory) are left alone, "
    "and\n"
    "counted as other entries.";

constexpr const char* kExits =
    "Exit status: 0 all is good; 1 damage was found, or something failed; 2 wrong use.";

constexpr const char* kObjects =
    "An object says of which model (a fingerprint, 64 hex digits), of which tenant (a tag of the\n"
    "salt, 32 hex digits) and of which tokens it is. It says neither the model's name nor the "
    "salt:\n"
    "a model's fingerprint is what fingerprint().hex() of its engine prints. Of a damaged header\n"
    "nothing is known: only --key and --everything reach such an object.";

constexpr const char* kList =
    "Each line: key, bytes, last use in UTC (of a bucket: written), position and number of its\n"
    "tokens, model, tenant.";

constexpr const char* kMetrics =
    "The text format of Prometheus, for the textfile collector of its node exporter, say. What a\n"
    "process has read, written and evicted only that process knows: cake::Metrics tells it.";

constexpr const char* kVerify =
    "Checks header, tables, each block of KV and footer against each other and against the key.\n"
    "Whether an object is the one that a prompt needs only an engine can tell. Of a directory no\n"
    "object becomes younger by being verified.";

constexpr const char* kTrim =
    "The order is that in which the store itself evicts: what was used longest ago goes first, by\n"
    "classes of age that double from a minute on, and of one class the front of prompts goes "
    "first.\n"
    "Buckets and Redis evict by rules of their own, and are refused.";

constexpr const char* kCopy =
    "Each object is verified before it is written; damaged ones are named and not copied. What "
    "the\n"
    "target has is skipped, so that a copy that was broken off goes on where it was.";

constexpr const char* kBench =
    "The objects are of a model of their own, which --json tells. What a killed run left is "
    "evicted\n"
    "by age, or erased by that model.";

/// Reads what a tenant's salt is, and makes it the filter. One newline at the end does not belong to
/// it.
Status use_salt(const std::string& file, Filter& filter) {
  if (file.empty()) return {};
  std::string salt;
  if (file == "-") {
    salt.assign(std::istreambuf_iterator<char>(std::cin), {});
  } else {
    std::ifstream in(file, std::ios::binary);
    salt.assign(std::istreambuf_iterator<char>(in), {});
    if (!in) {
      return Error{Errc::invalid_argument, 0,
                   "--salt-file " + file +
                       ": it cannot be read; name a file that holds the salt, or - "
                       "for the standard input"};
    }
  }
  if (salt.ends_with('\n')) salt.pop_back();
  filter.tenant = tenant_hex(tenant_tag(salt));
  return {};
}

Status check_filter(Filter& filter) {
  for (const auto& [text, most, name] : {std::tuple{&filter.model, std::size_t{64}, "--model"},
                                         std::tuple{&filter.tenant, std::size_t{32}, "--tenant"}}) {
    if (text->empty() || checked_digits(*text, most)) continue;
    return Error{Errc::invalid_argument, 0,
                 std::string(name) + " takes 8 to " + std::to_string(most) +
                     " hex digits (cake_store stats shows them), and not \"" + *text + "\""};
  }
  return {};
}

/// Makes a number of bytes of "20GB" or "20GiB". Returns what is wrong; "": nothing is.
std::string read_size(std::string& text) {
  constexpr std::uint64_t kThousand = 1000, kKi = 1024;
  constexpr std::string_view kUnits = "kMGTP";
  std::uint64_t size = 0;
  const auto [rest, code] = std::from_chars(text.data(), text.data() + text.size(), size);
  std::string_view unit(rest, static_cast<std::size_t>(text.data() + text.size() - rest));
  bool good = code == std::errc();
  if (unit.ends_with('B')) unit.remove_suffix(1);
  const bool binary = unit.ends_with('i');
  if (binary) unit.remove_suffix(1);
  if (unit == "K") unit = "k";
  const std::size_t power = unit.empty() ? 0 : kUnits.find(unit) + 1;
  good = good && unit.size() <= 1 && (unit.empty() ? !binary : power != 0);
  for (std::size_t i = 0; good && i < power; ++i) {
    good = size <= std::numeric_limits<std::uint64_t>::max() / kKi;
    size *= binary ? kKi : kThousand;
  }
  if (!good) return "\"" + text + "\" is no size; 500000, 20GB and 20GiB are";
  text = std::to_string(size);
  return {};
}

/// The command line of one run.
class Line {
 public:
  Line() {
    app_.footer(std::string(kExits) + "\n\n" + kObjects);
    app_.require_subcommand(1);
    app_.set_version_flag("--version", std::to_string(CAKE_VERSION_MAJOR) + "." +
                                           std::to_string(CAKE_VERSION_MINOR) + "." +
                                           std::to_string(CAKE_VERSION_PATCH));
    add_looks();
    add_changes();
    add_copy();
    add_bench();
  }
  int run(int argc, char** argv) {
    if (argc > 1 && argv[1][0] != '-' && !is_command(argv[1])) {
      return refused(
          {Errc::invalid_argument, 0,
           "there is no command \"" + std::string(argv[1]) + "\"; cake_store --help names them"});
    }
    try {
      app_.parse(argc, argv);
    } catch (const CLI::ParseError& e) {
      if (e.get_exit_code() == 0) return app_.exit(e);
      std::fprintf(stderr, "cake_store: %s\nRun cake_store --help for more information.\n",
                   without_secrets(e.what()).c_str());
      return kWrongUse;
    }
    Status status = use_salt(salt_file_, settings_.filter);
    if (status) status = check_filter(settings_.filter);
    return status ? command_(settings_) : refused(status.error());
  }

 private:
  using Command = int (*)(const Settings&);

  bool is_command(const std::string& name) const {
    const auto all = app_.get_subcommands([](const CLI::App*) { return true; });
    return std::any_of(all.begin(), all.end(),
                       [&](const CLI::App* each) { return each->get_name() == name; });
  }
  /// `more`: what its own help says besides.
  CLI::App* add(const char* name, const char* about, const char* more, Command command) {
    CLI::App* const sub = app_.add_subcommand(name, about);
    sub->add_option("STORE", settings_.store, "directory, s3://... or redis://...")->required();
    sub->add_flag("--json", settings_.json,
                  "print one JSON object; docs/cake_store.md has its members");
    sub->add_flag("--trust-directory", settings_.trust_directory,
                  "take a directory and files whoever owns or may write them");
    sub->add_option("--workers", settings_.workers, "threads; each holds one object in memory")
        ->check(CLI::Range(1, 256))
        ->capture_default_str();
    sub->footer(std::string(more) + "\n\n" + kExits);
    sub->callback([this, command] { command_ = command; });
    return sub;
  }
  void add_filter(CLI::App* sub) {
    sub->add_option(
        "--model", settings_.filter.model,
        "only objects of the model whose fingerprint begins with these hex digits, 8 or more");
    auto* const tenant =
        sub->add_option("--tenant", settings_.filter.tenant,
                        "only objects whose tenant tag begins with these hex digits, 8 or "
                        "more");
    sub->add_option(
           "--salt-file", salt_file_,
           "only objects of the tenant whose salt this file holds; - reads it from the standard "
           "input. One newline at its end does not count")
        ->excludes(tenant);
  }
  void add_looks() {
    auto* const list_of =
        add("list", "Prints each object, its tokens, model and tenant", kList, list);
    list_of->add_flag("--names-only", settings_.names_only,
                      "read no headers: key, bytes and last use alone");
    add_filter(list_of);
    add_filter(
        add("stats", "Counts objects, bytes and tokens, by model and tenant", kObjects, stats));
    auto* const gauges =
        add("metrics", "Prints what stats counts as Prometheus reads it", kMetrics, metrics);
    gauges->remove_option(gauges->get_option("--json"));
    add_filter(gauges);
    auto* const check =
        add("verify", "Reads objects and checks every byte of them", kVerify, verify);
    check->add_option("--sample", settings_.sample,
                      "only so many objects, or such a share (5%), chosen at random");
    check->add_option("--seed", settings_.seed,
                      "of the choice, for the same one again; --json tells it");
    add_filter(check);
  }
  void add_changes() {
    auto* const down = add(
        "trim", "Erases what is oldest until a directory is no larger than a size", kTrim, trim);
    down->add_option("--to", settings_.bytes,
                     "bytes to keep: 500000, 20GB (x 10^9), 20GiB (x 2^30)")
        ->required()
        ->transform(CLI::Validator(read_size, "SIZE"));
    auto* const gone =
        add("erase", "Erases objects by key, model or tenant, or all of them", kObjects, erase);
    gone->add_option("--key", settings_.keys,
                     "the object of this key, 64 hex digits; may be repeated");
    gone->add_flag("--everything", settings_.everything, "all objects of the store");
    gone->add_flag("--dry-run", settings_.dry_run, "erase nothing, and say what would be");
    add_filter(gone);
  }
  void add_copy() {
    auto* const sub = add("copy", "Copies objects into another store", kCopy, copy);
    sub->add_option("TARGET", settings_.target, "store to copy into; a directory is made")
        ->required();
    add_filter(sub);
  }
  void add_bench() {
    auto* const sub =
        add("bench", "Writes and reads objects of its own, and prints rates", kBench, bench);
    sub->add_option("--objects", settings_.bench_objects, "how many; all are held in memory")
        ->check(CLI::Range(1, 1 << 16))
        ->capture_default_str();
    sub->add_option("--bytes", settings_.bench_bytes, "of one object: 4MiB")
        ->transform(CLI::Validator(read_size, "SIZE"))
        ->capture_default_str();
    sub->add_option("--reads", settings_.read_percent,
                    "percent of operations that read; the others write")
        ->check(CLI::Range(0, 100))
        ->capture_default_str();
    sub->add_option("--seconds", settings_.seconds, "after all objects were written once")
        ->check(CLI::Range(0.0, 86400.0))
        ->capture_default_str();
  }

  CLI::App app_{kAbout, "cake_store"};
  Settings settings_;
  std::string salt_file_;
  Command command_ = nullptr;
};

}  // namespace
}  // namespace cake::tools

int main(int argc, char** argv) try {
  return cake::tools::Line().run(argc, argv);
} catch (const std::bad_alloc&) {
  std::fputs("cake_store: no memory left; lower --workers\n", stderr);
  return cake::tools::kFailed;
} catch (const std::exception& e) {
  std::fprintf(stderr, "cake_store: %s\n", cake::tools::without_secrets(e.what()).c_str());
  return cake::tools::kFailed;
}
