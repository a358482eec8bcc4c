// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Attention of few queries: shares of the work, which need no GPU, and results.
#include <vector>

#include "cake/cuda/attention.hpp"
#include "src/cuda/attention/attention_decode_work.hpp"
#include "tests/cuda/attention_case.hpp"
#include "tests/cuda/gpu.hpp"

using namespace cake;
using namespace cake::testing;
namespace decode = cake::cuda::decode;

namespace {

cuda::AttentionShape shape_of(std::uint32_t queries, std::uint32_t heads, std::uint32_t kv_heads) {
  return {heads, kv_heads, 128, DType::bf16, 1, queries, queries, 0};
}

double tolerance(DType dtype) { return dtype == DType::bf16 ? 6e-3 : 1e-3; }

void expect_fp64(const AttentionSpec& spec) {
  INFO(spec.text());
  AttentionCase problem(spec);
  (void)problem.run(&cuda::attention);
  std::vector<float> out;
  std::vector<float> softmax_lse;
  problem.solve(out, softmax_lse);
  const Distance d =
      AttentionCase::distance(problem.result(), problem.softmax_lse(), out, softmax_lse);
  CHECK(d.relative < tolerance(spec.dtype));
  CHECK(d.softmax_lse < 2e-3);
}

}  // namespace

TEST_CASE("the kernel for few queries is taken up to 64 rows, where no splits are asked for") {
  CHECK(decode::plan(shape_of(1, 32, 8), 132).rows == 16);
  CHECK(decode::plan(shape_of(4, 32, 8), 132).rows == 16);
  CHECK(decode::plan(shape_of(5, 32, 8), 132).rows == 64);
  CHECK(decode::plan(shape_of(16, 32, 8), 132).rows == 64);
  CHECK_FALSE(decode::plan(shape_of(17, 32, 8), 132));
  CHECK(decode::plan(shape_of(64, 8, 8), 132).rows == 64);
  CHECK(decode::plan(shape_of(1, 64, 1), 132).rows == 64);
  CHECK_FALSE(decode::plan(shape_of(1, 65, 1), 132));
  CHECK_FALSE(decode::plan(shape_of(0, 32, 8), 132));
  CHECK_FALSE(decode::plan(shape_of(0x4000'0001u, 32, 8), 132));  // no overflow
  cuda::AttentionShape split = shape_of(1, 32, 8);
  split.num_splits = 1;
  CHECK_FALSE(decode::plan(split, 132));
  CHECK(decode::plan(shape_of(1, 32, 8), 132).blocks == 264);
  CHECK(decode::workspace_bytes({16, 264}, 128) == std::size_t{264} * 2 * 16 * 129 * 4);
}

TEST_CASE("a sequence with queries has a tile even without keys, one without queries has none") {
  CHECK(decode::tiles_of(0, 1000) == 0);
  CHECK(decode::tiles_of(-1, 1000) == 0);
  CHECK(decode::tiles_of(1, 0) == 1);
  CHECK(decode::tiles_of(1, -5) == 1);
  CHECK(decode::tiles_of(1, 64) == 1);
  CHECK(decode::tiles_of(1, 65) == 2);
  CHECK(decode::tiles_of(3, 0x7fff'ffff) == 0x0200'0000u);
}

TEST_CASE("shares cover the tiles, each once, and differ by one tile at most") {
  for (const std::uint64_t tiles : {0u, 1u, 2u, 7u, 131u, 263u, 264u, 265u, 4096u, 16391u}) {
    for (const std::uint32_t blocks : {1u, 2u, 132u, 264u}) {
      CAPTURE(tiles, blocks);
      const decode::Shares shares(tiles, blocks);
      REQUIRE(shares.begin(0) == 0);
      REQUIRE(shares.begin(blocks) == tiles);
      std::uint64_t least = tiles;
      std::uint64_t most = 0;
      std::size_t wrong = 0;
      for (std::uint64_t b = 0; b < blocks; ++b) {
        const std::uint64_t n = shares.begin(b + 1) - shares.begin(b);
        wrong += shares.begin(b + 1) < shares.begin(b);
        most = std::max(most, n);
        if (b < shares.blocks) least = std::min(least, n);
        for (std::uint64_t t = shares.begin(b); t < shares.begin(b + 1); ++t) {
          wrong += shares.holder(t) != b;
        }
      }
      CHECK(wrong == 0);
      if (tiles != 0) {
        CHECK(most <= least + 1);
        CHECK(least >= 1);
      }
    }
  }
  const decode::Shares large((std::uint64_t{1} << 25) * 128 * 1024, 264);  // beyond 32 bits
  CHECK(large.holder(large.begin(263)) == 263);
  CHECK(large.holder(large.begin(263) - 1) == 262);
}

TEST_CASE("few queries agree with fp64: every number of them, keys around tile edges") {
  CAKE_NEEDS_GPU();
  constexpr std::uint32_t kPages[] = {1, 16, 0, 64, 8, 24, 256};
  std::uint32_t turn = 0;
  for (std::uint32_t queries = 1; queries <= 16; ++queries) {
    for (const std::uint32_t prefix : {0u, 1u, 47u, 48u, 63u, 64u, 65u, 127u, 300u, 1100u}) {
      AttentionSpec spec;
      spec.sequences = {{queries, queries + prefix}};
      spec.page = kPages[turn % 7];
      spec.order = turn % 2 == 0 ? KvOrder::nhd : KvOrder::hnd;
      spec.dtype = turn % 3 == 0 ? DType::f16 : DType::bf16;
      spec.dim = turn % 5 < 2 ? 64 : 128;
      spec.n_kv_heads = 1 + turn % 3;
      spec.n_heads = spec.n_kv_heads * (queries <= 8 ? 1 + turn % 8 : 4);
      spec.pad = turn % 4 == 0 ? 8 : 0;
      spec.seed = ++turn;
      expect_fp64(spec);
    }
  }
}

TEST_CASE("few queries take every group of heads, one that is no power of two among them") {
  CAKE_NEEDS_GPU();
  for (const std::uint32_t group : {1u, 2u, 3u, 5u, 6u, 7u, 12u, 16u, 17u, 32u, 64u}) {
    for (const std::uint32_t dim : {64u, 128u}) {
      AttentionSpec spec;
      spec.sequences = {{64 / group, 700}};
      spec.n_kv_heads = 2;
      spec.n_heads = 2 * group;
      spec.dim = dim;
      expect_fp64(spec);
    }
  }
}

TEST_CASE("large scores of few queries neither overflow nor lose the running maximum") {
  CAKE_NEEDS_GPU();
  for (const double spread : {8.0, 30.0}) {
    for (const std::uint32_t queries : {1u, 9u}) {
      for (const DType dtype : {DType::bf16, DType::f16}) {
        AttentionSpec spec;
        spec.sequences = {{queries, 3000}};
        spec.spread = spread;
        spec.dtype = dtype;
        expect_fp64(spec);
      }
    }
  }
}

TEST_CASE("a ragged batch of few queries is as many single sequences") {
  CAKE_NEEDS_GPU();
  for (const std::uint32_t page : {16u, 1u, 0u}) {
    AttentionSpec spec;
    // No queries, no keys, more queries than keys, whole sequences of one block, long ones of many.
    spec.sequences = {{0, 40}, {1, 1},    {3, 2000}, {0, 0}, {1, 64},  {5, 0},
                      {6, 2},  {16, 900}, {2, 65},   {1, 1}, {0, 700}, {1, 5000}};
    for (std::uint32_t i = 0; i < 60; ++i) spec.sequences.push_back({1 + i % 2, 100 + 7 * i});
    spec.n_heads = 6;
    spec.n_kv_heads = 2;
    spec.page = page;
    expect_fp64(spec);
  }
}

TEST_CASE("few queries that see no key give zeros") {
  CAKE_NEEDS_GPU();
  AttentionSpec spec;
  spec.sequences = {{9, 4}, {3, 0}};
  AttentionCase problem(spec);
  (void)problem.run(&cuda::attention);
  const std::size_t row = std::size_t{spec.n_heads} * spec.dim;
  for (std::size_t query = 0; query < 12; ++query) {
    const bool sees = query >= 5 && query < 9;
    bool zero = true;
    for (std::size_t i = 0; i < row; ++i) zero = zero && problem.result()[query * row + i] == 0.0f;
    CHECK(zero == !sees);
    CHECK(std::isinf(problem.softmax_lse()[query]) == !sees);
  }
}

TEST_CASE("for few queries, too, pages change no bit, and neither does a second run") {
  CAKE_NEEDS_GPU();
  for (const std::uint32_t queries : {1u, 16u}) {
    AttentionSpec spec;
    spec.sequences = {{queries, 5003}, {queries, 77}};
    spec.n_heads = 8;
    spec.n_kv_heads = 2;
    AttentionCase a(spec, 1);
    AttentionCase b(spec, 2);
    const auto first = a.run(&cuda::attention);
    for (int i = 0; i < 5; ++i) CHECK(a.run(&cuda::attention) == first);
    CHECK(b.run(&cuda::attention) == first);
    spec.page = 0;
    AttentionCase contiguous(spec);
    CHECK(contiguous.run(&cuda::attention) == first);
    spec.page = 128;
    spec.order = KvOrder::hnd;
    AttentionCase other(spec);
    CHECK(other.run(&cuda::attention) == first);
  }
}

TEST_CASE("few queries over long prefixes agree with the plain kernel") {
  CAKE_NEEDS_GPU();
  struct {
    std::uint32_t queries, prefix, heads, kv_heads, dim, page;
  } const cases[] = {
      {1, 32767, 8, 2, 128, 16}, {1, 131071, 4, 1, 128, 64}, {16, 32768, 8, 2, 128, 16},
      {7, 65000, 8, 2, 64, 256}, {3, 9000, 28, 4, 128, 1},   {2, 40000, 9, 3, 64, 0},
  };
  for (const auto& c : cases) {
    AttentionSpec spec;
    spec.sequences = {{c.queries, c.queries + c.prefix}};
    spec.n_heads = c.heads;
    spec.n_kv_heads = c.kv_heads;
    spec.dim = c.dim;
    spec.page = c.page;
    INFO(spec.text());
    AttentionCase problem(spec);
    (void)problem.run(&cuda::attention_reference);
    const std::vector<float> out = problem.result();
    const std::vector<float> softmax_lse = problem.softmax_lse();
    (void)problem.run(&cuda::attention);
    const Distance d =
        AttentionCase::distance(problem.result(), problem.softmax_lse(), out, softmax_lse);
    CHECK(d.relative < tolerance(spec.dtype));
    CHECK(d.softmax_lse < 2e-3);
  }
}

TEST_CASE("a captured launch serves every number of keys") {
  CAKE_NEEDS_GPU();
  AttentionSpec spec;
  spec.sequences = {{2, 900}};
  AttentionCase problem(spec);
  cuda::AttentionArgs args = problem.args();
  const std::size_t row = std::size_t{spec.n_heads} * spec.dim;
  const cuda::DeviceBuffer workspace(cuda::attention_workspace_bytes(args.shape).value());
  const cuda::DeviceBuffer keys(sizeof(std::int32_t));
  const cuda::DeviceBuffer out(2 * row * 2);
  args.workspace = workspace.data();
  args.workspace_bytes = workspace.size();
  args.seqlens_k = keys.as<std::int32_t>();
  args.softmax_lse = nullptr;
  args.out = out.data();
  const cuda::Stream stream;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  REQUIRE(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  REQUIRE(cuda::attention(args, stream.get()));
  REQUIRE(cudaStreamEndCapture(stream.get(), &graph) == cudaSuccess);
  REQUIRE(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
  for (const std::int32_t n : {900, 2, 65, 128, 700}) {
    CAPTURE(n);
    const auto run = [&](bool captured) {
      REQUIRE(cudaMemset(out.data(), 0xff, out.size()) == cudaSuccess);
      REQUIRE(cudaMemcpy(keys.data(), &n, sizeof n, cudaMemcpyDefault) == cudaSuccess);
      REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
      if (captured) {
        REQUIRE(cudaGraphLaunch(exec, stream.get()) == cudaSuccess);
      } else {
        REQUIRE(cuda::attention_reference(args, stream.get()));
      }
      REQUIRE(stream.wait());
      std::vector<__nv_bfloat16> bits(2 * row);
      REQUIRE(cudaMemcpy(bits.data(), out.data(), out.size(), cudaMemcpyDefault) == cudaSuccess);
      std::vector<float> numbers;
      for (const __nv_bfloat16 b : bits) numbers.push_back(__bfloat162float(b));
      return numbers;
    };
    const auto expected = run(false);
    CHECK(AttentionCase::distance(run(true), {}, expected, {}).relative < tolerance(DType::bf16));
  }
  (void)cudaGraphExecDestroy(exec);
  (void)cudaGraphDestroy(graph);
}

TEST_CASE("too small a workspace for few queries is refused, with the size that it takes") {
  CAKE_NEEDS_GPU();
  AttentionSpec spec;
  spec.sequences = {{3, 100}};
  AttentionCase problem(spec);
  cuda::AttentionArgs args = problem.args();
  const std::size_t needed = cuda::attention_workspace_bytes(args.shape).value();
  REQUIRE(needed > 0);
  const Status status = cuda::attention(args, nullptr);
  CHECK(status.code() == Errc::invalid_argument);
  CHECK(status.error().context.find(std::to_string(needed)) != std::string::npos);
}
