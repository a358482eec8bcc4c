# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
"""The deliberate bugs of mutation_check.py.

A mutant is what it breaks, its edits (exact old text, new text), and what must find it: nothing for
the simulation, else a test source below tests/ and the name of a test case in it. The old text must
occur exactly once in all of include/cake and src, in whatever file.
"""

LAYOUTS = ("simulation/layouts_test.cpp", "wild prefills with planes, windows and states of any kind keep every rule")

MUTANTS = [
    ("a step drops the claim on a chunk", [
        ("    set_state(c, ChunkState::computing);\n",
         "    if (c % 5 != 3) set_state(c, ChunkState::computing);\n")]),
    ("insert after take-over", [
        ("  if (entry->phase != ReadPhase::reading || status_ != Errc::ok) {",
         "  if (status_ != Errc::ok) {")]),
    ("a take-over leaves the read its claim", [
        ("  chunks_.drop_layers(chunk);\n"
         "  reads_.drop_reads_of(chunk);\n",
         "  chunks_.drop_layers(chunk);\n")]),
    ("nobody waits for the insert of a part whose read has failed", [
        ("return reads_.any_claim() || inserting_ != 0;",
         "return reads_.any_claim();")],
     "detail/prefill_state_test.cpp",
     "an insert of a part keeps the run alive when another part of its read has failed"),
    ("take over while inserting", [
        ("    case ChunkState::inserting:\n"
         "    case ChunkState::resident:\n"
         "      return false;",
         "      return true;\n"
         "    case ChunkState::resident:\n"
         "      return false;"),
        ("    if (!detail::may_compute_chunk(view, chunk, end)) break;",
         "    if (!detail::may_compute_chunk(view, chunk, end) && view.state(chunk) != ChunkState::inserting) break;")]),
    ("off by one at the meet: a chunk is taken for whole one token early", [
        ("if (range.end <= end) chunks_.set_state",
         "if (range.end <= end + 1) chunks_.set_state")]),
    ("off by one at the meet: a step runs one token into the loads", [
        ("    end = std::min(limit, spec.chunk_range(chunk).end);\n"
         "  }\n"
         "  return end;",
         "    end = std::min(limit, spec.chunk_range(chunk).end);\n"
         "  }\n"
         "  if (end > view.front() && end < spec.prefix_end()) ++end;\n"
         "  return end;")]),
    ("no wake-up time", [
        ("step.until = std::max(std::min(until, next_deadline()), now + Time(1));",
         "step.until = kNever;\n"
         "    (void)until;\n"
         "    (void)now;"),
        ("  Time earliest = reads_.next_deadline();\n",
         "  return kNever;\n"
         "  Time earliest = reads_.next_deadline();\n")]),
    ("a dead lane is never declared down", [
        ("if (lane >= view().n_lanes() || view().lane(lane).down() == down) return;",
         "if (lane >= view().n_lanes() || view().lane(lane).down() == down || down) return;")]),
    ("a gate opens one layer early", [
        ("    return have(std::min(layer, n_layers() - 1)) == missing_ ? GateAnswer::open",
         "    return have(layer == 0 ? 0 : layer - 1) == missing_ ? GateAnswer::open")]),
    ("a lost chunk does not void the gate", [
        ("    gate_.lost(chunk);\n",
         "")]),
    ("a second slice before the tables are parsed", [
        (": view.parsed(chunk) && (state == ChunkState::loading ||",
         ": (state == ChunkState::loading ||")]),
    ("deadlines are ignored", [
        ("if (entry.phase != ReadPhase::reading || entry.ticket.deadline > now) continue;",
         "if (entry.ticket.deadline > Time{0}) continue;")]),
    ("give_back forgets the front", [
        ("  t_.front = std::min(t_.front, tokens.begin);\n",
         "")]),
    ("give_back forgets the suffix", [
        ("  if (tokens.end > spec.prefix_end()) t_.suffix_front = std::max(tokens.begin, spec.prefix_end());\n",
         "")]),
    ("a chunk whose load failed stays loadable", [
        ("  chunks_.set_unloadable(chunk);\n"
         "  log_.chunk_lost(chunk, why);\n",
         "  log_.chunk_lost(chunk, why);\n")]),
    ("a late landing counts as a failure again", [
        ("  if (entry.holds_claim()) {\n"
         "    log_.read_failed(entry, code, now);\n",
         "  log_.read_failed(entry, code, now);\n"
         "  if (entry.holds_claim()) {\n")]),
    ("the rest of a short step is kept as computed", [
        ("    release({end, ran.tokens.end});\n",
         "")]),
    ("a failed insert counts as good", [
        ("  if (!ok) {\n"
         "    mark_unloadable(chunk, Errc::device);\n"
         "  } else if",
         "  if")]),
    ("an engine without gates gets gated steps", [
        ("if (!step.gated || !view.may_gate() || step.tokens.begin",
         "if (!step.gated || step.tokens.begin")]),
    ("a stalled lane keeps its rate", [
        ("return std::max(1.0, age * rate_",
         "return std::max(1.0, 0 * age * rate_")]),
    ("a read without a deadline is waited for", [
        ("const Time limit = now > kNever - options_.read_timeout ? kNever : now + options_.read_timeout;",
         "const Time limit = kNever;")]),
    ("a chunk becomes a hole while it is inserted", [
        ("if (chunks_.inserting(chunk) ||\n",
         "if (false ||\n")]),
    ("the front passes over chunks that are being inserted", [
        ("} else if (t_.state[chunk] != ChunkState::resident) {",
         "} else if (t_.state[chunk] != ChunkState::resident && t_.state[chunk] != ChunkState::inserting) {")]),
    ("a session that waits for nobody goes on waiting", [
        ("if (!idle() && !idle_timed_out_ && now < idle_until) {",
         "if (!idle_timed_out_) {")]),
    ("a session that waits behind others computes what they delay", [
        ("std::max(idle_since_, others_until()) + idle_timeout;",
         "idle_since_ + idle_timeout;")],
     "detail/session_core_test.cpp",
     "a session that waits behind reads of other prompts is not idle, for as long as a read may take"),
    ("a session waits for ever behind others", [
        ("  return std::min(until, idle_since_ + state_.options().read_timeout);",
         "  return until;")],
     "detail/session_core_test.cpp",
     "a session that waits behind reads of other prompts is not idle, for as long as a read may take"),
    ("a session waits behind others on a lane that has nothing for it", [
        ("    if (view.lane(l).down() || left_to_load(l) == 0) continue;",
         "    if (view.lane(l).down()) continue;")],
     "detail/session_core_test.cpp",
     "a session that waits behind reads of other prompts is not idle, for as long as a read may take"),
    ("a scheduler sees an old count of layers that were asked for", [
        ("    copy.issued[c] = t_.issued[c];\n",
         "")]),
    ("a scheduler does not see that compute has a chunk", [
        ("  if (from == to) return;\n"
         "  touch(chunk);\n",
         "  if (from == to) return;\n"
         "  if (to != ChunkState::computing) touch(chunk);\n")]),
    # ---- planner ----
    ("compute is thought free while steps run", [
        (" +\n"
         "                          step_seconds(out.cost, spec, running);\n",
         ";\n")],
     "detail/planner/snapshot_test.cpp", "compute is free when the steps that were handed out end, the second after the first"),
    ("the suffix costs nothing", [
        ("  result.finish = std::max(t, below) + run.suffix_s;\n",
         "  result.finish = std::max(t, below);\n")],
     "detail/planner/search_test.cpp", "a link that is much faster loads everything"),
    ("chunks go to the lane that is done last", [
        ("      if (done < soonest) {",
         "      if (done > soonest || soonest > 1e17) {")],
     "detail/planner/search_test.cpp", "lanes share by their speed"),
    ("compute does not wait for loads below it", [
        ("      t = std::max(t, below);\n",
         "")],
     "detail/planner/search_test.cpp", "a chunk that only a slow lane holds is computed, and waits for what lies below it"),
    ("no lane is ever left out", [
        ("lanes != 0; lanes &= ~slowest(lanes)) {",
         "lanes != 0; lanes = 0) {")],
     "detail/planner/search_test.cpp", "a chunk that only a slow lane holds is computed, and waits for what lies below it"),
    ("a gated pass hides all of its loads", [
        ("    start = std::max({start, soonest, lane.end - lane.left + lane.fresh});\n",
         "    start = std::max(start, soonest);\n")],
     "detail/planner/search_test.cpp", "a gated suffix hides all but one layer of the last loads"),
    ("loads go from the front", [
        ("    for (std::uint32_t i = end; i-- > begin;) {\n"
         "      if (owner[i] != kNobody) visit(i);",
         "    for (std::uint32_t i = begin; i < end; ++i) {\n"
         "      if (owner[i] != kNobody) visit(i);")],
     "detail/planner/search_test.cpp", "a hole waits for the segment below it, which is loaded first"),
    ("the search for the meeting point goes the wrong way", [
        ("(points.compare(middle) > kPlannerTuning.no_wait_s ? low : high) = middle;",
         "(points.compare(middle) > kPlannerTuning.no_wait_s ? high : low) = middle;")]),
    ("waits behind holes do not count when the meet point is searched", [
        ("      result.waits += std::max(0.0, below - t);\n"
         "      t = std::max(t, below);\n",
         "      t = std::max(t, below);\n")],
     "detail/planner/search_test.cpp", "no candidate ends before the one that the search finds, wherever the holes are"),
    ("passes that holes make dear are not looked at", [
        ("    if (passes_are_dear()) try_holes(points, lanes);\n", "")],
     "detail/planner/search_test.cpp", "no candidate ends before the one that the search finds, wherever the holes are"),
    ("reads on their way are always waited for", [
        ("    if (run_.n_lanes > 1) try_without_late_reads();\n", "")],
     "detail/planner/search_test.cpp", "what a slow lane is reading is taken over when the others bring the rest sooner"),
    ("reads on their way are taken over for any gain", [
        ("    margin_ = kPlannerTuning.take_over_share;\n", "")],
     "detail/planner/search_test.cpp", "a read that lands nearly as soon as compute would be done is waited for"),
    ("a gated pass waits for chunks that compute has", [
        ("    if (schedule_.owner[ready_] == kCompute) return false;\n", "")],
     "simulation/simulation_test.cpp", "a gated step waits only for what lanes read"),
    ("reads in flight are thought resident", [
        ("      at->coming = std::max(at->coming, to_seconds(view.lane(l).resident_at(flight, now)));\n",
         "")]),
    ("loads are not considered", [
        ("    if (first_landing() < best_.finish) try_lanes();\n",
         "    if (first_landing() < 0) try_lanes();\n")]),
    ("layers that were asked for are counted again", [
        ("      left.bytes = static_cast<float>(spec.read_bytes({issued, needed}));",
         "      left.bytes = static_cast<float>(spec.read_bytes({0, needed}));")],
     "detail/planner/snapshot_test.cpp", "only layers of a chunk that were not asked for are still to be read"),
    ("a lane is given reads that the session gives up before they end", [
        ("    if (left.bytes > least) left.tiers = in_time(out, left.tiers, left.bytes);\n",
         "    if (left.bytes > 1e300 * least) left.tiers = in_time(out, left.tiers, left.bytes);\n")],
     "detail/planner/search_test.cpp", "a lane is given no read that it does not end before the session gives it up"),
    ("a read is asked for that waits for another one until it is given up", [
        ("  if (takes - link.insert_of(bytes) > view.spec().read_timeout && !link.in_flight().empty()) {",
         "  if (takes > kNever && !link.in_flight().empty()) {")],
     "scheduler/meet_in_the_middle_test.cpp",
     "a read that would wait for another one until it is given up is asked for behind that one"),
    ("the planner never looks again", [
        ("  if (now < next_search_) return true;\n",
         "  return true;\n")]),
    ("a suffix pass behind loads is not looked at where the last hole lies right below them", [
        ("        if (overlap && meet + 1 == last_computed_) break;\n",
         "")],
     "detail/planner/search_test.cpp", "no candidate ends before the one that the search finds, wherever the holes are"),
    ("a step is always enqueued at once", [
        ("  if (const Time ask = when_needed(view, end); ask > now) return wait_until(ask);\n",
         "")],
     "scheduler/meet_in_the_middle_test.cpp", "a step that loads may make needless is enqueued when the one before it is nearly done"),
    ("a gated pass begins before the first layers are there", [
        ("if (view.unloadable(ready_) || !view.layer_resident(ready_, 0)) return false;",
         "if (view.unloadable(ready_)) return false;")],
     "scheduler/meet_in_the_middle_test.cpp", "the last loads come layer by layer, and the suffix pass follows them gated"),
    ("passes are not learned from", [
        ("    compute_.observe(step.tokens, to_seconds(step.busy));\n", "")]),
    ("the first step of a model is as long as any", [
        ("    end = test_step(view, end, limit);\n",
         "")],
     "scheduler/guesses_test.cpp", "the first step of a model that nobody has measured is a short one"),
    ("the second step of a model does not wait for the first", [
        ("    if (!idle) return wait(now);  // that one will show what passes cost\n",
         "")],
     "scheduler/guesses_test.cpp",
     "the second step waits until the first has shown what passes cost, and is not much longer"),
    ("the second step of a model is as long as any", [
        ("    end = std::min(end, front + most_tested());\n",
         "")],
     "scheduler/guesses_test.cpp",
     "the second step waits until the first has shown what passes cost, and is not much longer"),
    ("compute does not wait for the first read of lanes that nobody has measured", [
        ("lanes_known_at(view); known > now)",
         "lanes_known_at(view); known > kNever)")],
     "scheduler/guesses_test.cpp", "compute waits a moment for the first read of lanes that nobody has measured"),
    ("lanes end early because of a guess", [
        ("  if (cost_is_guess(view) && view.lane(lane).rate().measured != 0) {",
         "  if (cost_is_guess(view) && view.lane(lane).rate().measured > 1'000) {")],
     "scheduler/guesses_test.cpp", "a lane goes on with compute's chunks while nobody has measured a pass"),
    ("a step that should have ended is not noticed", [
        ("  return taken > kPlannerTuning.overdue * expected ? taken / expected : 1;\n",
         "  return taken > kPlannerTuning.overdue * expected ? 1 : 1;\n")],
     "scheduler/guesses_test.cpp", "a step that should have ended makes compute dearer, and the lanes' share larger"),
    ("nothing measures compute where a wrong guess has all loaded", [
        ("  return worth_testing(view, test) ? test : front;\n",
         "  return worth_testing(view, test) ? front : front;\n")],
     "simulation/learning_test.cpp",
     "guesses that are thirty times off cost a long prompt 1.3 of the better baseline at most"),
    ("a lane that looks too slow is never tried", [
        ("  if ((tried_ >> lane & 1) != 0 || link.measured()",
         "  if (tried_ != ~0u || link.measured()")],
     "scheduler/meet_in_the_middle_test.cpp", "a lane that looks too slow gets one read of what compute has, as long as nobody measured it"),
    ("a read may take no longer than expected", [
        ("options_.deadline_factor * expected, measured)",
         "expected, measured)")],
     "scheduler/meet_in_the_middle_test.cpp", "a read may take a multiple of what it should on a lane that was measured, else much more"),
    ("compute runs over the chunks of the lanes", [
        ("    if (loadable && schedule_.owner[chunk] != kCompute) break;\n",
         "    if (loadable && schedule_.owner[chunk] > kCompute) break;\n")]),
    ("a lane takes chunks that it does not hold", [
        ("        if (view.on_lane(at, lane)) return at;",
         "        return at;")],
     "detail/planner/load_cursor_test.cpp", "a lane takes only chunks that it holds"),
    ("what lies below the first segment is forgotten", [
        ("      position_ = first_low_;",
         "      position_ = 0;")],
     "detail/planner/load_cursor_test.cpp", "what lies below the first segment comes last"),
    ("the last pass of several does not pay for the smallest", [
        ("    const double last = y - x - (n - 1) * step;",
         "    const double last = step;")],
     "scheduler/compute_cost_test.cpp", "the last pass of several pays for the smallest step, too"),
    ("one slow pass is believed", [
        ("    weight[i] = like >= 2 && like > unlike ? 1 : 0;",
         "    weight[i] = 1;")],
     "scheduler/compute_cost_test.cpp", "one slow pass does not move what is known"),
    ("a device of another speed is never believed", [
        ("    if (++odd_in_a_row_ > (odd_known_ ? 1u : 2u)) change_speed(by);",
         "    ++odd_in_a_row_;")],
     "scheduler/compute_cost_test.cpp", "a device that has another speed from now on is followed after some passes"),
    ("nonsense is learned from", [
        ("  if (tokens.empty() || !(took > 0) || !std::isfinite(took)) return;",
         "  if (tokens.empty()) return;")],
     "scheduler/compute_cost_test.cpp", "nonsense is not learned from"),
    ("the prefix is computed whole or loaded whole", [
        ("owners[i] = chunks[i].computable ? kCompute : from_0[i];",
         "owners[i] = !chunks[i].computable ? kCompute : from_0[i];")],
     "detail/planner/search_test.cpp", "compute and loads meet where both end at once"),
    ("a read that compute took over is inserted all the same", [
        ("  if (entry->phase != ReadPhase::reading || status_ != Errc::ok) {\n"
         "    if (lent)",
         "  if (status_ != Errc::ok) {\n"
         "    if (lent)")],
     "simulation/exhaustive_test.cpp",
     "up to six chunks are right for every pattern of holes and every order of events"),
    # ---- link estimator ----
    ("a failed read tells the rate", [
        ("  if (ok) {\n"
         "    learn(*flight, now);",
         "  {\n"
         "    learn(*flight, now);")],
     "scheduler/link_estimator_test.cpp", "a failed read says nothing about the rate"),
    ("a read is charged with the time of a failed one", [
        ("  if (!ok && flight == flights_.begin()) {\n    last_failed_ = now;\n", "  if (!ok && flight == flights_.begin()) {\n")],
     "scheduler/link_estimator_test.cpp", "a read is not charged with the time of a failed one before it"),
    ("a failed read resets how long older ones have been waited for", [
        ("  if (!ok && flight == flights_.begin()) {\n    last_failed_ = now;\n", "  if (!ok) {\n    last_failed_ = now;\n")],
     "scheduler/link_estimator_test.cpp", "a read that fails before older ones says nothing about them"),
    ("a read that is given up in time tells a limit", [
        ("  if (flights_.front().begun && slowdown(now) > 1) {\n"
         "    limit(now);\n"
         "    last_given_up_",
         "  {\n"
         "    limit(now);\n"
         "    last_given_up_")],
     "scheduler/link_estimator_test.cpp", "a read that is given up in time tells nothing"),
    ("the latency counts as bandwidth", [
        ("    took -= std::min(rate_.measured != 0 ? took : 0.999 * took, to_seconds(rate_.latency));\n",
         "")],
     "scheduler/link_estimator_test.cpp", "a steady link with the right prior keeps its rate"),
    ("a session that only gave up denies what others measured", [
        ("  if (mine.measured == 0) return others;  // they saw it work meanwhile\n",
         "")],
     "scheduler/link_estimator_test.cpp", "two sessions that ran at once both count, by the reads that each has seen"),
    ("one stalled read is believed", [
        ("  if (took <= most) {\n"
         "    if (++since_slow_",
         "  if (took <= 1e18) {\n"
         "    if (++since_slow_")],
     "scheduler/link_estimator_test.cpp", "one stalled or one cached read does not throw the rate off, two of a kind do"),
    ("bytes stay in flight for ever", [
        ("  bytes_in_flight_ -= flight->bytes;\n",
         "")],
     "scheduler/link_estimator_test.cpp", "a failed read says nothing about the rate"),
    ("reads at once are never doubled", [
        ("    rate_.depth *= 2;",
         "    rate_.depth *= 1;")],
     "scheduler/link_estimator_test.cpp", "the search for the right number of reads at once goes on with the next prompt"),
    ("a lane that was not used is forgotten", [
        ("    same.unused = std::min(same.unused + 1, 1u << 20);\n",
         "")],
     "scheduler/link_estimator_test.cpp", "a session that measured nothing leaves what others have learned"),
    # ---- lanes ----
    ("kept buffers are not dropped for new ones", [
        ("    while (!kept_.empty() && !fits()) drop_oldest(dropped);\n",
         "")],
     "io_lanes_test.cpp", "lent, kept and leaving buffers together never take more than the budget"),
    ("a kept buffer takes what is set aside for others", [
        ("std::min(most, std::max(2 * cost(bytes), budget_ / 16));",
         "std::max(2 * cost(bytes), budget_ / 16);")],
     "io_lanes_test.cpp", "a kept buffer that is larger takes nothing that is set aside for another read"),
    ("memory is taken before others have given it back", [
        ("  bool fits() const { return lent_ + leaving_ + kept_bytes_ <= budget_; }",
         "  bool fits() const { return lent_ + kept_bytes_ <= budget_; }")],
     "io_lanes_test.cpp", "a buffer that was promised waits until others have given back what it takes"),
    ("buffers on their way back count as free", [
        ("  std::uint64_t room() const { return budget_ - std::min(budget_, lent_ + leaving_); }",
         "  std::uint64_t room() const { return budget_ - lent_; }")],
     "io_lanes_test.cpp", "lent, kept and leaving buffers together never take more than the budget"),
    ("what abandoned reads hold never comes back", [
        ("    if (!quarantine[i]->ended()) {",
         "    if (quarantine[i] != nullptr) {")],
     "io_lanes_test.cpp", "a lane whose memory is held by abandoned reads is down, and comes back with them"),
    ("a lane without memory is not down", [
        ("  return held != 0 && pool.budget() - held < bytes;",
         "  return false;")],
     "io_lanes_test.cpp", "a lane whose memory is held by abandoned reads is down, and comes back with them"),
    ("a dead tier takes all memory", [
        ("  if (lane.used_bytes == 0 || readers == 1) return room;\n",
         "  return room;\n")],
     "io_lanes_test.cpp", "a dead tier keeps neither memory nor threads of another"),
    ("a read that throws gives its buffer back at once", [
        ("    const Error why = caught(Errc::io, \"read of a chunk\");\n",
         "    const Error why = caught(Errc::io, \"read of a chunk\");\n"
         "    (void)job.parked.release();\n")],
     "io_lanes_test.cpp", "a completion that throws keeps its buffer until its read has ended"),
    ("a session is asked under the lock of all lanes", [
        ("    session.asked = true;\n"
         "    lock.unlock();\n",
         "    session.asked = true;\n"),
        ("    lock.lock();\n"
         "    session.asked = false;\n",
         "    session.asked = false;\n")],
     "io_lanes_test.cpp", "a scheduler that thinks for long holds up no other session"),
    # ---- prefetch ----
    ("a prefetch takes a lane while a prompt wants it", [
        ("    if (!choice.others_before && !for_others) return first;",
         "    if (true || for_others) return first;")],
     "lane_prompts_test.cpp", "nothing is read in the background while a session wants something of the lane"),
    ("a prefetch reads beside the last reads of a prompt", [
        ("    if (!choice.others_before && !for_others) return first;",
         "    if (!choice.others_before || (false && for_others)) return first;")],
     "lane_prompts_test.cpp", "nothing is read in the background while a session wants something of the lane"),
    ("what is in the background goes by the least left as well", [
        ("    place.rank = LanePlace::Rank::background;\n    return place;\n",
         "")],
     "detail/lane_order_test.cpp", "what is in the background is behind all others, in the order of arrival"),
    ("a prefetch reads what a prompt has read meanwhile", [
        ("    taken = std::erase(waiting_[other.lane], chunk) != 0;",
         "    taken = false;")],
     "prefetch_test.cpp", "a prefetch waits while a prompt loads, and its chunks are read once for both"),
    ("a prefetch begins with the front of a prompt", [
        ("  for (Chunks& chunks : waiting_) std::reverse(chunks.begin(), chunks.end());\n",
         "")],
     "prefetch_test.cpp",
     "only what lies in slower tiers is read, the last chunks first, and no more than is asked for"),
    ("a prefetch spreads what is damaged", [
        ("  if (!whole) {\n    failed(read, whole.error());\n    return false;\n  }\n",
         "")],
     "prefetch_test.cpp", "chunks that are damaged or cannot be read are counted, and get nowhere"),
    ("a prefetch that was stopped goes on", [
        ("    for (Chunks& chunks : waiting_) chunks.clear();\n",
         "")],
     "prefetch_test.cpp", "a prefetch that is stopped reads no more, and nobody waits for its reads"),
    # ---- admission ----
    ("a prompt that can be computed as soon waits for lanes", [
        ("  const double behind_lanes = seconds_to_first_token(needs, times, false, 0);",
         "  const double behind_lanes = alone + times[0].ahead;")],
     "admission_test.cpp", "what compute does as soon waits for no lane"),
    ("a prompt waits for lanes for ever", [
        ("  if (behind_lanes - alone > most && waited < most) {",
         "  if (behind_lanes - alone > most) {")],
     "admission_test.cpp", "no prompt waits for lanes longer than four times its time alone"),
    ("prompts with more left to load are taken to go first", [
        ("ahead += left <= needs.bytes[l] ? left : 0;",
         "ahead += left;")],
     "admission_test.cpp", "prompts that have more left to load do not go first"),
    ("a prompt waits for memory that nobody will give back", [
        ("  return reads && others &&\n",
         "  return reads &&\n")],
     "admission_test.cpp", "a prompt waits for staging memory that others have"),
    ("a target that is lost keeps a prompt waiting", [
        ("  if (answer.expected_ttft > needs.ttft_target && answer.alone_ttft <= needs.ttft_target) {",
         "  if (answer.expected_ttft > needs.ttft_target) {")],
     "admission_test.cpp", "a prompt whose target others endanger is not begun, and one that is lost anyway is"),
    ("a prompt needs each chunk of every lane", [
        ("  return static_cast<LaneId>(std::countr_zero(chunk.tiers));",
         "  return static_cast<LaneId>(std::bit_width(chunk.tiers) - 1);")],
     "queued_prompt_test.cpp", "a prompt needs each stored chunk of the fastest lane that has it"),
    # ---- several prompts on one lane ----
    ("the longest prompt goes first", [
        ("if (rank == Rank::least_left && left != other.left) return left < other.left;",
         "if (rank == Rank::least_left && left != other.left) return left > other.left;")],
     "detail/lane_order_test.cpp", "the prompt with the least left to load goes first, and of two the one that came first"),
    ("nobody is ever passed over for too long", [
        ("  if (waited_long(prompt, lane.read)) {\n",
         "  if (false) {\n")],
     "detail/lane_order_test.cpp", "no prompt waits longer behind later ones than four times its own time alone"),
    ("a prompt is passed over for one read too many", [
        ("return prompt.overtaken + read > kMostOvertaken * std::max(prompt.alone, read);",
         "return prompt.overtaken > kMostOvertaken * std::max(prompt.alone, read);")],
     "detail/lane_order_test.cpp", "no prompt waits longer behind later ones than four times its own time alone"),
    ("a target that is lost goes first all the same", [
        ("place.latest_start != kNever && place.latest_start >= now &&",
         "place.latest_start != kNever &&")],
     "detail/lane_order_test.cpp", "a target that cannot be met any more takes nothing from others"),
    ("a target goes first that nobody endangers", [
        ("             to_seconds(place.latest_start - now) < seconds(others)) {",
         "             seconds(others) >= 0) {")],
     "detail/lane_order_test.cpp", "a target at stake goes first, the earliest latest start before others"),
    ("lanes do not count who was passed over", [
        ("    if (other->arrival < session.arrival && may_have_read(*other, id)) {\n",
         "    if (other->arrival > session.arrival && may_have_read(*other, id)) {\n")],
     "lane_prompts_test.cpp", "a session is passed over for no more than four times what it came for"),
    # ---- parts ----
    ("a thread reads into a buffer that is still being inserted", [
        ("      if (one.inserts()) continue;\n",
         "")],
     "parts_test.cpp", "the threads of a lane read a chunk in parts, and the report tells of whole reads"),
    ("nobody tells of the inserts of a thread that hangs", [
        ("    if (!quarantine.empty() || help(id, lock)) {\n",
         "    if (!quarantine.empty()) {\n")],
     "parts_test.cpp", "a part that hangs costs its chunk, also when its thread has other inserts to tell of"),
    ("parts of a cancelled run are inserted", [
        ("  if (entry == nullptr || entry->phase != ReadPhase::reading || status_ != Errc::ok) return false;\n"
         "  const std::uint32_t chunk",
         "  if (entry == nullptr) return false;\n"
         "  const std::uint32_t chunk")],
     "parts_test.cpp", "a run that is cancelled while parts hang ends, and touches no KV afterwards"),
    # ---- loans ----
    ("a loan ends when its read is handed over, not when its bytes are inserted", [
        ("  const Landed landed{.bytes = loan->bytes(), .lent = true, .seal = loan->seal()};\n",
         "  const Landed landed{.bytes = loan->bytes(), .lent = true, .seal = loan->seal()};\n"
         "  *loan = BorrowedBytes();\n"),
        ("  if (landed.bytes.size() != read.bytes) {\n",
         "  if (false) {\n")],
     "lending_test.cpp", "what is being inserted is neither evicted nor erased meanwhile"),
    ("bytes that a client keeps are given back to the store at once", [
        ("  if (job.client->keeps_bytes()) keep_lent(id, job, std::move(*loan));\n",
         "  if (job.client->keeps_bytes()) keep_lent(id, job, {});\n")],
     "lending_test.cpp", "bytes that the driving thread is still to insert stay lent"),
    ("a loan that a client keeps never ends", [
        ("    const BorrowedBytes loan = std::move(found->loan);\n"
         "    lent.erase(found);\n",
         "")],
     "lending_test.cpp", "inserts go straight from the store's own memory, and reads take no staging memory"),
    ("a lane that lends takes staging memory from the others", [
        ("    if (&other == &lane || other.lends || other.quarantined_bytes != 0) continue;",
         "    if (&other == &lane || other.quarantined_bytes != 0) continue;"),
        ("    readers += lanes.back().lends ? 0 : 1;\n",
         "    readers += 1;\n")],
     "lending_test.cpp", "a lane that reads has all staging memory beside one that lends"),
    ("lanes that land in device memory borrow from the host", [
        ("    lanes.back().lends = device == nullptr && storage->lends(l);\n",
         "    lanes.back().lends = storage->lends(l);\n")],
     "lending_test.cpp", "lanes that land in device memory read instead of borrowing"),
    ("bytes that nobody verified are taken for verified", [
        ("    if (landed.seal) return verify_slice(*tables, expected, layers, bytes, *landed.seal);\n",
         "    return verify_slice(*tables, expected, layers, bytes, tables->seal());\n"),
        ("  std::uint32_t held() const { return held_; }\n",
         "  std::uint32_t held() const { return held_; }\n"
         "  std::uint32_t seal() const { return header_crc_; }\n")],
     "lending_test.cpp", "a chunk that the store does not lend is computed"),
    ("any seal will do", [
        ("  if (seal != tables.header_crc_) return verify_slice(tables, expected, layers, bytes);\n",
         "  static_cast<void>(seal);\n")],
     "lending_test.cpp", "a seal is no proof for bytes of an object that the tables are not of"),
    ("a loan counts as landed before its bytes are moved", [
        ("  if (!lent) lane.landed(id, !entry->ticket.joined, now);\n",
         "  lane.landed(id, !entry->ticket.joined, now);\n")],
     "lending_test.cpp", "the rate of a tier that lends is that of its inserts"),
    # ---- host storage ----
    ("an object that is lent is evicted", [
        ("        if (in_use(it->second)) {  // that is a use, too\n",
         "        if (false) {\n")],
     "storage/host_test.cpp", "an object that is lent stays, and the writer evicts another one"),
    ("a neighbour that is lent is evicted", [
        ("    return it == objects_.end() || in_use(it->second) ? objects_.end() : it;\n",
         "    return it;\n")],
     "storage/host_test.cpp", "objects of many sizes leave room for one that needs a long gap"),
    ("an object of the same key is taken for a neighbour", [
        ("end_of(*before->second) == space.begin;", "before->second->data != space.begin;")],
     "storage/host_test.cpp",
     "an object that was erased while lent and written again is no neighbour of where it lay"),
    ("nothing is verified on the way in", [
        ("    auto seal = sealed_copy(bytes, key, object->data);\n",
         "    std::memcpy(object->data, bytes.data(), bytes.size());\n"
         "    Result<std::optional<std::uint32_t>> seal = std::optional<std::uint32_t>();\n"
         "    if (const auto summary = peek_chunk(bytes)) seal = std::optional<std::uint32_t>(1);\n")],
     "storage/host_test.cpp", "a chunk object that is damaged anywhere is refused, and leaves nothing behind"),
    ("an object's blocks are not digested on the way in", [
        ("      if (crc32c(block) != load<std::uint32_t>(head, place)) return corrupt(kDamagedBlock);\n",
         "      static_cast<void>(place);\n")],
     "storage/host_test.cpp", "a chunk object that is damaged anywhere is refused, and leaves nothing behind"),
    ("an object is stored under another one's key", [
        ("  if (header.key != key.bytes) return mismatch(\"the object is stored under a wrong key\");\n",
         "  static_cast<void>(key);\n")],
     "storage/host_test.cpp", "a chunk object that is damaged anywhere is refused, and leaves nothing behind"),
    ("a loan is no use of its object", [
        ("    touch(key, *it->second);\n",
         "")],
     "storage/host_test.cpp", "a read and a loan are uses, a lookup is none"),
    ("the tail of a prompt goes first", [
        ("    object->position = summary ? summary->token_begin : 0;\n",
         "    object->position = summary ? ~summary->token_begin : 0;\n")],
     "storage/host_test.cpp", "the oldest class of age goes first, and within it the front of chains"),
    ("pinned memory that is refused is asked for again and again", [
        ("    if (memory != nullptr && problem_) {\n",
         "    if (memory != nullptr) {\n")],
     "storage/host_test.cpp", "where pinned memory ends the rest is plain, and an operator can see that"),
    # ---- session ----
    ("a scheduler thinks about a load under the lock that reads need", [
        ("    const auto answer = core_.ask(question);  // without the lock, which others need\n",
         "    std::unique_lock held(mutex_);\n"
         "    const auto answer = core_.ask(question);\n"
         "    held.unlock();\n")],
     "io_lanes_test.cpp", "reads land and steps end while the scheduler of their session thinks"),
    ("nobody hears that no lane has anything to read", [
        ("    if (core_.lanes_declined() || changed) changed_.notify_all();  // compute goes on by itself\n",
         "")],
     "io_lanes_test.cpp", "a session that no lane has a read for goes on at once"),
    ("the end of a step is no change", [
        ("  changed();\n"
         "  log_.step_ended(ran, now);\n",
         "  log_.step_ended(ran, now);\n")],
     "detail/session_core_test.cpp", "a lane that was refused work during a step is asked again after it"),
    ("an engine that does not come to insert keeps all memory", [
        ("      if (!pending_.empty() && 2 * pending_bytes_ >= lanes_.staging_budget()) return std::nullopt;\n",
         "")],
     "io_lanes_test.cpp", "a session that does not come to insert leaves the lanes to the others"),
    ("later layers are read without the head", [
        ("layers.begin == 0 ? 0 : head_bytes + payload_bytes({0, layers.begin});",
         "layers.begin == 0 ? 0 : payload_bytes({0, layers.begin});")],
     "io_lanes_test.cpp", "whole chunks and layers are loaded through staging memory of exactly the budget"),
    ("a lane gets any number of reads", [
        ("  if (model.in_flight().empty() || model.in_flight().size() < model.rate().depth) return true;\n",
         "  return true;\n")],
     "detail/session_core_test.cpp", "a lane gets as many reads at once as it is fast with, or as its latency hides"),
    ("a step is not cut to its budget", [
        ("  if (range.size() > most) range.end = range.begin + most;\n",
         "")],
     "detail/session_core_test.cpp", "a step that is larger than its budget is cut"),
    ("a step behind a gate is as long as any", [
        ("  const std::uint32_t most = behind_gate ? spec.gated_step_tokens(range.begin, budget) : budget;\n",
         "  const std::uint32_t most = behind_gate ? budget : budget;\n")],
     "detail/session_core_test.cpp", "a step behind a gate takes no more tokens than the engine wants there"),
    ("a wide step needs no ability", [
        ("    return may_be_wide(begin) ? max_overlap_tokens : std::min(budget, max_overlap_tokens);\n",
         "    return begin >= prefix_end() ? max_overlap_tokens : std::min(budget, max_overlap_tokens);\n")],
     "detail/session_core_test.cpp", "a gated step above the budget is cut where the engine does not take wide ones"),
    ("a wide step may begin anywhere", [
        ("    return wide_gated_steps && begin >= prefix_end();\n",
         "    return wide_gated_steps && begin > 0;\n")],
     "prefill_spec_test.cpp", "a gated step behind all that is stored may be wide, others keep to the budget"),
    ("a wide step goes on when the run is over", [
        ("  return state == GateAnswer::shut || spec().wide_gated_steps ? GateAnswer::voided : state;\n",
         "  return state == GateAnswer::shut ? GateAnswer::voided : state;\n")],
     "detail/prefill_state_test.cpp", "a wide step ends at its next layer once the run is over"),
    ("a wide pass is thought one pass", [
        ("  return cost.passes(begin, end, spec.max_step_tokens);\n",
         "  return cost.pass(begin, end);\n")],
     "detail/planner/snapshot_test.cpp", "a wide pass hides loads with the whole suffix, at the cost of its micro-batches"),
    ("a wide pass is planned as short as others", [
        ("  const double pass = spec.wide_gated_steps ? most : std::min(out.step_tokens, most);\n",
         "  const double pass = std::min(out.step_tokens, most);\n")],
     "detail/planner/snapshot_test.cpp", "a wide pass hides loads with the whole suffix, at the cost of its micro-batches"),
    ("the scheduler asks for short gated steps alone", [
        ("    const std::uint32_t most = spec.gated_step_tokens(suffix, budget);\n",
         "    const std::uint32_t most = budget;\n")],
     "scheduler/meet_in_the_middle_test.cpp", "an engine that takes wide steps gets the whole suffix in one"),
    ("a thread that is not run for a moment is a slow lane", [
        ("std::max(grace / kLinkTuning.grace_divisor, lateness_)) return 1;",
         "grace / kLinkTuning.grace_divisor) return 1;")],
     "scheduler/link_estimator_test.cpp", "a small read that is late by as much as a thread may be says nothing of its lane"),
    ("a small read says as much of the rate as a large one", [
        ("  const double part = unit_ > bytes ? bytes / unit_ : 1;\n",
         "  const double part = unit_ > bytes ? 1 : 1;\n")],
     "scheduler/link_estimator_test.cpp", "a small read that is late by as much as a thread may be says nothing of its lane"),
    ("a slice is as long whatever a lane reads at once", [
        ("  const double others = std::max(2u, reads_at_once) - 1;\n",
         "  const double others = std::max(2u, std::min(2u, reads_at_once)) - 1;\n")],
     "detail/planner/snapshot_test.cpp", "a slice is the shorter the more reads its lane carries out at once"),
    ("a short step is not extended", [
        ("  while (range.end < wanted) {\n",
         "  while (range.end > wanted) {\n")],
     "detail/session_core_test.cpp", "a step of fewer tokens than cost the same is extended over what only compute can fill"),
    ("an engine that takes whole chunks gets slices", [
        ("  if (load && state_.spec().whole_chunks) load->slice.layers.end = state_.spec().n_layers;\n",
         "")],
     "detail/session_core_test.cpp", "loads of an engine that takes whole chunks have all layers"),
    ("compute waits for lanes that have nothing to read", [
        ("    if (!view().lane(l).down() && declined_[l] != version()) return false;",
         "    return false;")],
     "detail/session_core_test.cpp", "a session computes the front itself when the scheduler waits for nobody"),
    ("the rest of a load that was cut is forgotten", [
        ("  if (cut && !rest) rest_.push_back(",
         "  if (cut && rest) rest_.push_back(")],
     "detail/session_core_test.cpp", "a load of more layers than one read may take goes on where its last part ended"),
    ("the slot of a dropped read is used again while its lane reads", [
        ("      if (slot.phase == ReadPhase::free) {",
         "      if (!slot.holds_claim()) {")],
     "detail/prefill_state_test.cpp", "a read that was dropped counts on its lane until it has ended"),
    ("the next deadline is that of the latest read", [
        ("earliest = std::min(earliest, entry.ticket.deadline);",
         "earliest = earliest == kNever ? entry.ticket.deadline : std::max(earliest, entry.ticket.deadline);")],
     "detail/prefill_state_test.cpp", "the next deadline is that of the read that is due first"),
    # ---- windows and states ----
    ("a late hole does not have the windows below it loaded", [
        ("  refresh_state(chunk);\n"
         "  renew_needs(chunk);\n"
         "}\n",
         "  refresh_state(chunk);\n"
         "}\n")],
     *LAYOUTS),
    ("chunks that compute gives back keep to what was needed of them before", [
        ("    if (loads && chunks_.computes(c)) return renew_needs(c);\n",
         "")],
     "simulation/layouts_test.cpp",
     "chunks that a step gives back undone are loaded with what a hole above needs of them"),
    ("a chunk whose object lacks a window is taken for context", [
        ("      lose(c);\n"
         "      above = s.chunk_range(c).begin;",
         "      above = s.chunk_range(c).begin;")],
     *LAYOUTS),
    ("a step begins where its context was not loaded", [
        ("    lacks = lacks || t_.needed[c] < spec.layers_needed(end, t_.front);",
         "    lacks = lacks && t_.needed[c] < spec.layers_needed(end, t_.front);")],
     *LAYOUTS),
    ("a chunk that is being read is taken for a hole whose windows are loaded", [
        ("  left.hole = view.unloadable(chunk) || state == ChunkState::computing;\n",
         "  left.hole = view.unloadable(chunk) || state != ChunkState::open;\n")],
     "simulation/layouts_test.cpp",
     "a late read is waited for where computing its chunk takes all the tokens below"),
    ("windows that turn out to be needed come from any lane", [
        ("    if (at >= soonest) continue;\n"
         "    soonest = at;\n"
         "    best = l;\n",
         "    if (soonest != kNever) continue;\n"
         "    soonest = at;\n"
         "    best = l;\n")],
     "simulation/layouts_test.cpp",
     "windows that turn out to be needed come from the lane that brings them soonest"),
    ("compute begins again just below the front alone", [
        ("    const double at = context_at(view, out, c, free);\n",
         "    const double at = tried == 0 ? context_at(view, out, c, free) : 1e18;\n")],
     "simulation/layouts_test.cpp",
     "an earlier window is loaded where the last one lies in a slow tier alone"),
    ("windows are one token too short", [
        ("    while (n < n_layers && reaches[n] > behind) ++n;",
         "    while (n < n_layers && reaches[n] > behind + 1) ++n;")],
     *LAYOUTS),
    ("a hole at the start needs no window", [
        ("    ++t_.holes;\n"
         "    above = range.begin;",
         "    ++t_.holes;")],
     *LAYOUTS),
    ("a chunk that lacks a window is loaded all the same", [
        ("  const bool usable = spec.layers_held(chunk) >= needed && range.begin >= spec.resident_tokens;",
         "  const bool usable = spec.layers_held(chunk) != 0 && range.begin >= spec.resident_tokens;")],
     "simulation/layouts_test.cpp",
     "where the state below a hole is not stored all is computed from the last one that is"),
    ("a chunk is whole before its windows are there", [
        ("  return static_cast<std::uint32_t>(set) == t_.needed[chunk];",
         "  return static_cast<std::uint32_t>(set) >= std::min<std::uint32_t>(t_.needed[chunk], 2);")],
     *LAYOUTS),
    ("the gate counts layers where they lie in the object", [
        ("    return have_[positions_.empty() ? layer : positions_[layer]];",
         "    return have_[layer];")],
     *LAYOUTS),
    ("a chunk that has grown is still taken for resident", [
        ("  set_state(chunk, t_.issued[chunk] == 0 ? ChunkState::open : ChunkState::loading);\n",
         "")],
     *LAYOUTS),
    ("the front does not go back to a chunk that has grown", [
        ("  t_.front = std::min(t_.front, t_.spec.chunk_range(chunk).begin);\n",
         "")],
     *LAYOUTS),
    ("the layers held are not compared with the size", [
        ("  if (held == 0 || header.held != (held == header.n_layers ? 0 : held)) {",
         "  if (held == 0) {")],
     "chunk/held_layers_test.cpp", "a header that counts other layers than the object has is refused"),
    ("tables of layers that are not held may hold anything", [
        ("  if (!all_zero(head.subspan(at, geometry.digests_offset() - at)) ||",
         "  if (head.empty() ||")],
     "chunk/held_layers_test.cpp", "tables that describe layers which are not held are refused"),

    # ---- reader ----
    ("the footer is not checked", [
        ("  slice.has_footer = layers.end == n_layers;",
         "  slice.has_footer = false;")],
     "chunk/reader_test.cpp", "a flipped bit in the footer is a miss"),
    ("only the first block of a run is checked", [
        ("      if (crc32c({run + at, size}) != *digest++) return corrupt(kDamagedBlock);",
         "      const std::uint32_t right = *digest++;\n"
         "      if (at == 0 && crc32c({run + at, size}) != right) return corrupt(kDamagedBlock);")],
     "chunk/reader_test.cpp", "a flipped byte of payload or padding is a miss, in whole objects and in slices"),
    ("every slice is checked by the digests of the first", [
        ("    const std::uint32_t* digest = tables.digests_.data() + geometry.first_digest(e);",
         "    const std::uint32_t* digest = tables.digests_.data() + 0 * geometry.first_digest(e);")],
     "chunk/reader_test.cpp", "a flipped byte of payload or padding is a miss, in whole objects and in slices"),
    ("the tenant is not compared", [
        ("  if (header.tenant != expected.tenant) return mismatch(\"the object is another tenant's\");\n",
         "")],
     "chunk/reader_test.cpp", "each field of the identity is compared"),
    ("the parent is not compared", [
        ("  if (header.parent != expected.parent.bytes) return mismatch(\"the object has another parent\");\n",
         "")],
     "chunk/reader_test.cpp", "each field of the identity is compared"),
    ("the token ids are not compared", [
        ("  } else if (std::memcmp(head.data() + geometry.tokens_offset(), expected.tokens.data(),",
         "  } else if (head.empty() && std::memcmp(head.data() + geometry.tokens_offset(), expected.tokens.data(),")],
     "chunk/hostile_header_test.cpp", "well-sealed tables with other tokens or bytes behind them are refused"),
    ("all blocks of an object have one nonce", [
        ("Nonce nonce_of_block(std::uint64_t block) { return nonce_of(0, block); }",
         "Nonce nonce_of_block(std::uint64_t block) { return nonce_of(0, 0 * block); }")],
     "chunk/object_cipher_test.cpp", "no nonce of an object repeats"),
    ("the head of an object has the nonce of a block", [
        ("Nonce nonce_of_head() { return nonce_of(1, 0); }",
         "Nonce nonce_of_head() { return nonce_of(0, 7); }")],
     "chunk/object_cipher_test.cpp", "no nonce of an object repeats"),
    ("objects of one random value have one key", [
        ("  std::memcpy(info.data() + tag.size(), name.bytes.data(), sizeof name.bytes);",
         "  std::memset(info.data() + tag.size(), 0, sizeof name.bytes);")],
     "chunk/object_cipher_test.cpp", "another tenant's key, random value or name gives another key of the object"),
    ("all objects have one random value", [
        ("    header.random = random ? *random : detail::random_value();",
         "    header.random = random ? *random : Sha256Digest{};")],
     "chunk/encrypted_test.cpp", "each writing of a chunk has a key of its own, and no block of it repeats"),
    ("the tag of an encrypted block is not checked", [
        ("  return EVP_CipherFinal_ex(context_.get(), as_uchar(out), &length) == 1;",
         "  (void)EVP_CipherFinal_ex(context_.get(), as_uchar(out), &length);\n  return true;")],
     "chunk/encrypted_test.cpp", "a flipped byte of an encrypted block is a miss, whatever its digest says"),
    ("the tag of the head leaves the digests out", [
        ("part(geometry.extents_offset(), geometry.tokens_offset()),\n"
         "                                   part(geometry.tags_offset(), geometry.tags_end())};\n"
         "  header.head_tag",
         "part(geometry.extents_offset(), geometry.digests_offset()),\n"
         "                                   part(geometry.tags_offset(), geometry.tags_end())};\n"
         "  header.head_tag"),
        ("part(geometry.extents_offset(), geometry.tokens_offset()),\n"
         "                                     part(geometry.tags_offset(), geometry.tags_end())};\n"
         "    std::vector<TokenId> tokens",
         "part(geometry.extents_offset(), geometry.digests_offset()),\n"
         "                                     part(geometry.tags_offset(), geometry.tags_end())};\n"
         "    std::vector<TokenId> tokens")],
     "chunk/encrypted_test.cpp", "header and tables that were changed and digested anew are refused"),
    ("a plain object is taken where an encrypted one is expected", [
        ("  return mismatch(\"the object is not encrypted, and those of this tenant are\");",
         "  return {};")],
     "chunk/encrypted_test.cpp", "plain and encrypted objects are not taken for each other"),
    ("a payload is encrypted twice", [
        ("  if (encrypted_) {\n", "  if (encrypted_ && !encrypted_) {\n")],
     "chunk/encrypted_test.cpp", "a writer does not encrypt a payload twice, nor without keys"),
    ("an object that cannot be decrypted is not remembered", [
        ("      expected.keys->note_unreadable(expected.key);\n", "")],
     "chunk/encrypted_test.cpp", "an object of a key that the tenant has not is a miss, and is remembered"),
    ("another writing of an object is taken for damage", [
        ("  if (!other_head && !other_foot) return corrupt(kDamagedBlock);",
         "  if (!other_head || !other_foot || other_head) return corrupt(kDamagedBlock);")],
     "chunk/encrypted_test.cpp", "the head of one writing and the blocks of another never make KV"),
    ("extents may lie anywhere", [
        ("      if (extent.offset != right.offset) return corrupt(\"an extent is not where it belongs\");\n"
         "      if (extent != right) return",
         "      if (extent.offset < geometry.head_bytes()) return")],
     "chunk/hostile_header_test.cpp", "well-sealed tables with a wrong extent are refused"),
    ("a header of another major version is read", [
        ("  if (header.major != wire::kMajor) return unsupported(\"the object is of another major version\");\n",
         "")],
     "chunk/hostile_header_test.cpp", "a well-sealed header with a wrong field is refused"),
    ("the size of the object is not compared", [
        ("  if (object_size != header.object_bytes) return corrupt(\"the object is truncated or has grown\");\n",
         "")],
     "chunk/reader_test.cpp", "an object that is truncated at a page, or has grown, is a miss"),
    ("a footer of another object is taken", [
        ("  if (footer.key != key.bytes || footer.object_bytes",
         "  if (footer.object_bytes")],
     "chunk/hostile_header_test.cpp", "a well-sealed footer of another object is refused"),
    ("sessions that run at once overwrite what the others have measured", [
        ("  if (known.age_ == handed_out_) return *this;  // nobody else has taught it anything\n",
         "  if (known.age_ >= handed_out_) return *this;\n")],
     "calibration_test.cpp", "sessions that run at once do not lose each other's passes"),
    ("passes of the sessions before are counted again", [
        ("    if (seen_[i].age > handed_out_) mine[n++] = seen_[i];\n",
         "    mine[n++] = seen_[i];\n")],
     "calibration_test.cpp", "sessions that run at once do not lose each other's passes"),
    ("the digest of a calibration is not checked", [
        (" || expected != digest(text.substr(0, last + 1))", "")],
     "calibration_test.cpp", "a damaged, cut or foreign file is an error, and no value of it is used"),
    ("values of a calibration are not checked", [
        ("  if (!read || !(tier == tier.checked())) return std::nullopt;\n",
         "  if (!read) return std::nullopt;\n")],
     "calibration_test.cpp", "values that cannot be are refused, though the digest is right"),
    ("what a session measured of its passes is dropped", [
        ("    calibration.learn(fingerprint_, *compute);\n", "")],
     "calibration_test.cpp", "a second session starts from what the first has measured"),
    ("a calibration of another storage is taken", [
        ("  if (tiers_.size() == n) return {};\n", "  if (tiers_.size() + n != 0) return {};\n")],
     "calibration_test.cpp", "a calibration of another storage is refused by name"),
    ("a saver takes as much memory as it likes", [
        ("    return used_ == kept_bytes_ || used_ - kept_bytes_ + bytes <= limit_;\n",
         "    return bytes != 0;\n")],
     "saver_test.cpp", "a saver takes no more memory than it may, however slow the store is"),
    ("a saver drops the chunks that save the most", [
        ("      ++lowest->first;\n",
         "      --lowest->last;\n")],
     "saver_test.cpp", "above its backlog a saver drops the chunks that lie lowest in their prompts"),
    ("KV counts as extracted while a chunk still is being", [
        ("    --job->extracting;\n    ++job->taken;\n",
         "    --job->extracting;\n    ++job->taken;\n    job->note_extracted();\n")],
     "saver_test.cpp", "an engine's KV is not needed any more when all is extracted, though nothing is written"),
    ("an engine is asked for several chunks at once though it did not say so", [
        ("    return waiting() != 0 && extracting < engine_->abilities.parallel_extracts;\n",
         "    return waiting() != 0;\n")],
     "saver_test.cpp", "chunks of one save are extracted by several threads where the engine allows it"),
    ("one thread alone extracts a save, whatever the engine allows", [
        ("    return waiting() != 0 && extracting < engine_->abilities.parallel_extracts;\n",
         "    return waiting() != 0 && extracting == 0;\n")],
     "saver_test.cpp", "chunks of one save are extracted by several threads where the engine allows it"),
    ("a saver keeps memory of the store for the next object", [
        ("    if (object.empty() || object.front().in_store || used_ > limit_) {\n",
         "    if (object.empty() || used_ > limit_) {\n")],
     "saver_test.cpp", "a store that lends memory for it has its objects built there"),
    ("an engine of whole chunks is asked for pieces", [
        ("             (engine_.abilities.whole_chunks ||\n              runs",
         "             (\n              runs")],
     "saver_test.cpp", "a large chunk is extracted in pieces that join, or whole where the engine asks for it"),
    ("layers that nobody digested count as digested", [
        ("  if (positions.begin != digested_ || positions.end >",
         "  if (positions.begin < digested_) return;\n  digested_ = positions.begin;\n  if (positions.end >")],
     "chunk/writer_test.cpp", "layers that are digested out of turn are digested at the end"),
    ("what a writer digested of one object counts for the next", [
        ("  const std::uint32_t digested = std::exchange(digested_, 0);\n",
         "  const std::uint32_t digested = digested_;\n")],
     "chunk/writer_test.cpp", "layers that are digested out of turn are digested at the end"),
    ("digests of layers that are not held stay in the tables", [
        ("  zero(object_, geometry_.digests_offset() + 4 * digests, geometry_.tokens_offset());\n",
         "  (void)digests;\n")],
     "chunk/held_layers_test.cpp", "layers that were digested and are not held after all leave no digest behind"),
    ("the seal of an object that is built in the store is not checked", [
        ("  if (!header || header->crc != seal || header->key != key.bytes ||\n",
         "  if (!header || header->key != key.bytes ||\n")],
     "storage/host_test.cpp", "a room that is given up, or holds no whole object, leaves nothing behind"),
    ("an object that is built in the store without a seal is not verified", [
        ("      const auto verified = sealed_copy(object->content(), key, nullptr);\n",
         "      const auto verified = Result<std::optional<std::uint32_t>>(std::nullopt);\n")],
     "storage/host_test.cpp", "a room that is given up, or holds no whole object, leaves nothing behind"),
    ("the rest of a room is never given back", [
        ("    memory_->shrink(object->data, object->bytes, bytes);\n    object->bytes = bytes;\n",
         "    object->bytes = bytes;\n")],
     "storage/host_test.cpp", "what an object does not need of its room is free again"),
    ("writes do not wait for reads", [
        ("  while (lanes->reading() && std::chrono",
         "  while (!lanes->reading() && std::chrono")],
     "saver_test.cpp", "writes of a saver wait for reads of the lanes, as long as they are allowed to"),
    ("what write-back publishes in the first store is not copied into the others", [
        ("      copy_behind(key, bytes, position, 0, between(0, last));\n",
         "      (void)position;\n")],
     "storage/tier_policy_test.cpp", "an object that is built in a store of tiers lies where a write would put it"),
    ("an object that the first store does not publish is lost", [
        ("    if (last == 0 || fault_of_object(taken.error().code)) return taken;\n    note(0",
         "    if (last != 99) return taken;\n    note(0")],
     "saver_test.cpp", "a save by write-back is built in the first store, and the others get it behind it"),
    ("what is built in the store does not wait for reads", [
        ("    if (in_place) let_reads_go_first(host, options.wait_for_reads);\n",
         "    (void)in_place;\n")],
     "saver_test.cpp", "where chunks are extracted into the store, that waits for reads of the lanes"),
    ("a saver asks a store that refuses everything for ever", [
        ("    const bool given_up = job->tally.given_up();\n    ++writing;\n",
         "    const bool given_up = false;\n    ++writing;\n"),
        ("    return job.stop_requested() || job.tally.given_up() || memory",
         "    return job.stop_requested() || memory"),
        ("    if (job->stop_requested() || job->tally.given_up()) {\n",
         "    if (job->stop_requested()) {\n")],
     "saver_test.cpp", "a saver gives up a store that takes nothing, and goes on with the next save"),
    ("a waiting engine does not learn of a read's deadline", [
        ("      if (core_.next_deadline() < sleeps_until_) changed_.notify_all();\n", "")],
     "lending_test.cpp", "a read that is claimed while the engine waits for nothing ends at its deadline"),
    ("a block is digested before all of it is there", [
        ("    if (before + came != size) continue;\n",
         "    if (before + came > size) continue;\n")],
     "chunk/reader_test.cpp", "what nobody has told of is digested at the end"),
    ("a block that nobody was told of counts as right", [
        ("                      return block.digested.load(std::memory_order_acquire) &&\n",
         "                      return !block.digested.load(std::memory_order_acquire) ||\n")],
     "pieces_test.cpp", "a damaged byte is found, whoever digested it, and its chunk is computed"),
    ("a step is said at once by a schedule that does not hold any more", [
        ("  if (holds(view, now, false)) {\n", "  {\n")],
     "scheduler/meet_in_the_middle_test.cpp",
     "no step is said at once where the schedule does not hold, or has none"),
    ("a step that is said at once is admitted by no rule", [
        ("    question.answer = end_step(question, answer, now);\n",
         "    question.answer = answer;\n")],
     "detail/session_core_test.cpp",
     "a scheduler that says the next step at once is not asked to think about it"),
    ("a lane that found the turn taken is forgotten", [
        ("      if (state_.compare_exchange_strong(was, was | kMissed)) return false;\n",
         "      if (was != kFree) return false;\n")],
     "turn_test.cpp", "whoever gives the turn back hears of those that found it taken"),
    ("whoever waits for the turn is not woken", [
        ("    if ((was & kWaited) != 0) state_.notify_all();\n", "")],
     "turn_test.cpp", "one thread at a time has the turn, and each that waits gets it"),
    ("a read that fails delays those before it", [
        ("  serve(landed ? flights_.begin() : next, now);\n", "  serve(flights_.begin(), now);\n")],
     "scheduler/link_estimator_test.cpp",
     "a read that fails or is given up delays none before it, and those behind it come earlier"),
    ("a read that lands out of turn delays nobody", [
        ("  serve(landed ? flights_.begin() : next, now);\n", "  serve(next, now);\n")],
     "scheduler/link_estimator_test.cpp", "a read that lands before older ones has held them up"),
    ("reads wait for an oldest one that has failed", [
        ("  const Time free_at = next == flights_.begin() ? now : std::prev(next)->lands;\n",
         "  const Time free_at = next == flights_.begin() ? std::max(now, link_free_) : std::prev(next)->lands;\n")],
     "scheduler/link_estimator_test.cpp", "the reads behind an oldest one that fails have the link from then on"),
    ("a lane gets windows to read that would take it longer than a read may", [
        ("    if (!ends_in_time(own, view.lane(l), now)) continue;\n", "")],
     "simulation/layouts_test.cpp",
     "no lane gets windows to read that would take it longer than a read may"),
    ("windows are read behind reads that take too long", [
        (" &&\n               !waits_too_long(slice, lane, now)) {\n", ") {\n")],
     "simulation/layouts_test.cpp",
     "windows that would be given up behind the reads in flight are read after those"),
    ("write-back drops the chunks that save the most", [
        ("  return std::tie(a.kind, a.position) < std::tie(b.kind, b.position);\n",
         "  return std::tie(a.kind, b.position) < std::tie(b.kind, a.position);\n")],
     "storage/tier_policy_test.cpp", "above its bound write-back drops the chunks at the front, counts and tells"),
    ("write-back takes as much memory as it likes", [
        (" bytes <= options_.behind_bytes - bytes_);", " bytes <= options_.behind_bytes);")],
     "storage/tier_policy_test.cpp", "above its bound write-back drops the chunks at the front, counts and tells"),
    ("what a lookup finds in a fast tier alone stays there", [
        ("    policies_.found(key, bytes, held, answers & ~any, write_to_);\n",
         "    policies_.found(key, bytes, held, answers & any & ~any, write_to_);\n")],
     "storage/tier_policy_test.cpp", "a write-through that its last tier refuses has failed, and says who has the chunk"),
    ("a write-through that its last tier refuses is good when another one took it", [
        ("    if (!decided) return only_in(took, last, decided.error());\n",
         "    if (!decided && took != 0) return true;\n")],
     "storage/tier_policy_test.cpp", "a write-through that its last tier refuses has failed, and says who has the chunk"),
    ("what waits for write-back may be evicted", [
        ("from, stores.lend(from, key, bytes), 0});", "from, BorrowedBytes(), 0});")],
     "storage/tier_policy_test.cpp", "what waits for write-back is not evicted from a tier that lends"),
    ("an erase does not wait for a copy that is being made", [
        ("std::none_of(running_.begin(), running_.end(), with_key(key)); });",
         "running_.empty() || !running_.empty(); });")],
     "storage/tier_policy_test.cpp", "an erased chunk does not come back from a copy that waits or is being made"),
    ("copies go before reads", [
        ("  while (stores_.reading(to_) &&", "  while (!stores_.reading(to_) &&")],
     "storage/tier_policy_test.cpp", "a copy into a tier waits for reads of that tier, and not for those of others"),
    ("what is gone is copied", [
        ("  if (!stores_.holds(what.from, what.key, what.bytes)) {\n",
         "  if (what.bytes == 0) {\n")],
     "storage/tier_policy_test.cpp", "what was erased while it was read is not promoted"),
    ("a damaged chunk of a tier that cannot tell is spread", [
        ("  return whole ? Status() : Status(whole.error());\n",
         "  return Status();\n")],
     "storage/tier_policy_test.cpp", "a damaged chunk is refused by write-back, and is in no tier"),
    ("each hit promotes", [
        (" && seen.times(key) == 0) return;", " && seen.times(key) == 0 && bytes_of(object) == 0) return;"),
        ("std::uint32_t position_of(ConstBytes object) {\n",
         "std::size_t bytes_of(const BorrowedBytes& object) { return object.bytes().size(); }\n\n"
         "std::uint32_t position_of(ConstBytes object) {\n")],
     "storage/tier_policy_test.cpp", "a chunk is promoted when it is read for the second time, if the policy says so"),
    ("bytes that failed verification are promoted", [
        ("    release(read, false);\n    return false;\n", "    release(read, false);\n    return true;\n")],
     "promotion_test.cpp", "a chunk that is damaged in a slow tier does not get into a fast one"),
    ("a slice is promoted as if it were the object", [
        ("  taken.whole = !landed.lent && landed.bytes.size() == lookup_.stored[chunk].size;\n",
         "  taken.whole = !landed.lent;\n")],
     "promotion_test.cpp", "what was read in slices of layers is not promoted"),
    ("the store may have all staging memory", [
        ("  if (stop || memory_wanted || (!one && store_has + bytes > pool.budget() / 4)) return false;\n",
         "  if (stop || memory_wanted || (!one && store_has > pool.budget())) return false;\n")],
     "promotion_test.cpp", "a fast tier that hangs holds up neither loads nor more than a part of the memory"),
    ("lanes end while the store has their memory", [
        ("    store_gave_back.wait(lock, [&] { return store_has == 0; });\n",
         "    store_gave_back.wait_for(lock, std::chrono::milliseconds(0), [&] { return store_has == 0; });\n")],
     "promotion_test.cpp", "the end of the lanes waits for what the store was lent"),
    ("a gated pass is thought to begin with the first layer of its objects", [
        ("        n_needs == 0\n", "        n_needs < 100\n")],
     "detail/planner/forecast_test.cpp",
     "a pass behind loads begins when the layer that it needs first and that comes late is there"),
    ("windows that are read late are thought to take no lane", [
        ("  if (assignment.size() != 0 && run.partial && reads_for_front(run, assignment)) {\n",
         "  if (assignment.size() == 0 && reads_for_front(run, assignment)) {\n")],
     "detail/planner/forecast_test.cpp",
     "what the front lacks is read before the chunks, where compute begins with it"),
    ("a step behind windows that are read late keeps the front's chunk alone", [
        ("  for (; end < spec().end_chunk && end <= last; ++end) {\n",
         "  for (; end < spec().end_chunk && end < last && last == 0; ++end) {\n")],
     "detail/prefill_state_test.cpp",
     "all chunks of a step that begins behind windows are compute's, up to one being inserted"),
    ("a gated pass waits for lanes that nobody has measured", [
        ("    if (brings && link.rate().measured == 0) return false;\n",
         "    if (brings && link.rate().measured == 99) return false;\n")],
     "simulation/learning_test.cpp",
     "no gated pass waits for a lane whose rate is a guess and thirty times too high"),
    ("only chunks that begin late enough come layer by layer", [
        ("    return run.chunks[i].begun || assignment.lands[i] > from;\n",
         "    return run.chunks[i].begun ||\n"
         "           assignment.lands[i] - run.chunks[i].bytes *\n"
         "                   run.lanes[assignment.owner[i]].seconds_per_byte >= from;\n")],
     "simulation/abilities_test.cpp",
     "one chunk that loads longer than the new tokens take comes layer by layer, too"),
    ("a gate that the scheduler gives up stays shut", [
        ("  gate_.give_up(view().running().back().id);\n", "")],
     "detail/session_core_test.cpp",
     "a scheduler may have the gated step void that waits, and says when it is asked again"),
    ("an answer about a gate holds whatever happened meanwhile", [
        ("  if (over() || version() != question.version) return false;\n"
         "  gate_until_ = now;\n",
         "  if (over()) return false;\n"
         "  gate_until_ = now;\n")],
     "detail/session_core_test.cpp",
     "an answer about a gate that is late, or none, leaves it as it is"),
    ("a scheduler that was asked about a gate is asked again at once", [
        ("    gate_until_ = until;\n", "")],
     "detail/session_core_test.cpp",
     "a scheduler may have the gated step void that waits, and says when it is asked again"),
    ("what is to be computed instead of a gated step lacks its tokens", [
        ("      suffix = std::min(suffix, running.tokens.begin);\n", "")],
     "detail/planner/snapshot_test.cpp",
     "a snapshot as if the gated step were void has its tokens, and compute is free"),
    ("a gated step waits for a lane however slow it becomes", [
        ("  if (instead.forecast.finish - at > kPlannerTuning.void_gate_share * stay) return again;\n",
         "  if (instead.forecast.finish > 0) return again;\n")],
     "simulation/abilities_test.cpp",
     "a gated step does not wait for a link that has become ten times slower"),
    ("a gated step is given up for what takes longer", [
        ("  if (at + stay < schedule_.forecast.finish) return again;\n", ""),
        ("  if (instead.forecast.finish - at > kPlannerTuning.void_gate_share * stay) return again;\n",
         "  if (instead.forecast.finish - at > 3 * stay) return again;\n")],
     "simulation/abilities_test.cpp",
     "a gated step is kept where lanes bring what they should, or a little less"),
    ("a gated step waits beside the pass that shows what passes cost", [
        ("  if (tested_ != 0 && !idle) return wait(now);  // that one shows what passes cost\n", "")],
     "simulation/learning_test.cpp",
     "a gate is not waited in before passes that look dear were measured twice"),
    ("a gate is waited in because a read was just being inserted", [
        ("      if (view.state(view.front_chunk()) == ChunkState::inserting) return wait(now);\n", "")],
     "simulation/learning_test.cpp",
     "a gate is not waited in before passes that look dear were measured twice"),
    ("the time in which a link had nothing to carry counts as its read's", [
        ("  const bool idled = !first && flight.at_once;", "  const bool idled = false;")],
     "scheduler/link_estimator_test.cpp",
     "a link that had nothing to carry between two reads is not thought to be slow"),
    ("a read that took less than the latency says nothing of it", [
        ("  rate_.latency = std::min(rate_.latency, now - flight.issued);\n", "")],
     "scheduler/link_estimator_test.cpp",
     "a read that took less than the latency shows that it is shorter"),
    ("after a new search layers are read from the first chunk on again", [
        ("      queue.at_layer = queue.layered.size();\n", "")],
     "simulation/abilities_test.cpp",
     "layers come in their order however often the schedule is searched again"),
    ("what a byte of an insert takes counts for each insert", [
        ("  const double x = unit_ > 0 ? static_cast<double>(bytes) / part : 0;",
         "  const double x = 0;")],
     "scheduler/link_estimator_test.cpp",
     "of an insert it is learned what each one takes, and what its bytes do"),
    ("a first read that a thread delays is a latency", [
        ("more < lateness_;", "more < Time{0};")],
     "scheduler/link_estimator_test.cpp",
     "first reads that are late because their threads were not run are no latency"),
    ("the last step of a run teaches nothing", [
        ("  void ended(const RunView& view) { learn(view); }",
         "  void ended(const RunView&) {}")],
     "simulation/learning_test.cpp",
     "compute that is cheaper than was measured is found out where only gated passes run"),
    ("a read on the link waits behind those that wait for memory", [
        ("[](const Flight& f) { return !f.begun; });", "[](const Flight&) { return false; });")],
     "scheduler/link_estimator_test.cpp",
     "reads that wait for memory to be made say nothing of their lane"),
    ("every session may fill a lane that is busy", [
        ("  return busy ? nullptr : first;\n",
         "  return first;\n")],
     "lane_prompts_test.cpp", "while one session keeps a lane busy its other threads read for nobody else"),
    ("reads that hang keep a lane busy", [
        ("    if (!a.reading || now - a.since >= most) continue;\n",
         "    if (!a.reading) continue;\n")],
     "lane_prompts_test.cpp", "reads that hang keep a lane busy for no longer than a few times what they should take"),
    ("prompts that share a lane teach that it is slow", [
        ("  mine.bytes_per_second = std::min(mine.bytes_per_second / share(), 1e15);\n",
         "")],
     "scheduler/link_estimator_test.cpp", "a prompt's rate is what it gets of a shared lane, and what it teaches is the whole lane's"),
    ("a shared lane looks idle", [
        ("    return std::max({link_free_, others_until_, now}) + transfer(more_bytes) + rate_.latency +",
         "    return std::max({link_free_, now}) + transfer(more_bytes) + rate_.latency +")],
     "scheduler/link_estimator_test.cpp", "what a lane carries for others first delays every read that is not on it yet"),
    ("a small read has other pages locked beside large ones that are kept", [
        ("std::min(most, std::max(2 * cost(bytes), budget_ / 16));",
         "std::min(most, 2 * cost(bytes));")],
     "io_lanes_test.cpp", "a small read gets the smallest buffer that is kept, and large ones are kept"),
    ("of buffers that are too many the small ones stay", [
        ("    if (!wanted && kept_.size() == most_kept_) swap_for_smallest(buffer);\n",
         "")],
     "io_lanes_test.cpp", "a small read gets the smallest buffer that is kept, and large ones are kept"),
    ("a rest of layers without bytes is left to be read", [
        ("  while (layers.end < held && spec().read_bytes({layers.end, layers.end + 1}) == 0) ++layers.end;\n",
         "")],
     "detail/prefill_state_test.cpp", "layers without bytes come with the ones before them"),
    ("sessions that share a prefix read it each by itself", [
        ("  invite(id, job);\n",
         "")],
     "lane_joins_test.cpp", "a prefix that several prompts load at once is read once, and all of them have it"),
    ("a session that comes does not hear of what is under way", [
        ("  invite_to_all(attached->client);\n",
         "")],
     "lane_joins_test.cpp", "a prefix that several prompts load at once is read once, and all of them have it"),
    ("those that joined a read that fails wait for it", [
        ("    for (const Joined& j : joined) hand_back(j);\n",
         "")],
     "lane_joins_test.cpp", "when a read fails that others joined, they have it read again"),
    ("a read that was joined teaches the rate of its lane", [
        ("lane.landed(id, !entry->ticket.joined, now);",
         "lane.landed(id, true, now);")],
     "detail/prefill_state_test.cpp", "a read that was joined says nothing of its lane"),
    ("a gated pass was busy as long as it had the device", [
        ("  const Time busy = spec().reaches.empty() ? gate_.busy(ran.id, from, now) : now - from;",
         "  const Time busy = now - from;")],
     "simulation/learning_test.cpp",
     "compute that is cheaper than was measured is found out where only gated passes run"),
    ("of two sessions that claim the same bytes each has them read", [
        ("    if (!same || !wanted(a)) continue;\n", "    if (same || !same) continue;\n")],
     "lane_prompts_test.cpp", "of two sessions that claim the same bytes while they are read the second one joins"),
    ("a pass that was far off is believed, or not, without another one", [
        ("    const bool in_doubt = end == front && idle && compute_.in_doubt();\n",
         "    const bool in_doubt = false;\n")],
     "simulation/learning_test.cpp",
     "after a pass that was far off another one tells what compute costs, before compute waits in a gate"),
    ("a gated pass waits for reads that nobody needs", [
        ("    const bool brings = reads_for_us(view, l) || !schedule_.queues[l].empty();\n",
         "    const bool brings = reads_for_us(view, l) || !link.in_flight().empty() || !schedule_.queues[l].empty();\n")],
     "simulation/learning_test.cpp", "a gated pass does not wait for a lane that reads only what compute has taken over"),
    ("the rest of a chunk is read before its tables are known", [
        ("      if (!view.parsed(flight.chunk)) at->rest_from = at->coming;\n", "")],
     "detail/planner/snapshot_test.cpp", "the rest of a chunk is not read before the slice with its tables has landed"),
    ("the end of a step is said to be unnoticed wherever a gated one follows", [
        ("  if (running.empty() || !running.back().gated) return false;\n",
         "  if (!running.empty() && running.back().gated) return true;\n")],
     "simulation/learning_test.cpp", "compute that is dearer than was measured is found out where a gated pass follows each step"),
    ("an end that a gate has kept from being noticed counts as it was noticed", [
        ("  return now - gate_.free_since(running.back().id) <= busy / 32;\n", "  return false;\n")],
     "detail/prefill_state_test.cpp", "a step whose end went unnoticed, while the one behind it waited in a gate, was busy that long at most"),
    ("only the last step that was done teaches what compute costs", [
        ("  while (learned_ < view.finished().sequence) {\n",
         "  learned_ = std::max(learned_, view.finished().sequence - std::min<std::uint64_t>(1, view.finished().sequence));\n  while (learned_ < view.finished().sequence) {\n")],
     "simulation/learning_test.cpp", "compute that is dearer than was measured is found out where a gated pass follows each step"),
    ("layers are read in the order of the object, whatever the model needs first", [
        ("  if (spec.positions.empty()) return from;\n",
         "  if (from < end) return from;\n")],
     "detail/planner/schedule_test.cpp",
     "what the model needs first is read first, also where other layers lie before it in the objects"),
    ("a pass is thought to wait for layers of windows in chunks that they do not reach", [
        ("    if (spec.position(layer) < layers) end = std::max",
         "    end = std::max")],
     "detail/planner/snapshot_test.cpp",
     "layers that lie late in objects but early in the model are known to hold a gated pass up"),
    ("a slice of small layers is as many as of mean ones", [
        ("  if (spec.layer_begins.empty()) {\n    const auto one", "  if (true) {\n    const auto one")],
     "detail/planner/schedule_test.cpp", "a slice takes more layers where they are small"),
    ("buckets of a histogram are written each by itself", [
        ("    below += histogram.counts[i];\n",
         "    below = histogram.counts[i];\n")],
     "metrics_test.cpp", "buckets of a histogram are written cumulatively, up to +Inf, with sum and count"),
    ("a quote in a label is left as it is", [
        ("    } else if (c == '\"' && label) {\n",
         "    } else if (c == '\"' && !label) {\n")],
     "metrics_test.cpp", "labels and help are escaped as the format wants it"),
    ("a family is told as often as it comes", [
        ("    if (std::any_of(until.begin(), until.end(), same)) continue;\n",
         "")],
     "metrics_test.cpp", "families of one name are told once, and their samples stand together"),
    ("prompts that were canceled count as failed", [
        ("    ++p.canceled;\n",
         "    ++p.failed;\n")],
     "metrics_test.cpp", "reports are added up, by outcome, source and lane"),
    ("prompts that failed have a time to first token", [
        ("  if (code != Errc::ok) return;\n  ttft_.add",
         "  ttft_.add")],
     "metrics_test.cpp", "times of prefills that did not end well are in no histogram"),
]
