// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The parts of the CUDA backend that need no GPU, and what it says where there is none.
#include <algorithm>
#include <memory>
#include <set>
#include <string>

#include "cake/reference/cuda_backend.hpp"
#include "src/reference/cuda/backend_options.hpp"
#include "src/reference/cuda/kv_pool.hpp"
#include "src/reference/cuda/recent_cache.hpp"
#include "tests/catch.hpp"

using namespace cake;
using namespace cake::reference;

TEST_CASE("options of the CUDA backend are completed from the model, or refused by name") {
  const Config config = llama_3_1_8b();
  const CudaOptions defaults = cuda_impl::complete({}, config).value();
  CHECK(defaults.max_tokens == 131072);
  CHECK(defaults.page_tokens == 64);
  CHECK(cuda_impl::complete({.max_tokens = 100, .max_step_tokens = 4096}, config)
            .value()
            .max_step_tokens == 100);
  const auto says = [&](const CudaOptions& options) {
    const auto result = cuda_impl::complete(options, config);
    REQUIRE(!result);
    CHECK(result.error().code == Errc::invalid_argument);
    return result.error().context;
  };
  CHECK(says({.page_tokens = 0}).find("page_tokens") == 0);
  CHECK(says({.page_tokens = 257}).find("page_tokens") == 0);
  CHECK(says({.max_tokens = 131073}).find("max_tokens") == 0);
  CHECK(says({.max_step_tokens = 0}).find("max_step_tokens") == 0);
  CHECK(says({.residual = DType::f16}).find("residual") == 0);
}

TEST_CASE("a range is cut into passes without a gap") {
  CHECK(cuda_impl::passes_of({5, 5}, 4).empty());
  for (const std::uint32_t most : {1u, 3u, 7u, 100u}) {
    for (const std::uint32_t size : {1u, 3u, 6u, 7u, 8u, 50u, 100u, 101u}) {
      const auto passes = cuda_impl::passes_of({11, 11 + size}, most);
      std::uint32_t at = 11;
      for (const TokenRange pass : passes) {
        REQUIRE(pass.begin == at);
        REQUIRE(!pass.empty());
        REQUIRE(pass.size() <= most);
        at = pass.end;
      }
      CHECK(at == 11 + size);
      CHECK(passes.size() == (size + most - 1) / most);
    }
  }
  CHECK(cuda_impl::passes_of({0xffff'fff0u, 0xffff'ffffu}, 10).size() ==
        2);  // no overflow at the end
}

TEST_CASE("the graph cache forgets what was not used for the longest time") {
  cuda_impl::RecentCache<int, std::shared_ptr<int>> cache(3);
  const auto one = std::make_shared<int>(1);
  cache.add(1, one);
  cache.add(2, std::make_shared<int>(2));
  cache.add(3, std::make_shared<int>(3));
  REQUIRE(cache.find(1) != nullptr);  // used again, so 2 is the oldest now
  cache.add(4, std::make_shared<int>(4));
  CHECK(cache.size() == 3);
  CHECK(cache.find(2) == nullptr);
  REQUIRE(cache.find(1) != nullptr);
  CHECK(**cache.find(1) == 1);
  CHECK(**cache.find(3) == 3);
  CHECK(**cache.find(4) == 4);
  CHECK(one.use_count() == 2);
  cache.clear();
  CHECK(one.use_count() == 1);
  CHECK(cache.find(1) == nullptr);
  cuda_impl::RecentCache<int, int> none(0);
  CHECK(none.add(1, 1) == nullptr);
}

TEST_CASE("pages are assigned in order, or shuffled by a seed; every page once") {
  CHECK(cuda_impl::assign_pages(3, 0) == std::vector<std::int32_t>{0, 1, 2});
  const auto shuffled = cuda_impl::assign_pages(100, 5);
  CHECK(shuffled != cuda_impl::assign_pages(100, 0));
  CHECK(shuffled == cuda_impl::assign_pages(100, 5));
  CHECK(shuffled != cuda_impl::assign_pages(100, 6));
  const std::set<std::int32_t> all(shuffled.begin(), shuffled.end());
  CHECK(all.size() == 100);
  CHECK(*all.begin() == 0);
  CHECK(*all.rbegin() == 99);
}

TEST_CASE("the 8B shape has the parameters that it is named after") {
  const Config c = llama_3_1_8b();
  const double q = double{1} * c.n_heads * c.head_dim;
  const double kv = double{1} * c.n_kv_heads * c.head_dim;
  const double layer = c.n_embd * (2 * q + 2 * kv + 3.0 * c.n_ff) + 2.0 * c.n_embd;
  const double all = c.n_layers * layer + 2.0 * c.n_vocab * c.n_embd + c.n_embd;
  CHECK(all == 8030261248.0);
}

TEST_CASE("without a usable GPU the CUDA backend says what is missing") {
  const Status gpu = cuda::usable();
  if (gpu) return;  // other tests make backends there
  try {
    const CudaBackend backend(nullptr);
    FAIL("a backend was made without a GPU");
  } catch (const Exception& e) {
    CHECK(e.error().code == Errc::unsupported);
    CHECK(e.error().context == gpu.error().context);
  }
  const auto weights = CudaWeights::random(llama_3_1_8b(), 1);
  REQUIRE(!weights);
  CHECK(weights.error().code == Errc::unsupported);
  CHECK(weights.error().context == gpu.error().context);
}

TEST_CASE("random weights of an impossible shape are refused by name") {
  const auto says = [](void (*change)(Config&)) {
    Config config = llama_3_1_8b();
    change(config);
    const auto weights = CudaWeights::random(config, 1);
    REQUIRE(!weights);
    return weights.error().context;
  };
  CHECK(says([](Config& c) { c.n_layers = 0; }).find("must not be 0") != std::string::npos);
  CHECK(says([](Config& c) { c.n_kv_heads = 5; }).find("n_kv_heads") != std::string::npos);
  CHECK(says([](Config& c) { c.n_embd = 4100; }).find("4100") != std::string::npos);
  CHECK(says([](Config& c) { c.n_embd = 32768; }).find("n_embd") != std::string::npos);
  CHECK(says([](Config& c) { c.rope.dimensions = 130; }).find("rope") != std::string::npos);
}

TEST_CASE("a pass that failed before it was enqueued says so, and blocks nobody") {
  CudaPass pass(Error{Errc::invalid_argument, 0, "why"});
  CHECK(pass.ready());
  CHECK(pass.wait_for(std::chrono::seconds(10)));
  CudaPass moved = std::move(pass);
  const Status status = await_completion(std::move(moved));
  CHECK(status.code() == Errc::invalid_argument);
  CHECK(status.error().context == "why");
}
