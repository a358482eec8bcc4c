// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "crc32c.hpp"
#include "crc32c_kernel.hpp"

namespace cake::inline CAKE_ABI::cuda::crc {
namespace {

constexpr Tables kHostTables = make_tables();
__device__ const Tables kTables = kHostTables;

/// One block of threads for each block of bytes.
__global__ void __launch_bounds__(kThreads)
    digest(const std::byte* data, std::size_t run_bytes, unsigned block_bytes,
           unsigned blocks_per_run, std::uint32_t* out) {
  __shared__ std::uint32_t slice[4][256];
  __shared__ std::uint32_t sums[kThreads / 32];
  for (int k = 0; k < 4; ++k) slice[k][threadIdx.x] = kTables.slice[k][threadIdx.x];
  __syncthreads();

  const std::size_t run = blockIdx.x / blocks_per_run;
  const std::size_t begin = std::size_t{blockIdx.x % blocks_per_run} * block_bytes;
  const std::size_t left = run_bytes - begin;
  const unsigned bytes = left < block_bytes ? static_cast<unsigned>(left) : block_bytes;
  const std::byte* const block = data + run * run_bytes + begin;

  const Piece piece = piece_of(bytes, threadIdx.x);
  std::uint32_t state = piece.seed();
  const std::byte* const from = block + piece.begin;
  if (piece.end - piece.begin == kPieceBytes &&
      (reinterpret_cast<std::uintptr_t>(from) & 15) == 0) {
    const uint4* const quads = reinterpret_cast<const uint4*>(from);
#pragma unroll 4
    for (unsigned i = 0; i < kPieceBytes / 16; ++i) {
      const uint4 quad = quads[i];
      state = add_word(slice, state, quad.x);
      state = add_word(slice, state, quad.y);
      state = add_word(slice, state, quad.z);
      state = add_word(slice, state, quad.w);
    }
  } else {
    const std::uint32_t* const words = reinterpret_cast<const std::uint32_t*>(from);
    for (unsigned i = 0; i < (piece.end - piece.begin) / 4; ++i) {
      state = add_word(slice, state, words[i]);
    }
  }
  // Threads without a piece hold zero, and zero they add.
  state = multiply(state, kTables.shift[threadIdx.x]);

  for (int lane = 16; lane != 0; lane /= 2) state ^= __shfl_xor_sync(~0u, state, lane);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = state;
  __syncthreads();
  if (threadIdx.x == 0) {
    std::uint32_t sum = 0;
    for (unsigned i = 0; i < kThreads / 32; ++i) sum ^= sums[i];
    out[blockIdx.x] = ~sum;
  }
}

}  // namespace

cudaError_t launch(const std::byte* data, std::size_t run_bytes, std::size_t runs,
                   std::size_t block_bytes, std::uint32_t* out, cudaStream_t stream) {
  const std::size_t per_run = (run_bytes + block_bytes - 1) / block_bytes;
  digest<<<static_cast<unsigned>(per_run * runs), kThreads, 0, stream>>>(
      data, run_bytes, static_cast<unsigned>(block_bytes), static_cast<unsigned>(per_run), out);
  return cudaGetLastError();
}

}  // namespace cake::inline CAKE_ABI::cuda::crc
