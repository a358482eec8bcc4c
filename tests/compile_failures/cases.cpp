// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
//
// Mistakes that must not compile, and what the compiler then says. run.cmake compiles this file once
// for each line of the form
//
//     // case NAME: text that the compiler's output contains
//
// with CASE_NAME defined; without any it compiles.
#include "cake/engine.hpp"
#include "cake/scheduler.hpp"
#include "cake/storage_backend.hpp"

using cake::ChunkKey;
using cake::ConstBytes;
using cake::KvView;
using cake::LayerGate;
using cake::MutableBytes;
using cake::MutableKvView;
using cake::Result;
using cake::Slice;
using cake::Status;
using cake::StoredChunk;
using cake::TokenRange;
using cake::Tokens;

struct Engine {
#if defined(CASE_abilities_of_a_store)
  // case abilities_of_a_store: `abilities` is of another type than this contract's
  static constexpr cake::StorageAbilities abilities{.tiers = true};
#elif defined(CASE_ability_misspelt)
  // case ability_misspelt: insert_on_calller
  static constexpr cake::EngineAbilities abilities{.insert_on_calller = true};
#elif defined(CASE_abilities_private)
  // case abilities_private: `abilities` has to be public
 private:
  static constexpr cake::EngineAbilities abilities{.insert_on_caller = true};

 public:
#elif defined(CASE_abilities_no_constant)
  // case abilities_no_constant: `abilities` has to be static constexpr
  cake::EngineAbilities abilities{.insert_on_caller = true};
#elif defined(CASE_insert_on_caller_alone)
  // case insert_on_caller_alone: no members of an engine, but of its abilities
  static constexpr bool insert_on_caller = true;
#elif defined(CASE_inserts_from_device_alone)
  // case inserts_from_device_alone: no members of an engine, but of its abilities
  static constexpr bool inserts_from_device = true;
#elif defined(CASE_staging_memory_undeclared)
  // case staging_memory_undeclared: an engine with staging_memory() has to declare it
  cake::StagingMemory* staging_memory() { return nullptr; }
#elif defined(CASE_staging_memory_missing)
  // case staging_memory_missing: the ability staging_memory asks for
  static constexpr cake::EngineAbilities abilities{.staging_memory = true};
#elif defined(CASE_staging_memory_wrong)
  // case staging_memory_wrong: the ability staging_memory asks for
  static constexpr cake::EngineAbilities abilities{.staging_memory = true};
  std::byte* staging_memory() { return nullptr; }
#elif defined(CASE_gates_without_gate)
  // case gates_without_gate: gates = true asks for
  static constexpr cake::EngineAbilities abilities{.gates = true};
#elif defined(CASE_gates_with_whole_chunks)
  // case gates_with_whole_chunks: so it cannot have gates = true
  static constexpr cake::EngineAbilities abilities{.whole_chunks = true, .gates = true};
  Status prefill(Tokens, TokenRange, LayerGate) { return {}; }
#elif defined(CASE_wide_steps_without_gates)
  // case wide_steps_without_gates: wide_gated_steps asks for an engine that takes gated steps
  static constexpr cake::EngineAbilities abilities{.wide_gated_steps = true};
#elif defined(CASE_parallel_extracts_on_caller)
  // case parallel_extracts_on_caller: so it cannot have parallel_extracts
  static constexpr cake::EngineAbilities abilities{.insert_on_caller = true,
                                                   .parallel_extracts = 4};
#elif defined(CASE_smallest_step_zero)
  // case smallest_step_zero: are at least 1
  static constexpr cake::EngineAbilities abilities{.smallest_step = 0};
#endif

#if defined(CASE_layout_missing)
  // case layout_missing: m.layout()
#elif defined(CASE_layout_wrong)
  // case layout_wrong: m.layout()
  int layout() const { return 0; }
#else
  cake::UniformKvLayout layout() const { return {1, 1, 1}; }
#endif

#if defined(CASE_fingerprint_missing)
  // case fingerprint_missing: m.fingerprint()
#else
  cake::ModelFingerprint fingerprint() const { return {}; }
#endif

#if defined(CASE_insert_missing)
  // case insert_missing: m.insert(slice, in)
#elif defined(CASE_insert_wrong)
  // case insert_wrong: m.insert(slice, in)
  void insert(const Slice&, const KvView&) {}
#else
  Status insert(const Slice&, const KvView&) { return {}; }
#endif

#if defined(CASE_extract_missing)
  // case extract_missing: m.extract(slice, out)
#elif defined(CASE_extract_wrong)
  // case extract_wrong: m.extract(slice, out)
  Status extract(const Slice&, KvView&) { return {}; }
#else
  Status extract(const Slice&, const MutableKvView&) { return {}; }
#endif

#if defined(CASE_prefill_missing)
  // case prefill_missing: prefill(c, prompt, range, gate)
#elif defined(CASE_prefill_wrong)
  // case prefill_wrong: prefill(c, prompt, range, gate)
  bool prefill(Tokens, TokenRange) { return true; }
#elif defined(CASE_wait_for_wrong)
  // case wait_for_wrong: wait_for() of a completion has to be
  struct Pass {
    bool ready() { return true; }
    Status wait() { return {}; }
    bool wait_for(int) { return true; }
  };
  Pass prefill(Tokens, TokenRange) { return {}; }
#elif defined(CASE_cancel_wrong)
  // case cancel_wrong: cancel() of a completion has to be
  struct Pass {
    bool ready() { return true; }
    Status wait() { return {}; }
    bool cancel() noexcept { return true; }
  };
  Pass prefill(Tokens, TokenRange) { return {}; }
#else
  Status prefill(Tokens, TokenRange) { return {}; }
#endif
};
static_assert(cake::ComputeBackend<Engine>);

const std::vector<StoredChunk> kNone;

struct Store {
#if defined(CASE_store_ability_misspelt)
  // case store_ability_misspelt: lookup_never_block
  static constexpr cake::StorageAbilities abilities{.lookup_never_block = true};
#elif defined(CASE_lookup_never_blocks_alone)
  // case lookup_never_blocks_alone: lookup_never_blocks is no member of a store
  static constexpr bool lookup_never_blocks = true;
#elif defined(CASE_tiers_undeclared)
  // case tiers_undeclared: has to declare it
  std::uint32_t tiers() { return 2; }
#elif defined(CASE_write_new_undeclared)
  // case write_new_undeclared: has to declare it
  bool write_new(const ChunkKey&, ConstBytes) { return true; }
#elif defined(CASE_tiers_missing)
  // case tiers_missing: the ability tiers asks for
  static constexpr cake::StorageAbilities abilities{.tiers = true};
#elif defined(CASE_lookup_problem_wrong)
  // case lookup_problem_wrong: the ability lookup_problem asks for
  static constexpr cake::StorageAbilities abilities{.lookup_problem = true};
  bool lookup_problem() { return false; }
#elif defined(CASE_lookup_tier_wrong)
  // case lookup_tier_wrong: the ability lookup_tier asks for
  static constexpr cake::StorageAbilities abilities{.lookup_tier = true};
  Result<std::vector<StoredChunk>> lookup_tier(std::span<const ChunkKey>) { return kNone; }
#elif defined(CASE_erase_tier_wrong)
  // case erase_tier_wrong: the ability erase_tier asks for
  static constexpr cake::StorageAbilities abilities{.erase_tier = true};
  void erase_tier(std::uint32_t, const ChunkKey&) {}
#elif defined(CASE_device_staging_wrong)
  // case device_staging_wrong: the ability device_staging asks for
  static constexpr cake::StorageAbilities abilities{.device_staging = true};
  cake::StagingMemory* device_staging() { return nullptr; }
#elif defined(CASE_stored_bytes_differ_wrong)
  // case stored_bytes_differ_wrong: the ability stored_bytes_differ asks for
  static constexpr cake::StorageAbilities abilities{.stored_bytes_differ = true};
  bool stored_bytes_differ(const ChunkKey&, ConstBytes) { return false; }
#elif defined(CASE_write_new_wrong)
  // case write_new_wrong: the ability write_new asks for
  static constexpr cake::StorageAbilities abilities{.write_new = true};
  Status write_new(const ChunkKey&, ConstBytes) { return {}; }
#elif defined(CASE_make_room_undeclared)
  // case make_room_undeclared: has to declare it
  Result<cake::ObjectRoom> make_room(const ChunkKey&, std::uint64_t) { return cake::ObjectRoom(); }
#elif defined(CASE_write_in_place_missing)
  // case write_in_place_missing: the ability write_in_place asks for
  static constexpr cake::StorageAbilities abilities{.write_in_place = true};
#elif defined(CASE_borrow_undeclared)
  // case borrow_undeclared: has to declare it
  Result<cake::BorrowedBytes> borrow(std::uint32_t, const ChunkKey&, std::uint64_t, std::uint64_t) {
    return cake::BorrowedBytes();
  }
#elif defined(CASE_borrow_missing)
  // case borrow_missing: the ability borrow asks for
  static constexpr cake::StorageAbilities abilities{.borrow = true};
#elif defined(CASE_borrow_wrong)
  // case borrow_wrong: the ability borrow asks for
  static constexpr cake::StorageAbilities abilities{.borrow = true};
  Result<ConstBytes> borrow(std::uint32_t, const ChunkKey&, std::uint64_t, std::uint64_t) {
    return ConstBytes();
  }
#elif defined(CASE_read_pieces_missing)
  // case read_pieces_missing: the ability read_pieces asks for
  static constexpr cake::StorageAbilities abilities{.read_pieces = true};
#elif defined(CASE_read_pieces_wrong)
  // case read_pieces_wrong: the ability read_pieces asks for
  static constexpr cake::StorageAbilities abilities{.read_pieces = true};
  Result<bool> read_pieces(std::uint32_t, const ChunkKey&, std::uint64_t, cake::MutableBytes,
                           std::shared_ptr<cake::PieceSink>) {
    return true;
  }
#elif defined(CASE_read_pieces_undeclared)
  // case read_pieces_undeclared: has to declare it
  Status read_pieces(std::uint32_t, const ChunkKey&, std::uint64_t, cake::MutableBytes,
                     std::shared_ptr<cake::PieceSink>) {
    return {};
  }
#elif defined(CASE_lends_missing)
  // case lends_missing: the abilities borrow and tiers together ask for
  static constexpr cake::StorageAbilities abilities{.tiers = true, .borrow = true};
  std::uint32_t tiers() { return 2; }
  Result<cake::BorrowedBytes> borrow(std::uint32_t, const ChunkKey&, std::uint64_t, std::uint64_t) {
    return cake::BorrowedBytes();
  }
#elif defined(CASE_promote_undeclared)
  // case promote_undeclared: has to declare it
  void promote(std::uint32_t, const ChunkKey&, cake::BorrowedBytes) {}
#elif defined(CASE_promote_wrong)
  // case promote_wrong: the ability promote asks for
  static constexpr cake::StorageAbilities abilities{.promote = true};
  void promote(const ChunkKey&, cake::BorrowedBytes) {}
#elif defined(CASE_read_on_caller_undeclared)
  // case read_on_caller_undeclared: has to declare it
  Status read_on_caller(std::uint32_t, const ChunkKey&, std::uint64_t, cake::MutableBytes) {
    return {};
  }
#elif defined(CASE_read_on_caller_unsaid)
  // case read_on_caller_unsaid: the ability read_on_caller asks for
  static constexpr cake::StorageAbilities abilities{.read_on_caller = true};
  Status read_on_caller(std::uint32_t, const ChunkKey&, std::uint64_t, cake::MutableBytes) {
    return {};
  }
#elif defined(CASE_lends_alone)
  // case lends_alone: has to declare it
  bool lends(std::uint32_t) { return true; }
#endif

#if defined(CASE_lookup_missing)
  // case lookup_missing: s.lookup(keys)
#elif defined(CASE_lookup_wrong)
  // case lookup_wrong: s.lookup(keys)
  std::vector<StoredChunk> lookup(std::span<const ChunkKey>) { return {}; }
#else
  Result<std::vector<StoredChunk>> lookup(std::span<const ChunkKey>) { return kNone; }
#endif

#if defined(CASE_read_missing)
  // case read_missing: s.read(tier, key, offset, out)
#elif defined(CASE_read_wrong)
  // case read_wrong: s.read(tier, key, offset, out)
  Status read(const ChunkKey&, std::uint64_t, MutableBytes) { return {}; }
#else
  Status read(std::uint32_t, const ChunkKey&, std::uint64_t, MutableBytes) { return {}; }
#endif

#if defined(CASE_write_missing)
  // case write_missing: s.write(key, in)
#elif defined(CASE_write_wrong)
  // case write_wrong: s.write(key, in)
  Result<bool> write(const ChunkKey&, ConstBytes) { return true; }
#else
  Status write(const ChunkKey&, ConstBytes) { return {}; }
#endif

#if defined(CASE_erase_missing)
  // case erase_missing: s.erase(key)
#elif defined(CASE_erase_wrong)
  // case erase_wrong: s.erase(key)
  bool erase(const ChunkKey&) { return true; }
#else
  Status erase(const ChunkKey&) { return {}; }
#endif
};
static_assert(cake::StorageBackend<Store>);

struct Sched {
#if defined(CASE_begin_missing)
  // case begin_missing: s.begin(spec)
#elif defined(CASE_begin_wrong)
  // case begin_wrong: s.begin(spec)
  void begin() {}
#else
  void begin(const cake::PrefillSpec&) {}
#endif

#if defined(CASE_next_step_missing)
  // case next_step_missing: s.next_step(view, budget, now)
#elif defined(CASE_next_step_wrong)
  // case next_step_wrong: s.next_step(view, budget, now)
  cake::Step next_step(const cake::RunView&, std::uint32_t) { return {}; }
#else
  cake::Step next_step(const cake::RunView&, std::uint32_t, cake::Time) { return {}; }
#endif

#if defined(CASE_next_load_missing)
  // case next_load_missing: s.next_load(view, lane, now)
#elif defined(CASE_next_load_wrong)
  // case next_load_wrong: s.next_load(view, lane, now)
  cake::LoadRequest next_load(const cake::RunView&, cake::LaneId, cake::Time) { return {}; }
#else
  std::optional<cake::LoadRequest> next_load(const cake::RunView&, cake::LaneId, cake::Time) {
    return {};
  }
#endif

#if defined(CASE_predicted_meet_wrong)
  // case predicted_meet_wrong: predicted_meet() of a scheduler has to be
  std::uint32_t predicted_meet(const cake::RunView&) { return 0; }
#elif defined(CASE_compute_cost_wrong)
  // case compute_cost_wrong: compute_cost() of a scheduler has to be const
  double compute_cost() const { return 0; }
#elif defined(CASE_ended_wrong)
  // case ended_wrong: ended() of a scheduler has to be
  void ended() {}
#elif defined(CASE_gate_until_wrong)
  // case gate_until_wrong: gate_until() of a scheduler has to be
  bool gate_until(const cake::RunView&, cake::Time) { return false; }
#elif defined(CASE_step_at_once_wrong)
  // case step_at_once_wrong: step_at_once() of a scheduler has to be
  cake::Step step_at_once(const cake::RunView&, std::uint32_t, cake::Time) { return {}; }
#endif
};
static_assert(cake::Scheduler<Sched>);
