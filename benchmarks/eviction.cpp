// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Which objects a bounded store should let go: policies over traces of prompts, in virtual time.
//
//     eviction [PROMPTS]
//
// A prompt is a chain of chunks. What a policy holds of it is loaded, the rest is computed and then
// stored. Two figures for each policy, trace and capacity: the share of all chunks that were loaded, and
// the share of all compute that this saved; a chunk's compute grows with its position (attention).
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <list>
#include <memory>
#include <random>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "cake/identity.hpp"
#include "src/storage/posix/index.hpp"

namespace {

using cake::ChunkKey;

struct Chunk {
  std::uint64_t id = 0;
  std::uint32_t position = 0;  // in its prompt
};
struct Prompt {
  std::int64_t second = 0;
  std::vector<Chunk> chunks;
};

// ---- traces ----

struct Shape {
  const char* name;
  double scans;  // share of prompts that nobody sends again
  double turns;  // share of prompts that go on with one of the last conversations
};

class Trace {
 public:
  Trace(const Shape& shape, std::uint64_t seed) : shape_(shape), random_(seed) {
    constexpr std::size_t documents = 3000;
    double sum = 0;
    for (std::size_t i = 0; i < documents; ++i) {
      sum += 1.0 / std::pow(static_cast<double>(i + 1), 0.9);  // Zipf
      weights_.push_back(sum);
      std::vector<Chunk> chunks;
      extend(chunks, 4 + random_() % 61);
      documents_.push_back(std::move(chunks));
    }
  }
  std::size_t chunks_of_documents() const {
    std::size_t n = 0;
    for (const auto& document : documents_) n += document.size();
    return n;
  }

  Prompt next() {
    Prompt prompt;
    prompt.second = second_ += static_cast<std::int64_t>(random_() % 5);
    const double kind = uniform();
    if (kind < shape_.scans) {
      extend(prompt.chunks, 16 + random_() % 81);
      return prompt;
    }
    if (kind < shape_.scans + shape_.turns && !conversations_.empty()) {
      // The younger ones more often.
      const double place = std::pow(uniform(), 2.0) * static_cast<double>(conversations_.size());
      auto& conversation =
          conversations_[conversations_.size() - 1 - static_cast<std::size_t>(place)];
      extend(conversation, 1 + random_() % 3);
      prompt.chunks = conversation;
      return prompt;
    }
    const double drawn = uniform() * weights_.back();
    const auto at = std::lower_bound(weights_.begin(), weights_.end(), drawn) - weights_.begin();
    prompt.chunks = documents_[static_cast<std::size_t>(at)];
    extend(prompt.chunks, random_() % 3);
    if (shape_.turns > 0) {
      conversations_.push_back(prompt.chunks);
      if (conversations_.size() > 400) conversations_.erase(conversations_.begin());
    }
    return prompt;
  }

 private:
  double uniform() { return std::uniform_real_distribution<double>(0, 1)(random_); }
  void extend(std::vector<Chunk>& chunks, std::size_t by) {
    for (; by > 0; --by) chunks.push_back({next_id_++, static_cast<std::uint32_t>(chunks.size())});
  }

  const Shape shape_;
  std::mt19937_64 random_;
  std::vector<double> weights_;
  std::vector<std::vector<Chunk>> documents_, conversations_;
  std::uint64_t next_id_ = 1;
  std::int64_t second_ = 1'000'000;
};

// ---- policies ----

class Policy {
 public:
  explicit Policy(std::size_t capacity) : capacity_(capacity) {}
  virtual ~Policy() = default;
  /// Whether it is held; then it is read.
  virtual bool read(const Chunk& chunk, std::int64_t second) = 0;
  virtual void write(const Chunk& chunk, std::int64_t second) = 0;

 protected:
  const std::size_t capacity_;
};

/// The first written, or the longest unread, goes first.
class Queue final : public Policy {
 public:
  Queue(std::size_t capacity, bool lru) : Policy(capacity), lru_(lru) {}
  bool read(const Chunk& chunk, std::int64_t) override {
    const auto it = places_.find(chunk.id);
    if (it == places_.end()) return false;
    if (lru_) queue_.splice(queue_.end(), queue_, it->second);
    return true;
  }
  void write(const Chunk& chunk, std::int64_t) override {
    places_.emplace(chunk.id, queue_.insert(queue_.end(), chunk.id));
    if (places_.size() <= capacity_) return;
    places_.erase(queue_.front());
    queue_.pop_front();
  }

 private:
  const bool lru_;
  std::list<std::uint64_t> queue_;
  std::unordered_map<std::uint64_t, std::list<std::uint64_t>::iterator> places_;
};

/// S3-FIFO as it was published: a small queue for what is new, a main one with a few second chances,
/// and the keys of what left the small one.
class S3Fifo final : public Policy {
 public:
  explicit S3Fifo(std::size_t capacity) : Policy(capacity), small_most_(capacity / 10) {}
  bool read(const Chunk& chunk, std::int64_t) override {
    const auto it = uses_.find(chunk.id);
    if (it == uses_.end()) return false;
    it->second = std::min(it->second + 1, 3);
    return true;
  }
  void write(const Chunk& chunk, std::int64_t) override {
    while (uses_.size() >= capacity_) evict();
    uses_.emplace(chunk.id, 0);
    (ghosts_.erase(chunk.id) != 0 ? main_ : small_).push_back(chunk.id);
  }

 private:
  void evict() {
    if (small_.size() > small_most_ || main_.empty()) return evict_small();
    const std::uint64_t id = main_.front();
    main_.pop_front();
    int& uses = uses_.at(id);
    if (uses == 0) {
      uses_.erase(id);
    } else {
      --uses;
      main_.push_back(id);
    }
  }
  void evict_small() {
    const std::uint64_t id = small_.front();
    small_.pop_front();
    int& uses = uses_.at(id);
    if (uses > 0) {
      uses = 0;
      main_.push_back(id);
      return;
    }
    uses_.erase(id);
    ghosts_.insert(id);
    ghost_queue_.push_back(id);
    while (ghost_queue_.size() > capacity_) {
      ghosts_.erase(ghost_queue_.front());
      ghost_queue_.pop_front();
    }
  }

  const std::size_t small_most_;
  std::list<std::uint64_t> small_, main_, ghost_queue_;
  std::unordered_set<std::uint64_t> ghosts_;
  std::unordered_map<std::uint64_t, int> uses_;
};

/// As PosixStorage: classes of age that double, and within one the front of chains first. What was
/// never read counts as `probation` classes older.
class Classes final : public Policy {
 public:
  Classes(std::size_t capacity, int probation, bool front_first = true)
      : Policy(capacity), probation_(probation), front_first_(front_first) {}
  bool read(const Chunk& chunk, std::int64_t second) override {
    if (!held_.contains(chunk.id)) return false;
    index_.put(key_of(chunk.id), {1, second, chunk.position, true, false, 0});
    return true;
  }
  void write(const Chunk& chunk, std::int64_t second) override {
    held_.insert(chunk.id);
    const auto keep = static_cast<std::int8_t>(-probation_);
    index_.put(key_of(chunk.id), {1, second, chunk.position, true, false, keep});
    if (index_.size() <= capacity_) return;
    while (index_.size() > capacity_ - capacity_ / 10) evict(second);
  }

 private:
  static ChunkKey key_of(std::uint64_t id) {
    ChunkKey key;
    const std::uint64_t mixed = id * 0x9E3779B97F4A7C15;
    std::memcpy(key.bytes.data(), &mixed, sizeof mixed);
    std::memcpy(key.bytes.data() + sizeof mixed, &id, sizeof id);
    return key;
  }
  void evict(std::int64_t second) {
    auto oldest = index_.oldest(second, 1024);
    if (front_first_) {
      std::sort(oldest.begin(), oldest.end(), [](const auto& a, const auto& b) {
        return std::tie(a.object.position, a.object.used) <
               std::tie(b.object.position, b.object.used);
      });
    }
    for (std::size_t i = 0; i < std::min<std::size_t>(oldest.size(), 256); ++i) {
      std::uint64_t id = 0;
      std::memcpy(&id, oldest[i].key.bytes.data() + sizeof id, sizeof id);
      held_.erase(id);
      index_.remove(oldest[i].key);
    }
  }

  const int probation_;
  const bool front_first_;
  std::unordered_set<std::uint64_t> held_;
  cake::detail::ObjectIndex index_;
};

// ---- runs ----

struct Shares {
  double chunks = 0, compute = 0;
};

Shares run(const Shape& shape, Policy& policy, std::size_t prompts) {
  Trace trace(shape, 7);
  double all = 0, loaded = 0, cost = 0, saved = 0;
  for (std::size_t p = 0; p < prompts; ++p) {
    const Prompt prompt = trace.next();
    std::vector<Chunk> computed;
    for (const Chunk& chunk : prompt.chunks) {
      const bool held = policy.read(chunk, prompt.second);
      if (!held) computed.push_back(chunk);
      if (p < prompts / 4) continue;  // until it is full
      // A chunk of an 8B model: attention takes as long as the rest at some 100 chunks of 256.
      const double price = 1 + chunk.position / 100.0;
      all += 1;
      cost += price;
      loaded += held ? 1 : 0;
      saved += held ? price : 0;
    }
    for (const Chunk& chunk : computed) policy.write(chunk, prompt.second);
  }
  return {loaded / all, saved / cost};
}

}  // namespace

int main(int argc, char** argv) {
  const std::size_t prompts = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 40000;
  constexpr Shape shapes[] = {{"documents", 0, 0},
                              {"documents, a third scans", 0.33, 0},
                              {"documents, two thirds scans", 0.67, 0},
                              {"conversations", 0, 0.6},
                              {"conversations, a third scans", 0.33, 0.4}};
  for (const Shape& shape : shapes) {
    for (const double part : {0.05, 0.2}) {
      const auto capacity = static_cast<std::size_t>(
          part * static_cast<double>(Trace(shape, 7).chunks_of_documents()));
      std::printf("%s, capacity %.0f %% of the documents: chunks loaded, compute saved (%%)\n",
                  shape.name, 100 * part);
      const auto row = [&](const char* name, Policy&& policy) {
        const Shares shares = run(shape, policy, prompts);
        std::printf("  %-34s %5.1f %5.1f\n", name, 100 * shares.chunks, 100 * shares.compute);
      };
      row("FIFO", Queue(capacity, false));
      row("LRU", Queue(capacity, true));
      row("S3-FIFO", S3Fifo(capacity));
      row("classes, by use within one", Classes(capacity, 0, false));
      row("classes, front first", Classes(capacity, 0));
      for (const int probation : {1, 2, 4}) {
        const std::string name = "  and probation of " + std::to_string(probation);
        row(name.c_str(), Classes(capacity, probation));
      }
    }
  }
}
