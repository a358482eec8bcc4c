// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// The smallest program that restores a prompt: an engine whose "KV" of a token is its id, a store
// in memory. examples/custom_engine.cpp shows what a real engine writes instead.
#include <cake/cake.hpp>
#include <cake/storage/memory.hpp>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <thread>
#include <vector>

struct Toy {
  std::vector<cake::TokenId> k, v;
  cake::UniformKvLayout layout() const { return {1, 1, 1, cake::DType::f32, cake::KvOrder::nhd}; }
  cake::ModelFingerprint fingerprint() const {
    return cake::FingerprintBuilder().add("weights", "toy").finish();
  }
  cake::Status prefill(cake::Tokens prompt, cake::TokenRange range) {
    for (auto t = range.begin; t < range.end; ++t) k[t] = prompt[t], v[t] = -prompt[t];
    std::this_thread::sleep_for(std::chrono::microseconds(50) * range.size());  // a real one works
    return {};
  }
  cake::Status insert(const cake::Slice& slice, const cake::KvView& in) {
    std::memcpy(&k[slice.tokens.begin], in.k(0).data(), in.k(0).size());
    std::memcpy(&v[slice.tokens.begin], in.v(0).data(), in.v(0).size());
    return {};
  }
  cake::Status extract(const cake::Slice& slice, const cake::MutableKvView& out) {
    std::memcpy(out.k(0).data(), &k[slice.tokens.begin], out.k(0).size());
    std::memcpy(out.v(0).data(), &v[slice.tokens.begin], out.v(0).size());
    return {};
  }
};
static_assert(cake::ComputeBackend<Toy>);

int main() {
  std::vector<cake::TokenId> prompt(1000);
  std::iota(prompt.begin(), prompt.end(), 1);
  Toy engine{std::vector<cake::TokenId>(1000), std::vector<cake::TokenId>(1000)};
  cake::MemoryStorage store;
  cake::Loader loader(engine, store, {.chunks = {.chunk_tokens = 64}});

  if (!loader.prefill(prompt).status || !loader.save(prompt).status) return 1;
  const auto computed = engine.k;
  engine.k.assign(1000, 0);
  const cake::PrefillReport report = loader.prefill(prompt);
  std::printf("%u tokens computed, %u loaded, met at token %u\n%s", report.tokens_computed,
              report.tokens_loaded, report.meet_token, report.timeline().c_str());
  return report.status && engine.k == computed ? 0 : 1;
}
