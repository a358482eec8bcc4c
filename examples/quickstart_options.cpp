// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "quickstart_options.hpp"

#include <charconv>
#include <cmath>
#include <cstdlib>
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
         "it are recognised\n"
         "  --store DIR           where KV chunks are kept (default: ~/.cache/cake/store)\n"
         "  --link-mbit N         rate of the stood-in link to the store, megabits per second "
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

Error bad(std::string_view option, std::string_view takes) {
  return {Errc::invalid_argument, 0, std::string(option) + " takes " + std::string(takes)};
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

}  // namespace

Result<QuickstartOptions> parse_options(int argc, char** argv) {
  QuickstartOptions o;
  bool document_given = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view option = argv[i];
    if (option == "--help" || option == "-h") {
      o.help = true;
      return o;
    }
    static constexpr std::string_view known[] = {
        "--model",     "--document", "--question", "--prompt-file",    "--store",
        "--link-mbit", "--mode",     "--trace",    "--max-new-tokens", "--chunk-tokens",
        "--threads",   "--json",     "--device"};
    bool found = false;
    for (const std::string_view name : known) found = found || name == option;
    if (!found)
      return Error{Errc::invalid_argument, 0,
                   "unknown option " + std::string(option) + " (see --help)"};
    if (i + 1 == argc) return bad(option, "a value");
    const std::string_view value = argv[++i];
    if (value.empty()) return bad(option, "a value that is not empty");
    if (option == "--model") {
      o.model = value;
    } else if (option == "--document") {
      o.document = value;
      document_given = true;
    } else if (option == "--question") {
      o.question = value;
      document_given = true;
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
        return bad(option, "megabits per second, 0.001 to 1e9");
      }
      o.link_mbit = rate;
    } else if (option == "--max-new-tokens") {
      if (!number(value, 1u, 4096u, o.max_new_tokens))
        return bad(option, "a number from 1 to 4096");
    } else if (option == "--chunk-tokens") {
      if (!number(value, 16u, 4096u, o.chunk_tokens))
        return bad(option, "a number from 16 to 4096");
    } else if (option == "--threads") {
      if (!number(value, 1u, 1024u, o.threads)) return bad(option, "a number from 1 to 1024");
    } else if (option == "--device") {
      if (value != "cpu" && value != "cuda") return bad(option, "cpu or cuda");
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
      return bad(option, "compute, load, cake or all");
    }
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
  return o;
}

}  // namespace cake::examples
