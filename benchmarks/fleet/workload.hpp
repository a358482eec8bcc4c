// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Prompts that come to a fleet: what they have in common, and when they come. Equal seeds give equal
// workloads everywhere.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cake/types.hpp"

namespace cake::benchmarks {

/// Some tokens that several prompts may have; an equal name stands for equal tokens.
struct Segment {
  std::uint64_t name = 0;
  std::uint32_t tokens = 0;
};

struct Request {
  Time arrival{0};
  std::uint32_t device = 0;
  std::vector<Segment> prompt;
  std::uint32_t tokens() const;
};

/// A name for each full chunk. Two prompts have one in common where all their tokens up to the end of the
/// chunk are the same, as with the key of a chunk.
std::vector<std::uint64_t> chunk_names(std::span<const Segment> prompt, std::uint32_t chunk_tokens);

/// Levels of sharing: a system prompt, a document behind it, and the turns of a conversation about that.
/// Each request is the next turn of a conversation that goes on, or the first one of a new one.
struct WorkloadSpec {
  std::uint64_t seed = 1;
  std::uint32_t requests = 10'000;
  std::uint32_t devices = 4;
  // Arrivals: a Poisson process of two states, each of which lasts an exponential time.
  double calm_rate = 12;   // requests a second
  double burst_rate = 40;  // likewise
  double calm_seconds = 8;
  double burst_seconds = 2;
  // How often the k-th most frequent document is taken, and the k-th most frequent system prompt goes
  // before a document: as k to the power of -zipf.
  double zipf = 0.9;
  std::uint32_t systems = 16;
  std::uint32_t system_tokens[2] = {512, 2048};  // at least and at most, evenly in the logarithm
  std::uint32_t documents = 2000;
  std::uint32_t document_tokens[2] = {1024, 16384};
  double goes_on = 0.5;                       // chance that a request goes on with a conversation,
  std::uint32_t open_turns = 200;             // one of so many of the newest
  std::uint32_t turn_tokens[2] = {64, 1024};  // question and answer before
};

std::vector<Request> make_workload(const WorkloadSpec& spec);

}  // namespace cake::benchmarks
