#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
"""Shows that the simulation's oracle bites: puts one deliberate bug at a time into a copy of the
scheduler and session code, and requires that a wild seed breaks a rule.

    mutation_check.py --source DIR [--cxx COMPILER] [--seeds N] [--jobs N] [--only TEXT]

Exits with 1 when a bug goes unnoticed, does not compile, or its text is not found exactly once.
"""
import argparse
import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

CLAIMS = "cake/claims.hpp"
GATE = "cake/gate.hpp"
BOARD = "cake/board.hpp"
CORE = "cake/session_core.hpp"
MEET = "cake/scheduler/meet_in_the_middle.hpp"
LANE = "cake/lane_model.hpp"

# What it breaks, and (file, exact old text, new text) for each edit.
MUTANTS = [
    ("a step drops the claim on a chunk", [
        (CLAIMS, "      board_.set_state(c, ChunkState::computing);\n",
         "      if (c % 5 != 3) board_.set_state(c, ChunkState::computing);\n")]),
    ("insert after take-over", [
        (CLAIMS, "if (!slot->live || status_ != Errc::ok) {", "if (status_ != Errc::ok) {")]),
    ("a take-over leaves the read its claim", [
        (CLAIMS, "    slots_.drop_reads(chunk);\n  }\n\n  /// No slice of this chunk", "  }\n\n  /// No slice of this chunk")]),
    ("take over while inserting", [
        (GATE, "if (state == ChunkState::inserting || state == ChunkState::resident ||",
         "if (state == ChunkState::resident ||"),
        (MEET, "computes_[chunk] != 0 && (state == ChunkState::open || state == ChunkState::loading);",
         "(state == ChunkState::inserting ||\n           (computes_[chunk] != 0 && (state == ChunkState::open || state == ChunkState::loading)));")]),
    ("off by one at the meet: a chunk is taken for whole one token early", [
        (CLAIMS, "if (range.end <= end) board_.set_state", "if (range.end <= end + 1) board_.set_state")]),
    ("off by one at the meet: a step runs one token into the loads", [
        (MEET, "      end = std::min(limit, plan.chunk_range(chunk).end);\n    }\n    return end;",
         "      end = std::min(limit, plan.chunk_range(chunk).end);\n    }\n    if (end > board.front() && end < plan.prefix_end()) ++end;\n    return end;")]),
    ("no wake-up time", [
        (CORE, "step.until = std::max(std::min(until, next_deadline()), now + Time(1));", "step.until = kNever;\n    (void)until;\n    (void)now;"),
        (CLAIMS, "    Time earliest = slots_.next_deadline();\n", "    return kNever;\n    Time earliest = slots_.next_deadline();\n")]),
    ("a dead lane is never declared down", [
        (CLAIMS, "if (lane >= board_.n_lanes() || board_.lane(lane).down() == down) return;",
         "if (lane >= board_.n_lanes() || board_.lane(lane).down() == down || down) return;")]),
    ("a gate opens one layer early", [
        (GATE, "return missing_ == have_[std::min<std::size_t>(layer, have_.size() - 1)] ? GateState::open",
         "return missing_ == have_[layer == 0 ? 0 : layer - 1] ? GateState::open")]),
    ("a lost chunk does not void the gate", [
        (CLAIMS, "      gate_.lost(chunk);\n", "")]),
    ("a second slice before the tables are parsed", [
        (GATE, "return board.parsed(s.chunk) && (state", "return (state"),
        (MEET, "issued < plan.n_layers && board.parsed(chunk) && !board.doomed(chunk) &&",
         "issued < plan.n_layers && !board.doomed(chunk) &&")]),
    ("deadlines are ignored", [
        (CLAIMS, "if (!slot.live || slot.inserting || slot.deadline > now) continue;",
         "if (slot.deadline > Time{0}) continue;")]),
    ("give_back forgets the front", [
        (CLAIMS, "    board_.front_ = std::min(board_.front_, begin);\n", "")]),
    ("give_back forgets the suffix", [
        (CLAIMS, "    if (end > plan.prefix_end()) board_.suffix_front_ = std::max(begin, plan.prefix_end());\n", "")]),
    ("a chunk whose load failed stays loadable", [
        (CLAIMS, "    board_.flags_[chunk] |= Board::kDoomed;\n    chunks_[chunk].load_error = why;\n",
         "    chunks_[chunk].load_error = why;\n")]),
    ("a late landing counts as a failure again", [
        (CLAIMS, "    const bool wanted = slot->live;\n    if (wanted) {\n      count_failure(*slot);\n      loads_[slot->report].landed = now;",
         "    const bool wanted = slot->live;\n    {\n      count_failure(*slot);\n      loads_[slot->report].landed = now;")]),
    ("the rest of a short step is kept as computed", [
        (CLAIMS, "      give_back(end, ran.tokens.end);\n    }\n    record.tokens",
         "    }\n    record.tokens")]),
    ("a failed insert counts as good", [
        (CLAIMS, "    if (!ok) {\n      count_failure(*slot);\n      doom(chunk, Errc::device);\n    } else if",
         "    if (!ok) count_failure(*slot);\n    if")]),
    ("an engine without gates gets gated steps", [
        (GATE, "if (!step.gated || !board.may_gate() || step.tokens.begin", "if (!step.gated || step.tokens.begin")]),
    ("a stalled lane keeps its rate", [
        (LANE, "return std::max(1.0, age * rate_", "return std::max(1.0, 0 * age * rate_")]),
    ("a read without a deadline is waited for", [
        (CLAIMS, "const Time limit = now > kNever - options_.read_timeout ? kNever : now + options_.read_timeout;",
         "const Time limit = kNever;")]),
    ("a chunk becomes a hole while it is inserted", [
        (CLAIMS, "if (board_.inserting_[chunk] != 0 ||\n", "if (false ||\n")]),
    ("the front passes over chunks that are being inserted", [
        (BOARD, "} else if (state_[chunk] != ChunkState::resident) {",
         "} else if (state_[chunk] != ChunkState::resident && state_[chunk] != ChunkState::inserting) {")]),
    ("a session that waits for nobody goes on waiting", [
        (CORE, "if (!declined && !impatient_ && now < idle_since_ + options_.patience) {",
         "if (!impatient_) {")]),
]


def build(cxx, source, include, out):
    command = [cxx, "-std=c++20", "-O1", f"-I{include}", f"-I{source}/tests/simulation",
               f"{source}/tests/simulation/simulate.cpp", out.parent / "report.o", "-o", out]
    return subprocess.run(command, capture_output=True, text=True)


def try_mutant(args, folder, index):
    what, edits = MUTANTS[index]
    include = folder / f"include{index}"
    shutil.copytree(args.source / "include", include)
    for name, old, new in edits:
        path = include / name
        text = path.read_text()
        if text.count(old) != 1:
            return False, f"{what}: its text occurs {text.count(old)} times in {name}"
        path.write_text(text.replace(old, new))
    program = folder / f"simulate{index}"
    built = build(args.cxx, args.source, include, program)
    if built.returncode != 0:
        return False, f"{what}: does not compile\n{built.stderr[:2000]}"
    try:
        run = subprocess.run([program, "0", str(args.seeds)], capture_output=True, text=True,
                             timeout=100)
    except subprocess.TimeoutExpired:
        return True, f"{what}: does not end"
    if run.returncode == 0:
        return False, f"{what}: NOT FOUND within {args.seeds} seeds"
    found = run.stdout.splitlines()[0] if run.stdout else f"ended by signal {-run.returncode}"
    return True, f"{what}: {found}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--source", type=pathlib.Path,
                        default=pathlib.Path(__file__).resolve().parents[2])
    parser.add_argument("--cxx", default=os.environ.get("CXX", "c++"))
    parser.add_argument("--seeds", type=int, default=10000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="mutants whose description has this text")
    args = parser.parse_args()
    chosen = [i for i, (what, _) in enumerate(MUTANTS) if args.only in what]
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        subprocess.run([args.cxx, "-std=c++20", "-O1", f"-I{args.source}/include", "-c",
                        f"{args.source}/src/report.cpp", "-o", folder / "report.o"], check=True)
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            for good, line in pool.map(lambda i: try_mutant(args, folder, i), chosen):
                print(("found  " if good else "MISSED ") + line, flush=True)
                failures += not good
    print(f"{len(chosen) - failures} of {len(chosen)} bugs found")
    return 1 if failures or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
