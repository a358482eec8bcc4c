// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "quickstart_options.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <iterator>
#include <string_view>

namespace cake::examples {

std::filesystem::path cache_folder() {
  if (const char* own = std::getenv("CAKE_CACHE"); own != nullptr && *own != '\0') return own;
  if (const char* xdg = std::getenv("XDG_CACHE_HOME"); xdg != nullptr && *xdg != '\0') {
    return std::filesystem::path(xdg) / "cake";
  }
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home != nullptr && *home != '\0' ? home : ".") / ".cache" / "cake";
}

const char* quickstart_usage() {
  return "usage: quickstart [options]\n"
         "Answers a question about a document three ways: KV computed, KV loaded, and both at "
         "once.\n"
         "  --model FILE          Llama model in GGUF format (default: the one that "
         "examples/run.sh fetched)\n"
         "  --document FILE       text to ask about (default: the Apache-2.0 licence in "
         "/usr/share/common-licenses)\n"
         "  --question TEXT       what to ask (default: What does each Contributor grant?)\n"
         "  --prompt-file FILE    a raw prompt instead, without chat template; special tokens in "
         "it are recognised there, and only there\n"
         "  --store DIR           where KV chunks are kept (default: ~/.cache/cake/store); or "
         "s3://BUCKET/PREFIX, with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and "
         "AWS_ENDPOINT_URL; or redis://[USER:PASSWORD@]HOST:PORT/PREFIX, or rediss:// with TLS\n"
         "  --link-mbit N         rate of the simulated link to the store, megabits per second "
         "(default: near the crossover)\n"
         "  --mode M              compute, load, cake or all (default: all)\n"
         "  --max-new-tokens N    most tokens of the answer, 1 to 4096 (default: 64)\n"
         "  --chunk-tokens N      tokens of a chunk, 16 to 4096 (default: 128)\n"
         "  --device D            cpu or cuda: where the model runs (default: cpu)\n"
         "  --threads N           threads that compute on the cpu (default: one per core)\n"
         "  --trace FILE          write a trace for ui.perfetto.dev (of the last mode)\n"
         "  --json FILE           write all results as one JSON object\n"
         "  --help                this text\n";
}

namespace {

/// What was typed, for a message.
std::string typed(std::string_view text) {
  constexpr std::size_t kMost = 80;
  std::string out = "\"";
  out += text.substr(0, kMost);
  out += text.size() > kMost ? "...\"" : "\"";
  return out;
}

Error bad(std::string_view option, std::string_view takes, std::string_view value) {
  return {Errc::invalid_argument, 0,
          std::string(option) + " takes " + std::string(takes) + ", not " + typed(value)};
}

constexpr std::string_view kOptions[] = {
    "--model",     "--document", "--question", "--prompt-file",    "--store",
    "--link-mbit", "--mode",     "--trace",    "--max-new-tokens", "--chunk-tokens",
    "--threads",   "--json",     "--device"};

bool is_option(std::string_view text) {
  return std::find(std::begin(kOptions), std::end(kOptions), text) != std::end(kOptions);
}

template <class T>
bool number(std::string_view text, T low, T high, T& out) {
  T value{};
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc() || end != text.data() + text.size() || !(value >= low && value <= high))
    return false;
  out = value;
  return true;
}

/// One option, known and with a value.
///
/// Errors:  invalid_argument, saying what it takes and what was typed
Status set(QuickstartOptions& o, std::string_view option, std::string_view value) {
  if (option == "--model") {
    o.model = value;
  } else if (option == "--document") {
    o.document = value;
  } else if (option == "--question") {
    o.question = value;
  } else if (option == "--prompt-file") {
    o.prompt_file = value;
  } else if (option == "--store") {
    o.store = value;
  } else if (option == "--trace") {
    o.trace = value;
  } else if (option == "--json") {
    o.json = value;
  } else if (option == "--link-mbit") {
    double rate = 0;
    if (!number(value, 0.001, 1e9, rate) || !std::isfinite(rate)) {
      return bad(option, "megabits per second, 0.001 to 1e9", value);
    }
    o.link_mbit = rate;
  } else if (option == "--max-new-tokens") {
    if (!number(value, 1u, 4096u, o.max_new_tokens))
      return bad(option, "a number from 1 to 4096", value);
  } else if (option == "--chunk-tokens") {
    if (!number(value, 16u, 4096u, o.chunk_tokens))
      return bad(option, "a number from 16 to 4096", value);
  } else if (option == "--threads") {
    if (!number(value, 1u, 1024u, o.threads)) return bad(option, "a number from 1 to 1024", value);
  } else if (option == "--device") {
    if (value != "cpu" && value != "cuda") return bad(option, "cpu or cuda", value);
    o.device = value == "cpu" ? Device::cpu : Device::cuda;
  } else if (value == "compute") {
    o.mode = Mode::compute;
  } else if (value == "load") {
    o.mode = Mode::load;
  } else if (value == "cake") {
    o.mode = Mode::cake;
  } else if (value == "all") {
    o.mode = Mode::all;
  } else {
    return bad(option, "compute, load, cake or all", value);
  }
  return {};
}

/// Writing one file over another one that is needed, or over the other output.
Status check_outputs(const QuickstartOptions& o) {
  const auto same = [](const std::filesystem::path& a, const std::filesystem::path& b) {
    std::error_code error;
    return a == b || std::filesystem::equivalent(a, b, error);
  };
  if (o.trace && o.json && same(*o.trace, *o.json)) {
    return Error{Errc::invalid_argument, 0,
                 "--trace and --json both name " + typed(o.json->native()) + "; give two files"};
  }
  for (const auto& output : {o.trace, o.json}) {
    if (!output) continue;
    for (const auto& input : {o.model, o.prompt_file.value_or(o.document)}) {
      if (!same(*output, input)) continue;
      return Error{Errc::invalid_argument, 0,
                   "results would be written over " + typed(input.native()) +
                       ", which is read; give another file"};
    }
  }
  return {};
}

}  // namespace

Result<QuickstartOptions> parse_options(int argc, char** argv) {
  QuickstartOptions o;
  bool document_given = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    const std::size_t equals =
        argument.starts_with("--") ? argument.find('=') : std::string_view::npos;
    const std::string_view option = argument.substr(0, equals);
    if (option == "--help" || option == "-h") {
      o.help = true;
      return o;
    }
    if (!is_option(option)) {
      return Error{
          Errc::invalid_argument, 0,
          (option.starts_with('-') ? "unknown option " : "unexpected argument ") + typed(argument)};
    }
    std::string_view value;
    if (equals != std::string_view::npos) {
      value = argument.substr(equals + 1);
    } else if (i + 1 == argc || is_option(argv[i + 1])) {
      return Error{Errc::invalid_argument, 0,
                   std::string(option) + " takes a value" +
                       (i + 1 == argc ? "" : ", and " + typed(argv[i + 1]) + " is an option")};
    } else {
      value = argv[++i];
    }
    if (value.empty()) return bad(option, "a value that is not empty", value);
    if (Status status = set(o, option, value); !status) return status.error();
    document_given = document_given || option == "--document" || option == "--question";
  }
  if (o.prompt_file && document_given) {
    return Error{Errc::invalid_argument, 0,
                 "--prompt-file replaces --document and --question: give one or the other"};
  }
  if (o.device == Device::cuda && o.threads != 0) {
    return Error{Errc::invalid_argument, 0, "--threads goes with --device cpu"};
  }
  if (o.model.empty()) o.model = cache_folder() / "SmolLM2-135M-Instruct.Q4_1.gguf";
  if (o.store.empty()) o.store = cache_folder() / "store";
  if (Status status = check_outputs(o); !status) return status.error();
  return o;
}

}  // namespace cake::examples
