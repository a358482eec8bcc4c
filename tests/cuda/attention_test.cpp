// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cake/cuda/attention.hpp"

#include <cstdio>

#include "src/cuda/attention/attention_kernels.hpp"
#include "tests/cuda/attention_case.hpp"
#include "tests/cuda/gpu.hpp"

using namespace cake;
using namespace cake::testing;

namespace {

/// What rounding to 16 bits may cost; measured are about half of these.
double tolerance(DType dtype) { return dtype == DType::bf16 ? 6e-3 : 1e-3; }

/// The kernel that every device of 8.0 and later has, whatever the others are.
Status by_mma(const cuda::AttentionArgs& args, cudaStream_t stream) {
  return cuda::attention_by(cuda::AttentionKernel::mma, args, stream);
}

void expect_fp64(const AttentionSpec& spec, std::vector<AttentionCase::Launch> launches) {
  AttentionCase problem(spec);
  std::vector<float> out;
  std::vector<float> softmax_lse;
  problem.solve(out, softmax_lse);
  for (const AttentionCase::Launch launch : launches) {
    INFO((launch == &by_mma ? "mma: " : "") << spec.text());
    (void)problem.run(launch);
    const Distance d =
        AttentionCase::distance(problem.result(), problem.softmax_lse(), out, softmax_lse);
    CHECK(d.relative < tolerance(spec.dtype));
    CHECK(d.softmax_lse < 2e-3);
  }
}
void expect_fp64(const AttentionSpec& spec) { expect_fp64(spec, {&cuda::attention, &by_mma}); }

void expect_reference(const AttentionSpec& spec) {
  INFO(spec.text());
  AttentionCase problem(spec);
  (void)problem.run(&cuda::attention_reference);
  const std::vector<float> out = problem.result();
  const std::vector<float> softmax_lse = problem.softmax_lse();
  for (const AttentionCase::Launch launch : {&cuda::attention, &by_mma}) {
    (void)problem.run(launch);
    const Distance d =
        AttentionCase::distance(problem.result(), problem.softmax_lse(), out, softmax_lse);
    CHECK(d.relative < tolerance(spec.dtype));
    CHECK(d.softmax_lse < 2e-3);
  }
}

AttentionSpec one(std::uint32_t queries, std::uint32_t prefix) {
  AttentionSpec spec;
  spec.sequences = {{queries, queries + prefix}};
  return spec;
}

}  // namespace

TEST_CASE("the plain kernel agrees with fp64 on the host") {
  CAKE_NEEDS_GPU();
  for (const DType dtype : {DType::bf16, DType::f16}) {
    for (const std::uint32_t page : {0u, 1u, 16u, 24u}) {
      AttentionSpec spec = one(67, 300);
      spec.dtype = dtype;
      spec.page = page;
      spec.order = page == 16 ? KvOrder::hnd : KvOrder::nhd;
      spec.dim = page == 24 ? 96 : 64;
      expect_fp64(spec, {&cuda::attention_reference});
    }
  }
}

TEST_CASE(
    "attention agrees with fp64: queries around tile edges over prefixes around block edges") {
  CAKE_NEEDS_GPU();
  constexpr std::uint32_t kPages[] = {1, 8, 16, 32, 64, 128, 0, 256, 48};
  std::uint32_t turn = 0;
  for (const std::uint32_t queries :
       {1u, 7u, 31u, 32u, 33u, 63u, 64u, 65u, 127u, 128u, 129u, 193u}) {
    for (const std::uint32_t prefix : {0u, 1u, 15u, 16u, 63u, 64u, 127u, 128u, 129u, 500u}) {
      AttentionSpec spec = one(queries, prefix);
      spec.page = kPages[turn % 9];
      spec.order = turn % 2 == 0 ? KvOrder::nhd : KvOrder::hnd;
      spec.dtype = turn % 3 == 0 ? DType::f16 : DType::bf16;
      spec.dim = turn % 5 < 2 ? 64 : 128;
      spec.num_splits = turn % 4 == 3 ? 3 : 1;
      spec.seed = ++turn;
      expect_fp64(spec);
    }
  }
}

TEST_CASE("attention takes every group of query heads") {
  CAKE_NEEDS_GPU();
  for (const std::uint32_t group : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 16u}) {
    for (const std::uint32_t dim : {64u, 128u}) {
      AttentionSpec spec = one(70, 131);
      spec.n_kv_heads = group == 3 ? 3 : 2;
      spec.n_heads = group * spec.n_kv_heads;
      spec.dim = dim;
      spec.num_splits = 1 + group % 3;
      spec.pad = 8;
      expect_fp64(spec);
    }
  }
}

TEST_CASE("large scores neither overflow nor lose the running maximum") {
  CAKE_NEEDS_GPU();
  for (const double spread : {8.0, 30.0}) {
    for (const std::uint32_t num_splits : {1u, 4u}) {
      for (const DType dtype : {DType::bf16, DType::f16}) {
        AttentionSpec spec = one(65, 700);
        spec.spread = spread;
        spec.num_splits = num_splits;
        spec.dtype = dtype;
        expect_fp64(spec);
      }
    }
  }
}

TEST_CASE("a ragged batch is as many single sequences") {
  CAKE_NEEDS_GPU();
  for (const std::uint32_t page : {16u, 64u, 0u}) {
    for (const std::uint32_t num_splits : {0u, 1u, 5u}) {
      AttentionSpec spec;
      spec.sequences = {{1, 1}, {200, 200}, {3, 700}, {64, 65}, {0, 40}, {1, 513}, {5, 0}, {6, 2}};
      spec.n_heads = 6;
      spec.n_kv_heads = 2;
      spec.page = page;
      spec.num_splits = num_splits;
      expect_fp64(spec);
    }
  }
}

TEST_CASE("queries that see no key give zeros") {
  CAKE_NEEDS_GPU();
  for (const std::uint32_t num_splits : {1u, 3u}) {
    AttentionSpec spec;
    spec.sequences = {{9, 4}, {130, 0}};
    spec.num_splits = num_splits;
    AttentionCase problem(spec);
    (void)problem.run(&cuda::attention);
    const std::size_t row = std::size_t{spec.n_heads} * spec.dim;
    for (std::size_t query = 0; query < 139; ++query) {
      const bool sees = query >= 5 && query < 9;
      bool zero = true;
      for (std::size_t i = 0; i < row; ++i)
        zero = zero && problem.result()[query * row + i] == 0.0f;
      CHECK(zero == !sees);
      CHECK(std::isinf(problem.softmax_lse()[query]) == !sees);
    }
  }
}

TEST_CASE("attention over long prefixes agrees with the plain kernel") {
  CAKE_NEEDS_GPU();
  struct {
    std::uint32_t queries, prefix, heads, kv_heads, dim, page, num_splits;
  } const cases[] = {
      {128, 4095, 32, 8, 128, 16, 0}, {512, 4096, 32, 8, 128, 64, 0},
      {513, 129, 28, 4, 128, 16, 0},  {2048, 2048, 32, 8, 128, 128, 0},
      {2048, 0, 32, 8, 64, 16, 0},    {192, 40000, 8, 1, 128, 32, 0},
      {1, 130000, 32, 8, 128, 16, 0}, {7, 130000, 8, 2, 64, 256, 0},
      {64, 130000, 4, 1, 128, 0, 8},  {191, 4095, 9, 3, 64, 1, 0},
  };
  for (const auto& c : cases) {
    for (const DType dtype : {DType::bf16, DType::f16}) {
      AttentionSpec spec = one(c.queries, c.prefix);
      spec.n_heads = c.heads;
      spec.n_kv_heads = c.kv_heads;
      spec.dim = c.dim;
      spec.page = c.page;
      spec.num_splits = c.num_splits;
      spec.dtype = dtype;
      expect_reference(spec);
    }
  }
}

TEST_CASE("of a batch whose keys are split to even out waves, short sequences stay whole") {
  CAKE_NEEDS_GPU();
  for (const std::uint32_t dim : {64u, 128u}) {
    AttentionSpec spec;  // 176 tiles of 128 rows
    spec.sequences = {{1408, 20000}, {1408, 1408}};
    spec.n_heads = spec.n_kv_heads = 8;
    spec.dim = dim;
    spec.page = 16;
    spec.num_splits = 0;
    expect_reference(spec);
  }
}

TEST_CASE("which pages are used changes no bit, and neither does a second run") {
  CAKE_NEEDS_GPU();
  for (const std::uint32_t num_splits : {1u, 4u}) {
    for (const std::uint32_t dim : {64u, 128u}) {
      AttentionSpec spec = one(300, 1000);
      spec.num_splits = num_splits;
      spec.dim = dim;
      spec.n_heads = 8;
      spec.n_kv_heads = 2;
      AttentionCase a(spec, 1);
      AttentionCase b(spec, 2);
      const auto first = a.run(&cuda::attention);
      CHECK(a.run(&cuda::attention) == first);
      CHECK(b.run(&cuda::attention) == first);
      for (const std::uint32_t page : {0u, 1u, 8u, 12u, 48u, 64u, 128u, 256u}) {
        INFO("page " << page << ", d " << dim << ", splits " << num_splits);
        spec.page = page;
        for (const KvOrder order : {KvOrder::nhd, KvOrder::hnd}) {
          if (order == KvOrder::hnd && page % 16 != 0) continue;
          spec.order = order;
          AttentionCase other(spec);
          CHECK(other.run(&cuda::attention) == first);
        }
      }
    }
  }
}

TEST_CASE("a prompt in steps attends as the whole prompt does") {
  CAKE_NEEDS_GPU();
  const AttentionSpec whole = one(1024, 0);
  AttentionCase all(whole);
  (void)all.run(&cuda::attention);
  const std::size_t row = std::size_t{whole.n_heads} * whole.dim;
  for (const std::uint32_t step : {64u, 100u, 512u}) {
    // The same queries, keys and values, a step at a time, in the memory of the whole.
    cuda::AttentionArgs args = all.args();
    cuda::DeviceBuffer out(1024 * row * 2);
    cuda::DeviceBuffer keys(sizeof(std::int32_t));
    args.out = out.data();
    args.softmax_lse = nullptr;
    args.cu_seqlens_q = nullptr;
    args.seqlens_k = keys.as<std::int32_t>();
    const auto* const q = static_cast<const std::uint16_t*>(args.q);
    for (std::uint32_t begin = 0; begin < 1024; begin += step) {
      const std::uint32_t end = std::min(1024u, begin + step);
      const auto n = static_cast<std::int32_t>(end);
      REQUIRE(cudaMemcpy(keys.data(), &n, sizeof n, cudaMemcpyDefault) == cudaSuccess);
      args.shape.n_queries = args.shape.max_seqlen_q = end - begin;
      args.q = q + begin * row;
      args.out = out.as<std::uint16_t>() + begin * row;
      const cuda::DeviceBuffer workspace(cuda::attention_workspace_bytes(args.shape).value());
      args.workspace = workspace.data();
      args.workspace_bytes = workspace.size();
      REQUIRE(cuda::attention(args, nullptr));
      REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    }
    std::vector<__nv_bfloat16> bits(1024 * row);
    REQUIRE(cudaMemcpy(bits.data(), out.data(), out.size(), cudaMemcpyDefault) == cudaSuccess);
    std::vector<float> stepped(bits.size());
    for (std::size_t i = 0; i < bits.size(); ++i) stepped[i] = __bfloat162float(bits[i]);
    CHECK(AttentionCase::distance(stepped, {}, all.result(), {}).relative < tolerance(DType::bf16));
  }
}

TEST_CASE("attention agrees with fp64 whether keys come by boxes or by rows") {
  CAKE_NEEDS_GPU();
  // Whole blocks of 128 keys and a tail of every kind, for pages with and without boxes, for heads
  // whose group divides a tile and for others.
  std::uint32_t turn = 0;
  for (const std::uint32_t page : {0u, 1u, 2u, 4u, 8u, 12u, 16u, 24u, 48u, 64u, 100u, 128u, 192u}) {
    for (const std::uint32_t keys : {1u, 127u, 128u, 129u, 256u, 391u}) {
      AttentionSpec spec;
      spec.sequences = {{std::min(keys, 50u), keys}};
      spec.page = page;
      spec.n_kv_heads = 2;
      spec.n_heads = turn % 2 == 0 ? 8 : 14;
      spec.dim = turn % 3 == 0 ? 64 : 128;
      spec.order = turn % 4 < 2 ? KvOrder::nhd : KvOrder::hnd;
      spec.num_splits = 1 + turn % 3;
      spec.pad = turn % 5 == 0 ? 8 : 0;
      spec.seed = ++turn;
      expect_fp64(spec);
    }
  }
}

TEST_CASE("more tiles than multiprocessors: every tile is right, for both heights") {
  CAKE_NEEDS_GPU();
  for (const std::uint32_t dim : {64u, 128u}) {
    for (const std::uint32_t page : {0u, 1u, 16u}) {
      AttentionSpec spec = one(3000, 200);
      spec.n_heads = 24;
      spec.n_kv_heads = 8;
      spec.dim = dim;
      spec.page = page;
      expect_reference(spec);
    }
  }
}

TEST_CASE("a captured graph serves every prefix length") {
  CAKE_NEEDS_GPU();
  for (const std::uint32_t num_splits : {1u, 4u}) {
    for (const std::uint32_t page : {0u, 1u, 16u}) {
      AttentionSpec spec = one(100, 900);
      spec.page = page;
      spec.num_splits = num_splits;
      AttentionCase problem(spec);
      cuda::AttentionArgs args = problem.args();
      const cuda::DeviceBuffer workspace(cuda::attention_workspace_bytes(args.shape).value());
      const cuda::DeviceBuffer keys(sizeof(std::int32_t));
      args.workspace = workspace.data();
      args.workspace_bytes = workspace.size();
      args.seqlens_k = keys.as<std::int32_t>();
      const cuda::Stream stream;
      cudaGraph_t graph = nullptr;
      cudaGraphExec_t instance = nullptr;
      REQUIRE(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal) ==
              cudaSuccess);
      REQUIRE(cuda::attention(args, stream.get()));
      REQUIRE(cudaStreamEndCapture(stream.get(), &graph) == cudaSuccess);
      REQUIRE(cudaGraphInstantiate(&instance, graph, 0) == cudaSuccess);
      const std::size_t bytes = std::size_t{100} * spec.n_heads * spec.dim * 2;
      for (const std::int32_t n : {100, 128, 513, 1000, 64}) {
        REQUIRE(cudaMemcpy(keys.data(), &n, sizeof n, cudaMemcpyDefault) == cudaSuccess);
        REQUIRE(cudaDeviceSynchronize() == cudaSuccess);  // the copy may still be on its way
        std::vector<std::uint16_t> direct(bytes / 2);
        std::vector<std::uint16_t> replayed(bytes / 2);
        REQUIRE(cuda::attention(args, stream.get()));
        REQUIRE(stream.wait());
        REQUIRE(cudaMemcpy(direct.data(), args.out, bytes, cudaMemcpyDefault) == cudaSuccess);
        REQUIRE(cudaMemset(args.out, 0xff, bytes) == cudaSuccess);
        REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
        REQUIRE(cudaGraphLaunch(instance, stream.get()) == cudaSuccess);
        REQUIRE(stream.wait());
        REQUIRE(cudaMemcpy(replayed.data(), args.out, bytes, cudaMemcpyDefault) == cudaSuccess);
        CHECK(replayed == direct);
      }
      REQUIRE(cudaGraphExecDestroy(instance) == cudaSuccess);
      REQUIRE(cudaGraphDestroy(graph) == cudaSuccess);
    }
  }
}

TEST_CASE("wrong use of attention is refused by name") {
  cuda::AttentionShape shape{4, 3, 128, DType::bf16, 1, 8, 8, 1};
  CHECK(cuda::attention_workspace_bytes(shape).error().code == Errc::invalid_argument);
  shape.n_kv_heads = 2;
  shape.head_dim = 80;
  const auto dim = cuda::attention_workspace_bytes(shape);
  CHECK(dim.error().code == Errc::unsupported);
  CHECK(dim.error().context.find("80") != std::string::npos);
  shape.head_dim = 64;
  shape.dtype = DType::f32;
  CHECK(cuda::attention_workspace_bytes(shape).error().code == Errc::unsupported);
  shape.dtype = DType::f16;
  cuda::AttentionArgs args;
  args.shape = shape;
  CHECK(cuda::attention(args, nullptr).code() == Errc::invalid_argument);
  float somewhere = 0;
  std::int32_t keys = 8;
  args.q = args.k = args.v = args.out = &somewhere;
  args.seqlens_k = &keys;
  args.q_token_stride = 4;
  const Status stride = cuda::attention(args, nullptr);
  CHECK(stride.code() == Errc::invalid_argument);
  CHECK(stride.error().context.find("multiples of 8") != std::string::npos);
}

TEST_CASE("too small a workspace is refused, with the size that it takes") {
  CAKE_NEEDS_GPU();
  AttentionSpec spec = one(8, 100);
  spec.num_splits = 4;
  AttentionCase problem(spec);
  cuda::AttentionArgs args = problem.args();
  const std::size_t needed = cuda::attention_workspace_bytes(args.shape).value();
  REQUIRE(needed > 0);
  const Status status = cuda::attention(args, nullptr);
  CHECK(status.code() == Errc::invalid_argument);
  CHECK(status.error().context.find(std::to_string(needed)) != std::string::npos);
}
