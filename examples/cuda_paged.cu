// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "cuda_paged.hpp"

namespace cake::examples {
namespace {

constexpr int kRounds = 20000;  // what makes it slow: about 5 ms for 256 tokens of 8 layers
constexpr int kVectors = kTokenBytes / sizeof(uint4);

__device__ unsigned long long mix(unsigned long long x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}
__device__ unsigned long long token_hash(const ToyLayer& p, unsigned t) {
  return mix(mix(static_cast<unsigned long long>(p.tokens[t]) << 32 | t) + p.layer);
}
__device__ uint4* row(void* pool, const ToyLayer& p, unsigned t) {
  const std::size_t at = static_cast<std::size_t>(p.table[t / kPageTokens]) * kPageTokens;
  return static_cast<uint4*>(pool) + (at + t % kPageTokens) * kVectors;
}
__device__ uint4 words(unsigned long long seed) {
  const unsigned long long a = mix(seed), b = mix(a);
  return make_uint4(static_cast<unsigned>(a), static_cast<unsigned>(a >> 32),
                    static_cast<unsigned>(b), static_cast<unsigned>(b >> 32));
}

/// One block for each token. A row of K begins with its token's hash.
__global__ void toy_kernel(const ToyLayer p) {
  __shared__ unsigned long long so_far;
  const unsigned t = p.begin + blockIdx.x;
  if (threadIdx.x == 0) so_far = 0;
  __syncthreads();
  unsigned long long mine = 0;
  for (unsigned s = threadIdx.x; s <= t; s += blockDim.x) {
    const unsigned long long h = s < p.begin
                                     ? *reinterpret_cast<const unsigned long long*>(row(p.k, p, s))
                                     : token_hash(p, s);
    mine ^= mix(h + s);
  }
  atomicXor(&so_far, mine);
  __syncthreads();
  unsigned long long x = so_far + threadIdx.x;
  for (int i = 0; i < kRounds; ++i) x = mix(x);
  if (threadIdx.x < kVectors) {
    uint4 k = words(x);
    if (threadIdx.x == 0) {
      const unsigned long long h = token_hash(p, t);
      k.x = static_cast<unsigned>(h);
      k.y = static_cast<unsigned>(h >> 32);
    }
    row(p.k, p, t)[threadIdx.x] = k;
    row(p.v, p, t)[threadIdx.x] = words(~x);
  }
}

}  // namespace

cudaError_t toy_layer(const ToyLayer& pass, cudaStream_t stream) {
  toy_kernel<<<pass.end - pass.begin, 128, 0, stream>>>(pass);
  return cudaPeekAtLastError();
}

}  // namespace cake::examples
