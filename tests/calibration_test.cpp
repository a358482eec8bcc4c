// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/calibration.hpp"

#include <fstream>
#include <iterator>
#include <span>
#include <string>

#include "cake/chunk/digest.hpp"
#include "cake/loader.hpp"
#include "cake/scheduler/baselines.hpp"
#include "cake/storage/memory.hpp"
#include "catch.hpp"
#include "storage/helpers.hpp"
#include "toy_engine.hpp"

using namespace cake;
using namespace std::chrono_literals;
using testing::toy_prompt;
using testing::ToyEngine;

namespace {

constexpr std::uint32_t kTokens = 1024;

ModelFingerprint model_of(const std::string& name) {
  return FingerprintBuilder().add("model", name).finish();
}

/// One session: begins with what is known, and makes `n` passes.
void session(Calibration& calibration, const ModelFingerprint& model, int n, double per_token) {
  ComputeCostEstimator compute = calibration.compute(model).value_or(ComputeCostEstimator());
  for (std::uint32_t i = 0; i < static_cast<std::uint32_t>(n); ++i) {
    compute.observe({128 * i, 128 * (i + 1)}, 128 * per_token);
  }
  calibration.learn(model, compute);
}

double pass(const Calibration& calibration, const ModelFingerprint& model) {
  const auto known = calibration.compute(model);
  return known ? known->current().pass(0, 128) : -1;
}

/// A calibration that has seen two models and a tier.
void fill(Calibration& calibration) {
  REQUIRE(calibration.use(2).has_value());
  session(calibration, model_of("one"), 7, 1e-4 / 3);
  session(calibration, model_of("two"), 20, 2e-3);
  LinkEstimator lane(calibration.tiers()[1]);
  for (std::uint64_t i = 1; i <= 9; ++i) {
    lane.issue(i, 0, 1'000'003, i * 1ms);
    lane.landed(i, true, i * 1ms + 700us);
  }
  calibration.learn(1, lane, 10ms);
}

std::string read(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

void write(const std::filesystem::path& file, const std::string& text) {
  std::ofstream(file, std::ios::binary) << text;
}

Errc load_of(const std::filesystem::path& file, const std::string& text) {
  write(file, text);
  const auto loaded = Calibration::load(file);
  return loaded ? Errc::ok : loaded.error().code;
}

}  // namespace

TEST_CASE("a second session starts from what the first has measured") {
  ToyEngine engine(kTokens, {.per_token = 20us});
  MemoryStorage storage;
  const auto calibration = std::make_shared<Calibration>();
  const auto prompt = toy_prompt(kTokens);
  {
    Loader loader(engine, storage,
                  {.chunks = {.chunk_tokens = 64}, .lanes = {.calibration = calibration}});
    REQUIRE(loader.prefill(prompt).status.has_value());
    REQUIRE(loader.save(prompt).status.has_value());
    CHECK(loader.lanes().calibration() == calibration);
  }
  const auto known = calibration->compute(engine.fingerprint());
  REQUIRE(known.has_value());
  CHECK(known->current().pass(0, 512) > 5e-3);  // 10 ms, where 26 ms were guessed
  ToyEngine other(kTokens);
  Loader loader(other, storage,
                {.chunks = {.chunk_tokens = 64}, .lanes = {.calibration = calibration}},
                LoadOnlyScheduler());
  REQUIRE(loader.prefill(prompt).tokens_loaded > 0);
  CHECK(loader.lanes().rates()[0].measured > 0);
}

TEST_CASE("sessions that run at once do not lose each other's passes") {
  const ModelFingerprint model = model_of("one");
  Calibration calibration;
  session(calibration, model, 4, 1e-3);
  auto first = *calibration.compute(model);
  auto second = *calibration.compute(model);
  first.observe({0, 128}, 130e-3);
  first.observe({0, 1024}, 1150e-3);
  second.observe({0, 16}, 40e-3);
  second.observe({16, 32}, 40e-3);
  calibration.learn(model, first);
  calibration.learn(model, second);
  Calibration alone;
  session(alone, model, 4, 1e-3);
  auto both = *alone.compute(model);
  both.observe({0, 128}, 130e-3);
  both.observe({0, 1024}, 1150e-3);
  both.observe({0, 16}, 40e-3);
  both.observe({16, 32}, 40e-3);
  CHECK(calibration.compute(model)->numbers() == both.numbers());
}

TEST_CASE("one slow pass moves nothing, also after a restart") {
  const sample::Directory folder;
  const ModelFingerprint model = model_of("one");
  Calibration calibration;
  session(calibration, model, 8, 1e-3);
  REQUIRE(calibration.save(folder.path() / "c").has_value());
  const auto loaded = Calibration::load(folder.path() / "c");
  REQUIRE(loaded.has_value());
  session(**loaded, model, 1, 20e-3);
  CHECK(pass(**loaded, model) == Approx(128e-3).epsilon(0.05));
}

TEST_CASE("a read that did not come in time teaches at most its bytes over its age") {
  Calibration calibration;
  REQUIRE(calibration.use(1).has_value());
  LinkEstimator lane(calibration.tiers()[0]);
  lane.issue(1, 0, 1'000'000, Time{0});
  lane.given_up(1, 2s);
  calibration.learn(0, lane, 2s);
  CHECK(calibration.tiers()[0].bytes_per_second <= 500'001);
  CHECK(calibration.tiers()[0].measured == 0);
}

TEST_CASE("what is saved is loaded, number by number") {
  const sample::Directory folder;
  const auto file = folder.path() / "calibration";
  Calibration calibration;
  fill(calibration);
  REQUIRE(calibration.save(file).has_value());
  const auto loaded = Calibration::load(file);
  REQUIRE(loaded.has_value());
  CHECK((*loaded)->tiers() == calibration.tiers());
  for (const char* name : {"one", "two"}) {
    const auto a = calibration.compute(model_of(name));
    const auto b = (*loaded)->compute(model_of(name));
    REQUIRE(b.has_value());
    CHECK(a->numbers() == b->numbers());
    CHECK(a->current().pass(0, 777) == b->current().pass(0, 777));
  }
  const std::string first = read(file);
  REQUIRE((*loaded)->save(file).has_value());  // over the one that is there
  CHECK(read(file) == first);
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 1);
}

TEST_CASE("a damaged, cut or foreign file is an error, and no value of it is used") {
  const sample::Directory folder;
  const auto file = folder.path() / "calibration";
  CHECK(Calibration::load(file).error().code == Errc::not_found);
  Calibration calibration;
  fill(calibration);
  REQUIRE(calibration.save(file).has_value());
  const std::string text = read(file);
  for (std::size_t at = 0; at < text.size(); ++at) {
    std::string other = text;
    other[at] = static_cast<char>(other[at] ^ 1);
    CAPTURE(at);
    REQUIRE(load_of(file, other) != Errc::ok);
    REQUIRE(load_of(file, text.substr(0, at)) == Errc::corrupt);
  }
  CHECK(load_of(file, text + "tier 1 2 3\n 0") == Errc::corrupt);
  CHECK(load_of(file, "{\"version\": 1}\n") == Errc::corrupt);
  CHECK(load_of(file, std::string(2 << 20, ' ')) == Errc::corrupt);
  CHECK(load_of(file, "cake calibration 3\nend 0\n") == Errc::unsupported);
  write(file, "nothing");
  CHECK(Calibration::load(file).error().message().find("delete the file") != std::string::npos);
}

TEST_CASE("values that cannot be are refused, though the digest is right") {
  const sample::Directory folder;
  const auto file = folder.path() / "calibration";
  const auto code_of = [&](const std::string& line) {
    const std::string head = "cake calibration 2\n" + line + "\n";
    const auto bytes = std::as_bytes(std::span(head));
    return load_of(file, head + "end " + std::to_string(crc32c(bytes)) + "\n");
  };
  CHECK(code_of("tier 1e9 100000 0 2 0 0 0 0 0") == Errc::ok);
  CHECK(code_of("tier -1 100000 0 2 0 0 0 0 0") == Errc::corrupt);
  CHECK(code_of("tier nan 100000 0 2 0 0 0 0 0") == Errc::corrupt);
  CHECK(code_of("tier 1e9 -5 0 2 0 0 0 0 0") == Errc::corrupt);
  CHECK(code_of("tier 1e9 100000 0 0 0 0 0 0 0") == Errc::corrupt);
  CHECK(code_of("tier 1e9 100000 0 2 0 0 99 0 0") == Errc::corrupt);
  CHECK(code_of("tier 1e9 100000 0 2 0 0 0 0") == Errc::corrupt);
  CHECK(code_of("tier 1e9 100000 0 2 0 0 0 0 0 0") == Errc::corrupt);
  CHECK(code_of("compute " + model_of("x").hex() + " 1 2 3") == Errc::corrupt);
  CHECK(code_of("compute xyz") == Errc::corrupt);
  CHECK(code_of("speed 7") == Errc::corrupt);
}

TEST_CASE("another model starts from its prior, and the first one keeps what was measured") {
  Calibration calibration;
  session(calibration, model_of("one"), 8, 1e-3);
  CHECK_FALSE(calibration.compute(model_of("two")).has_value());
  session(calibration, model_of("two"), 8, 5e-3);
  CHECK(pass(calibration, model_of("one")) == Approx(128e-3).epsilon(0.05));
  CHECK(pass(calibration, model_of("two")) == Approx(640e-3).epsilon(0.05));
  Calibration beside;
  beside.take_models(calibration);
  CHECK(pass(beside, model_of("two")) == pass(calibration, model_of("two")));
  CHECK(beside.tiers().empty());
}

TEST_CASE("a calibration of another storage is refused by name") {
  MemoryStorage storage;  // of one tier
  const auto calibration = std::make_shared<Calibration>(std::vector<LinkEstimate>(3));
  try {
    IoLanes lanes(storage, {.calibration = calibration});
    FAIL("it was taken");
  } catch (const Exception& e) {
    CHECK(e.error().code == Errc::mismatch);
    CHECK(std::string(e.what()).find("3 tiers") != std::string::npos);
  }
}

TEST_CASE("a file that cannot be written is an error that names it") {
  const auto status = Calibration().save("/nowhere/at/all/calibration");
  REQUIRE_FALSE(status.has_value());
  CHECK(status.error().message().find("/nowhere/at/all/calibration") != std::string::npos);
}
