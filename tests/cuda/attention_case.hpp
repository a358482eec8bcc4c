// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// One attention problem with everything around it poisoned, solved by a kernel or by fp64 on the
// host.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "cake/cuda/attention.hpp"
#include "cake/cuda/runtime.hpp"
#include "tests/catch.hpp"

namespace cake::inline CAKE_ABI::testing {

struct AttentionSpec {
  struct Sequence {
    std::uint32_t queries = 1;
    std::uint32_t keys = 1;
  };
  std::vector<Sequence> sequences = {{}};
  std::uint32_t n_heads = 4;
  std::uint32_t n_kv_heads = 1;
  std::uint32_t dim = 128;
  DType dtype = DType::bf16;
  std::uint32_t page = 16;  // tokens; 0: contiguous
  KvOrder order = KvOrder::nhd;
  std::uint32_t num_splits = 0;
  double spread = 1;      // of the scores: standard deviation
  std::uint32_t pad = 0;  // elements between rows of q and out, a multiple of 8
  std::uint64_t seed = 1;

  std::string text() const {
    std::ostringstream s;
    s << n_heads << "/" << n_kv_heads << " heads, d " << dim << ", " << to_string(dtype)
      << ", page " << page << " " << to_string(order) << ", splits " << num_splits << ", spread "
      << spread << ":";
    for (const Sequence& x : sequences) s << " " << x.queries << " over " << x.keys;
    return s.str();
  }
};

/// How far one answer is from another.
struct Distance {
  double relative = 0;     // ||a - b|| / ||b|| of the outputs; NaN where one is NaN
  double softmax_lse = 0;  // largest difference
};

class AttentionCase {
 public:
  explicit AttentionCase(const AttentionSpec& spec, std::uint64_t page_seed = 7) : spec_(spec) {
    std::mt19937_64 random(spec.seed);
    std::normal_distribution<float> normal;
    query_begin_.push_back(0);
    for (const auto& s : spec.sequences) {
      query_begin_.push_back(query_begin_.back() + static_cast<std::int32_t>(s.queries));
      n_keys_.push_back(static_cast<std::int32_t>(s.keys));
      max_queries_ = std::max(max_queries_, s.queries);
      max_keys_ = std::max(max_keys_, s.keys);
    }
    const auto tokens = static_cast<std::size_t>(query_begin_.back());
    q_.resize(tokens * spec.n_heads * spec.dim);
    for (float& x : q_) x = rounded(normal(random) * static_cast<float>(spec.spread));
    for (const auto& s : spec.sequences) {
      keys_.emplace_back(std::size_t{s.keys} * spec.n_kv_heads * spec.dim);
      values_.emplace_back(keys_.back().size());
      for (float& x : keys_.back()) x = rounded(normal(random));
      for (float& x : values_.back()) x = rounded(normal(random));
    }
    lay_out(page_seed);
  }

  using Launch = Status (*)(const cuda::AttentionArgs&, cudaStream_t);

  /// Runs a kernel on poisoned output; the bytes of out, rows and padding.
  std::vector<std::uint16_t> run(Launch launch) {
    cuda::AttentionArgs args = this->args();
    cuda::DeviceBuffer workspace;
    if (launch != &cuda::attention_reference) {
      workspace = cuda::DeviceBuffer(cuda::attention_workspace_bytes(args.shape).value());
      REQUIRE(cudaMemset(workspace.data(), 0xff, workspace.size()) == cudaSuccess);
      args.workspace = workspace.data();
      args.workspace_bytes = workspace.size();
    }
    REQUIRE(cudaMemset(out_.data(), 0xff, out_.size()) == cudaSuccess);  // NaN
    REQUIRE(cudaMemset(lse_.data(), 0xff, lse_.size()) == cudaSuccess);
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);  // the stream does not wait for all that
    const cuda::Stream stream;
    const Status status = launch(args, stream.get());
    INFO((status ? std::string() : status.error().message()));
    REQUIRE(status);
    REQUIRE(stream.wait());
    std::vector<std::uint16_t> raw(out_.size() / 2);
    copy(raw.data(), out_.data(), out_.size());
    result_.resize(q_.size());
    for (std::size_t row = 0; row < q_.size() / spec_.dim; ++row) {
      for (std::size_t d = 0; d < spec_.dim; ++d) {
        result_[row * spec_.dim + d] = decode(raw[row * (spec_.dim + spec_.pad) + d]);
      }
      for (std::size_t d = spec_.dim; d < spec_.dim + spec_.pad; ++d) {
        REQUIRE(raw[row * (spec_.dim + spec_.pad) + d] == 0xffff);  // nothing beside the rows
      }
    }
    lse_result_.resize(lse_.size() / 4);
    copy(lse_result_.data(), lse_.data(), lse_.size());
    return raw;
  }
  const std::vector<float>& result() const { return result_; }
  const std::vector<float>& softmax_lse() const { return lse_result_; }

  /// Attention in fp64 on the host.
  void solve(std::vector<float>& out, std::vector<float>& softmax_lse) const {
    const std::size_t heads = spec_.n_heads;
    const std::size_t dim = spec_.dim;
    const auto tokens = static_cast<std::size_t>(query_begin_.back());
    out.assign(q_.size(), 0.0f);
    softmax_lse.assign(heads * tokens, -std::numeric_limits<float>::infinity());
    std::vector<double> weight(max_keys_);
    std::vector<double> sum(dim);
    for (std::size_t s = 0; s < keys_.size(); ++s) {
      const auto queries = static_cast<std::int64_t>(spec_.sequences[s].queries);
      const auto keys = static_cast<std::int64_t>(spec_.sequences[s].keys);
      for (std::int64_t i = 0; i < queries; ++i) {
        const auto seen =
            static_cast<std::size_t>(std::max<std::int64_t>(0, keys - queries + i + 1));
        const auto row = static_cast<std::size_t>(query_begin_[s] + i);
        if (seen == 0) continue;
        for (std::size_t h = 0; h < heads; ++h) {
          const std::size_t kv = h / (heads / spec_.n_kv_heads);
          double top = -1e300;
          for (std::size_t j = 0; j < seen; ++j) {
            double dot = 0;
            for (std::size_t d = 0; d < dim; ++d) {
              dot += double{q_[(row * heads + h) * dim + d]} *
                     double{keys_[s][(j * spec_.n_kv_heads + kv) * dim + d]};
            }
            weight[j] = dot / std::sqrt(static_cast<double>(dim));
            top = std::max(top, weight[j]);
          }
          double total = 0;
          std::fill(sum.begin(), sum.end(), 0.0);
          for (std::size_t j = 0; j < seen; ++j) {
            const double w = std::exp(weight[j] - top);
            total += w;
            for (std::size_t d = 0; d < dim; ++d) {
              sum[d] += w * double{values_[s][(j * spec_.n_kv_heads + kv) * dim + d]};
            }
          }
          for (std::size_t d = 0; d < dim; ++d) {
            out[(row * heads + h) * dim + d] = static_cast<float>(sum[d] / total);
          }
          softmax_lse[h * tokens + row] = static_cast<float>(top + std::log(total));
        }
      }
    }
  }

  static Distance distance(const std::vector<float>& a, const std::vector<float>& lse_a,
                           const std::vector<float>& b, const std::vector<float>& lse_b) {
    Distance distance;
    double difference = 0;
    double size = 1e-30;
    for (std::size_t i = 0; i < a.size(); ++i) {
      const double d = double{a[i]} - double{b[i]};
      difference += d * d;
      size += double{b[i]} * double{b[i]};
    }
    distance.relative = std::sqrt(difference / size);
    for (std::size_t i = 0; i < lse_a.size(); ++i) {
      if (std::isinf(lse_a[i]) && lse_a[i] == lse_b[i]) continue;
      const double d = std::abs(double{lse_a[i]} - double{lse_b[i]});
      distance.softmax_lse = d > distance.softmax_lse || std::isnan(d) ? d : distance.softmax_lse;
    }
    return distance;
  }

  cuda::AttentionArgs args() const {
    cuda::AttentionArgs a;
    a.shape = {spec_.n_heads,
               spec_.n_kv_heads,
               spec_.dim,
               spec_.dtype,
               static_cast<std::uint32_t>(spec_.sequences.size()),
               static_cast<std::uint32_t>(query_begin_.back()),
               max_queries_,
               spec_.num_splits};
    const std::int64_t row = spec_.dim + spec_.pad;
    a.q = q_device_.data();
    a.out = out_.data();
    a.q_head_stride = a.out_head_stride = row;
    a.q_token_stride = a.out_token_stride = row * spec_.n_heads;
    a.softmax_lse = lse_.as<float>();
    a.k = k_device_.data();
    a.v = v_device_.data();
    a.strides = strides_;
    a.page_tokens = spec_.page;
    a.page_table = table_device_.as<std::int32_t>();
    a.table_stride = static_cast<std::int64_t>(pages_per_sequence_);
    a.cu_seqlens_q = begin_device_.as<std::int32_t>();
    a.seqlens_k = keys_device_.as<std::int32_t>();
    return a;
  }

 private:
  void lay_out(std::uint64_t page_seed) {
    const std::size_t sequences = spec_.sequences.size();
    const std::uint32_t page = spec_.page == 0 ? std::max(1u, max_keys_) : spec_.page;
    pages_per_sequence_ = (max_keys_ + page - 1) / page + 1;
    const std::size_t n_pages =
        spec_.page == 0 ? sequences : 2 * pages_per_sequence_ * sequences + 3;
    const UniformKvLayout layout{1, spec_.n_kv_heads, spec_.dim, spec_.dtype, spec_.order};
    strides_ = cuda::PageStrides::packed(layout, page);
    std::vector<std::int32_t> pages(n_pages);
    std::iota(pages.begin(), pages.end(), 0);
    if (spec_.page != 0) {
      std::mt19937_64 random(page_seed);
      std::shuffle(pages.begin(), pages.end(), random);
    }
    const auto page_size = static_cast<std::size_t>(strides_.page);
    std::vector<std::uint16_t> k(n_pages * page_size, 0xffff);  // NaN where nothing belongs
    std::vector<std::uint16_t> v(k.size(), 0xffff);
    // Entries beyond a sequence's keys are never looked at: they name no page at all.
    std::vector<std::int32_t> table(sequences * pages_per_sequence_, 0x7fff'ffff);
    std::size_t next = 0;
    for (std::size_t s = 0; s < sequences; ++s) {
      for (std::size_t j = 0; j < spec_.sequences[s].keys; ++j) {
        std::size_t at = s;
        if (spec_.page != 0) {
          auto& entry = table[s * pages_per_sequence_ + j / page];
          if (j % page == 0) entry = pages[next++];
          at = static_cast<std::size_t>(entry);
        }
        for (std::size_t h = 0; h < spec_.n_kv_heads; ++h) {
          const std::size_t to = at * page_size +
                                 j % page * static_cast<std::size_t>(strides_.token) +
                                 h * static_cast<std::size_t>(strides_.head);
          const std::size_t from = (j * spec_.n_kv_heads + h) * spec_.dim;
          for (std::size_t d = 0; d < spec_.dim; ++d) {
            k[to + d] = encode(keys_[s][from + d]);
            v[to + d] = encode(values_[s][from + d]);
          }
        }
      }
    }
    const std::size_t row = spec_.dim + spec_.pad;
    std::vector<std::uint16_t> q(q_.size() / spec_.dim * row, 0xffff);
    for (std::size_t i = 0; i < q_.size(); ++i) {
      q[i / spec_.dim * row + i % spec_.dim] = encode(q_[i]);
    }
    q_device_ = on_device(q);
    k_device_ = on_device(k);
    v_device_ = on_device(v);
    table_device_ = on_device(table);
    begin_device_ = on_device(query_begin_);
    keys_device_ = on_device(n_keys_);
    out_ = cuda::DeviceBuffer(q.size() * 2);
    lse_ = cuda::DeviceBuffer(q_.size() / spec_.dim * sizeof(float));
  }

  template <class T>
  static cuda::DeviceBuffer on_device(const std::vector<T>& host) {
    cuda::DeviceBuffer buffer(host.size() * sizeof(T));
    copy(buffer.data(), host.data(), buffer.size());
    return buffer;
  }
  static void copy(void* to, const void* from, std::size_t bytes) {
    REQUIRE(cudaMemcpy(to, from, bytes, cudaMemcpyDefault) == cudaSuccess);
  }
  std::uint16_t encode(float x) const {
    std::uint16_t bits;
    if (spec_.dtype == DType::bf16) {
      const __nv_bfloat16 y = __float2bfloat16(x);
      std::memcpy(&bits, &y, 2);
    } else {
      const __half y = __float2half(x);
      std::memcpy(&bits, &y, 2);
    }
    return bits;
  }
  float decode(std::uint16_t bits) const {
    if (spec_.dtype == DType::bf16) {
      __nv_bfloat16 y;
      std::memcpy(static_cast<void*>(&y), &bits, 2);
      return __bfloat162float(y);
    }
    __half y;
    std::memcpy(static_cast<void*>(&y), &bits, 2);
    return __half2float(y);
  }
  float rounded(float x) const { return decode(encode(x)); }

  AttentionSpec spec_;
  std::uint32_t max_queries_ = 0;
  std::uint32_t max_keys_ = 0;
  std::size_t pages_per_sequence_ = 0;
  std::vector<std::int32_t> query_begin_, n_keys_;
  std::vector<float> q_;                           // [token][head][dim]
  std::vector<std::vector<float>> keys_, values_;  // [sequence][token][kv head][dim]
  cuda::PageStrides strides_;
  cuda::DeviceBuffer q_device_, k_device_, v_device_, table_device_, begin_device_, keys_device_;
  cuda::DeviceBuffer out_, lse_;
  std::vector<float> result_, lse_result_;
};

}  // namespace cake::inline CAKE_ABI::testing
