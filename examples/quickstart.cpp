// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// A real language model answers a question about a long document three ways: KV computed, KV loaded
// from a store behind a link, and both at once. The answer is the same; the time to first token is
// not. The model runs on the CPU, or on a GPU where the build and the machine have one.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "cake/cake.hpp"
#include "cake/reference/cpu_backend.hpp"
#include "cake/storage/throttled.hpp"
#include "quickstart_engines.hpp"
#include "quickstart_options.hpp"
#include "quickstart_output.hpp"
#include "quickstart_stores.hpp"
#include "tokenizer.hpp"

namespace {

using namespace cake;
using namespace cake::examples;

constexpr int kFailed = 1;
constexpr int kWrongUse = 2;
constexpr std::array<std::uint32_t, 4> kMeasured = {64, 256, 512, 128};  // passes, in tokens
constexpr float kRounding = 0.5f;  // of a logit in bf16, between ways to compute the same KV

Result<std::string> read_text(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    return Error{Errc::invalid_argument, 0, path.string() + " is a directory; name a text file"};
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) return errno_error(errno, "cannot read " + path.string());
  return std::string(std::istreambuf_iterator<char>(file), {});
}

void progress(const std::string& what) {
  static const bool terminal = isatty(STDERR_FILENO) == 1;
  if (terminal) {
    std::fprintf(stderr, "\r\033[K%s", what.empty() ? "" : (what + " ...").c_str());
  } else if (!what.empty()) {
    std::fprintf(stderr, "%s ...\n", what.c_str());
  }
  std::fflush(stderr);
}

int complain(const Status& status, int code) {
  progress("");
  std::fprintf(stderr, "quickstart: %s\n", status.error().message().c_str());
  return code;
}

template <class On, class In>
class Quickstart {
  using Engine = typename On::Engine;

 public:
  explicit Quickstart(QuickstartOptions options) : options_(std::move(options)) {}

  /// Everything that can be wrong with the command line is found here, before anything is written.
  Status prepare() {
    for (const auto& file : {options_.trace, options_.json}) {
      if (!file) continue;
      if (Status status = check_writable(*file); !status) return status;
    }
    std::error_code error;
    if (!std::filesystem::exists(options_.model, error)) {
      return Error{Errc::not_found, 0,
                   "model " + options_.model.string() +
                       " (bash examples/run.sh fetches one; or --model FILE)"};
    }
    progress("reading " + options_.model.filename().string());
    const auto file = reference::GgufFile::open(options_.model);
    if (!file) return file.error();
    const auto config = reference::read_config(*file);
    if (!config) return config.error();
    auto tokenizer = Tokenizer::load(*file);
    if (!tokenizer) return tokenizer.error();
    if (Status status = make_prompt(*tokenizer); !status) return status;
    const std::size_t room = config->n_context;
    if (result_.prompt_tokens.size() + options_.max_new_tokens > room) {
      return Error{Errc::invalid_argument, 0,
                   "the prompt has " + std::to_string(result_.prompt_tokens.size()) +
                       " tokens and the answer up to " + std::to_string(options_.max_new_tokens) +
                       ", but the model's context is " + std::to_string(room) +
                       " tokens: shorten the document"};
    }
    auto weights = reference::Weights::load(*file);
    if (!weights) return weights.error();
    tokenizer_ = std::make_unique<Tokenizer>(std::move(*tokenizer));
    auto engine = On::make(*weights, options_, step_sizes());
    if (!engine) return engine.error();
    engine_ = std::move(*engine);
    cost_ = guess_cost(*config, On::kFlops);
    return open_store();
  }

  int run() {
    result_.chunk_tokens = options_.chunk_tokens;
    result_.device = On::kName;
    std::printf("prompt: %zu tokens; model: %s on %s\n", result_.prompt_tokens.size(),
                engine_->config().name.c_str(), On::describe(*engine_).c_str());
    Status status = n_chunks() > 0 ? save_prompt() : Status();
    if (status) status = run_modes();
    if (!status) return complain(status, kFailed);
    progress("");
    show();
    const PrefillReport& last = result_.runs.back().report;
    if (options_.trace) status = write_file(*options_.trace, last.chrome_trace());
    if (status && options_.json) status = write_file(*options_.json, to_json(result_));
    if (!status) return complain(status, kFailed);
    if (result_.same_answers()) return 0;
    if (!On::kExact && result_.same_first_tokens(kRounding)) {
      std::printf("(the answers part somewhere: in bf16, rounding depends on the size of steps)\n");
      return 0;
    }
    std::fprintf(stderr, "quickstart: the answers differ\n");
    return kFailed;
  }

 private:
  Status run_modes() {
    if (n_chunks() == 0) {
      std::printf("the prompt is shorter than a chunk of %u tokens: nothing to store or load\n",
                  options_.chunk_tokens);
      return run_mode("compute", ComputeOnlyScheduler());
    }
    const bool all = options_.mode == Mode::all;
    Status status;
    if (all || options_.mode == Mode::compute) status = run_mode("compute", ComputeOnlyScheduler());
    if (options_.mode != Mode::compute) choose_link();
    if (status && (all || options_.mode == Mode::load))
      status = run_mode("load", LoadOnlyScheduler());
    if (status && (all || options_.mode == Mode::cake)) {
      status = run_mode("cake", MeetInTheMiddleScheduler({.cost = cost_}));
    }
    return status;
  }

  /// Whole chunks of the prompt.
  std::uint32_t n_chunks() const {
    return static_cast<std::uint32_t>(result_.prompt_tokens.size()) / options_.chunk_tokens;
  }

  Status make_prompt(const Tokenizer& tokenizer) {
    std::string prompt;
    if (options_.prompt_file) {
      auto text = read_text(*options_.prompt_file);
      if (!text) return text.error();
      prompt = std::move(*text);
      result_.prompt_tokens = tokenizer.encode(prompt);
    } else {
      auto text = read_text(options_.document);
      if (!text) return text.error();
      prompt = *text + "\n\n" + options_.question;
      auto tokens = tokenizer.encode_chat(prompt);
      if (!tokens) return tokens.error();
      result_.prompt_tokens = std::move(*tokens);
    }
    if (const std::size_t unknown = tokenizer.unknown_bytes(prompt); unknown > 0) {
      progress("");
      std::fprintf(stderr,
                   "quickstart: the model has no token for %zu bytes of the text; they are left "
                   "out\n",
                   unknown);
    }
    if (result_.prompt_tokens.empty())
      return Error{Errc::invalid_argument, 0, "the prompt is empty"};
    return {};
  }

  Status open_store() {
    auto store = In::open(options_.store);
    if (!store) return store.error();
    store_ = std::move(*store);
    return {};
  }

  LoaderOptions loader_options() const {
    LoaderOptions options;
    options.chunks.chunk_tokens = options_.chunk_tokens;
    options.session.max_step_tokens = std::max(512u, options_.chunk_tokens);
    return options;
  }

  std::vector<ChunkKey> chunk_keys() const {
    const ChunkKey root =
        root_key(engine_->fingerprint(), engine_->layout(), options_.chunk_tokens, {});
    return prefix_chain(root, result_.prompt_tokens, options_.chunk_tokens);
  }

  /// Computes the prompt once and stores it, unless it is stored already. Either way the engine's
  /// speed is known then.
  Status save_prompt() {
    const Tokens prompt = result_.prompt_tokens;
    Loader loader(*engine_, *store_, loader_options(), MeetInTheMiddleScheduler({.cost = cost_}));
    const auto keys = chunk_keys();
    const auto stored = store_->lookup(keys);
    if (!stored) return stored.error();
    const auto missing = static_cast<std::size_t>(std::count_if(
        stored->begin(), stored->end(), [](const StoredChunk& c) { return !c.stored(); }));
    std::printf("store: %s, %zu of %zu chunks of %u tokens are there\n",
                shown(options_.store).c_str(), keys.size() - missing, keys.size(),
                options_.chunk_tokens);
    if (missing > 0) {
      progress("computing the prompt once and saving it");
      engine_->clear();
      const PrefillReport report = loader.prefill(prompt);
      if (!report.status) return report.status;
      const SaveReport saved = loader.save(prompt);
      if (!saved.status) return saved.status;
      progress("");
      std::printf("saved %u chunks, %.1f MB\n", saved.written,
                  static_cast<double>(saved.bytes) / 1e6);
    }
    return measure();
  }

  /// Sizes of the passes to come, in ascending order: an engine may have to get ready for each.
  std::vector<std::uint32_t> step_sizes() const {
    const std::uint32_t most = loader_options().session.max_step_tokens;
    const std::uint32_t chunk = options_.chunk_tokens;
    const auto n = static_cast<std::uint32_t>(result_.prompt_tokens.size());
    const std::uint32_t suffix = (n - 1) % chunk + 1;
    std::vector<std::uint32_t> sizes(kMeasured.begin(), kMeasured.end());
    sizes.insert(sizes.end(), {1, suffix, std::min(n, most), (n - 1) % most + 1});
    for (std::uint32_t m = chunk; m <= most; m += chunk) sizes.insert(sizes.end(), {m, m + suffix});
    std::sort(sizes.begin(), sizes.end());
    sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
    while (sizes.back() > most) sizes.pop_back();
    return sizes;
  }

  /// Some short passes, so that the cost model starts from this machine and not from a guess.
  Status measure() {
    progress("measuring the engine");
    ComputeCostEstimator model(cost_);
    const auto n = static_cast<std::uint32_t>(result_.prompt_tokens.size());
    engine_->clear();
    std::uint32_t begin = 0;
    for (const std::uint32_t tokens : kMeasured) {
      const std::uint32_t end = std::min(n, begin + tokens);
      if (end == begin) break;
      const auto start = std::chrono::steady_clock::now();
      if (Status status = await_completion(engine_->prefill(result_.prompt_tokens, {begin, end}));
          !status)
        return status;
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      model.observe({begin, end}, took.count());
      begin = end;
    }
    cost_ = model.current();
    return {};
  }

  /// Loading everything takes as long as computing everything took: there both at once gain most.
  /// No link makes the store itself faster, though.
  void choose_link() {
    const std::uint32_t prefix = n_chunks() * options_.chunk_tokens;
    const double bytes = static_cast<double>(engine_->layout().bytes_per_token()) * prefix;
    const ModeRun* compute = result_.find("compute");
    const double seconds = compute != nullptr
                               ? PrefillReport::seconds_of(compute->report.ttft)
                               : cost_.passes(0, prefix, loader_options().session.max_step_tokens);
    const char* why = compute != nullptr ? "loading all takes as long as computing all just took"
                                         : "near the crossover of computing and loading";
    double mbit = bytes * 8 / 1e6 / seconds;
    if (const double most = store_bytes_per_second() * 8 / 1e6; most > 0 && most < mbit) {
      mbit = most;
      why = "what the store gives; computing is faster than that on this machine";
    }
    if (options_.link_mbit) why = "as asked for";
    result_.link_mbit = options_.link_mbit.value_or(std::max(1.0, std::round(mbit)));
    progress("");
    std::printf("link to the store: simulated, at %.0f Mbit/s (%s)\n", result_.link_mbit, why);
  }

  /// Of some chunks read one after the other; 0: not known.
  double store_bytes_per_second() {
    const auto keys = chunk_keys();
    const auto stored = store_->lookup(keys);
    if (!stored) return 0;
    double bytes = 0;
    double best = 1e9;  // seconds of a chunk
    for (std::size_t i = 0; i < keys.size() && i < 6; ++i) {
      AlignedBuffer object((*stored)[i].size);
      const auto start = std::chrono::steady_clock::now();
      if (object.size() == 0 || !await_completion(store_->read(0, keys[i], 0, object.bytes())))
        continue;
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      bytes = static_cast<double>(object.size());
      best = std::min(best, took.count());
    }
    return bytes / best;
  }

  template <Scheduler Sch>
  Status run_mode(const std::string& mode, Sch scheduler) {
    progress("mode " + mode);
    engine_->clear();
    LinkOptions through;
    LoaderOptions options = loader_options();
    if (result_.link_mbit > 0) {
      through.bytes_per_second = result_.link_mbit * 1e6 / 8;
      // What an engine knows that has used the link before.
      LinkEstimate known = Calibration::kUnknownTier;
      known.bytes_per_second = through.bytes_per_second;
      options.lanes.calibration = std::make_shared<Calibration>(known);
    }
    ThrottledStorage link(*store_, through);
    Loader loader(*engine_, link, options, std::move(scheduler));
    ModeRun run;
    run.mode = mode;
    run.report = loader.prefill(result_.prompt_tokens);
    if (!run.report.status) return run.report.status;
    if (!std::all_of(engine_->logits().begin(), engine_->logits().end(),
                     [](float logit) { return std::isfinite(logit); })) {
      return Error{Errc::corrupt, 0,
                   options_.model.string() + ": the model's answer is no number (NaN or infinite)"};
    }
    run.first_logits = largest(engine_->logits(), 10);
    for (TokenId token = engine_->argmax();; token = engine_->argmax()) {
      run.answer_tokens.push_back(token);
      if (tokenizer_->ends_answer(token) || run.answer_tokens.size() >= options_.max_new_tokens)
        break;
      if (Status status = engine_->decode(token); !status) return status;
    }
    run.answer = tokenizer_->decode(run.answer_tokens);
    result_.runs.push_back(std::move(run));
    return {};
  }

  static std::vector<std::pair<TokenId, float>> largest(std::span<const float> logits,
                                                        std::size_t count) {
    std::vector<std::pair<TokenId, float>> all(logits.size());
    for (std::size_t i = 0; i < logits.size(); ++i) all[i] = {static_cast<TokenId>(i), logits[i]};
    count = std::min(count, all.size());
    std::partial_sort(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(count), all.end(),
                      [](const auto& a, const auto& b) { return a.second > b.second; });
    all.resize(count);
    return all;
  }

  void show() const {
    std::printf("\n%s\n", table(result_).c_str());
    for (const ModeRun& run : result_.runs) {
      std::printf("%s\n%s\n", run.mode.c_str(), run.report.timeline(72).c_str());
    }
    std::printf("answer%s:\n%s\n",
                result_.runs.size() > 1 && result_.same_answers() ? " (the same in all modes)" : "",
                result_.runs.front().answer.c_str());
  }

  QuickstartOptions options_;
  QuickstartResult result_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<typename In::Store> store_;
  ComputeCost cost_;
};

template <class On, class In>
int quickstart(const QuickstartOptions& options) {
  Quickstart<On, In> program(options);
  if (const Status ready = program.prepare(); !ready) return complain(ready, kWrongUse);
  return program.run();
}

template <class On>
int quickstart(const QuickstartOptions& options) {
  // Addresses that the build has no store for were refused by check_store().
#ifdef CAKE_EXAMPLE_S3
  if (is_bucket(options.store)) return quickstart<On, InBucket>(options);
#endif
#ifdef CAKE_EXAMPLE_REDIS
  if (is_redis(options.store)) return quickstart<On, InRedis>(options);
#endif
  return quickstart<On, InFolder>(options);
}

}  // namespace

int main(int argc, char** argv) {
  const auto options = parse_options(argc, argv);
  if (!options) {
    std::fprintf(stderr, "quickstart: %s\nrun it with --help for all options\n",
                 options.error().context.c_str());
    return kWrongUse;
  }
  if (options->help) {
    std::fputs(quickstart_usage(), stdout);
    return 0;
  }
  if (const Status device = check_device(options->device); !device)
    return complain(device, kWrongUse);
  if (const Status store = check_store(options->store); !store) return complain(store, kWrongUse);
  try {
#ifdef CAKE_EXAMPLE_CUDA
    if (options->device == Device::cuda) return quickstart<OnCuda>(*options);
#endif
    return quickstart<OnCpu>(*options);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "quickstart: %s\n", e.what());
    return kFailed;
  }
}
