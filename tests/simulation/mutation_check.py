#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
"""Shows that the tests find bugs: puts one deliberate bug of mutants.py at a time into a copy of
the code, and requires that a wild seed of the simulation breaks a rule, or that the named test case
fails. Without a bug both must pass.

    mutation_check.py --source DIR [--cxx COMPILER] [--seeds N] [--jobs N] [--only TEXT]

Exits with 1 when a bug goes unnoticed, does not compile, or its text is not found exactly once in
include/cake and src.
"""
import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True  # leaves nothing in the source tree
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from mutants import MUTANTS  # noqa: E402

# What the test programs need of the compiled part of the library.
PURE = ["core/chunk_table.cpp", "core/planner/forecast.cpp", "core/planner/schedule.cpp", "core/planner/search.cpp",
        "core/planner/snapshot.cpp", "core/prefill_state.cpp", "core/report.cpp", "core/run_log.cpp",
        "core/scheduler/compute_cost.cpp", "core/scheduler/link_estimator.cpp",
        "core/scheduler/meet_in_the_middle.cpp", "core/session_core.cpp", "core/identity.cpp", "core/guarded.cpp", "core/lookup.cpp",
        "core/result.cpp", "chunk/format.cpp"]
LIBRARY = [*PURE, "core/admission.cpp", "core/prefetch.cpp", "core/queued_prompt.cpp", "core/calibration.cpp", "core/io_lanes_core.cpp", "core/lane_joins.cpp", "core/lane_memory.cpp", "core/lane_parts.cpp", "core/lane_prompts.cpp", "core/landing.cpp", "core/last_prompt.cpp", "core/metrics.cpp",
           "core/save.cpp", "core/save_ticket.cpp", "core/save_work.cpp", "core/saver_core.cpp",
           "core/session_parts.cpp", "core/session_run.cpp", "core/session_state.cpp", "core/tier_lookup.cpp", "chunk/digest.cpp",
           "chunk/object_cipher.cpp", "chunk/reader.cpp", "chunk/tenant_keys.cpp", "chunk/writer.cpp", "storage/host/host.cpp", "storage/host/memory.cpp",
           "storage/memory.cpp", "storage/posix/index.cpp", "storage/tiered/copy_queue.cpp",
           "storage/tiered/tier_policies.cpp"]
SIMULATE = "simulation/simulate.cpp"
# A mutant that takes this many times as long as the code without it, and these seconds more, hangs.
TIMES = 10
SECONDS = 5
# Some bugs of threads show only when threads meet: such a test is run again before a bug is missed.
TRIES = 3


class CheckError(Exception):
    """What is wrong with a mutant, in words."""


class Check:
    def __init__(self, args, folder):
        self.args = args
        self.source = args.source
        self.folder = folder
        self.objects = {}
        self.precompiled = {}
        self.locks = {}
        self.lock = threading.Lock()
        self.seconds = {}  # what each test case takes without a bug
        self.files = {path: path.read_text() for top in ("include/cake", "src")
                      for path in sorted((self.source / top).rglob("*.[ch]pp"))}
        self.catch = ["-lCatch2WithMain"]
        if any(pathlib.Path(p, "catch2/catch_test_macros.hpp").exists()
               for p in ("/usr/include", "/usr/local/include")):
            self.catch = ["-lCatch2Main", "-lCatch2"]

    def run_compiler(self, arguments):
        done = subprocess.run([self.args.cxx, "-std=c++20", *arguments], capture_output=True,
                              text=True)
        if done.returncode != 0:
            raise CheckError(f"does not compile\n{done.stderr[:2000]}")

    def precompile(self):
        """tests/precompiled.hpp, once for each way in which sources are compiled."""
        header = self.source / "tests/precompiled.hpp"
        for level in ("-O0", "-O1"):
            copy = self.folder / level.strip("-") / header.name
            copy.parent.mkdir()
            copy.write_text(header.read_text())
            self.run_compiler([level, f"-I{self.source}", "-x", "c++-header", copy, "-o", f"{copy}.gch"])
            self.precompiled[level] = copy

    def compile(self, tree, file, level, out):
        """`file` with the headers of `tree`, which has include/ and src/."""
        tests = self.source / "tests"
        self.run_compiler([level, "-include", self.precompiled[level], f"-I{tree}/include", f"-I{tree}", f"-I{tests}",
                           f"-I{tests}/simulation", f"-I{tests}/detail/planner", f"-I{self.source}", "-c", file, "-o", out])
        return out

    def headers_of(self, path):
        """All headers of cake that a file includes, as paths below the source tree."""
        found = set()
        left = [path]
        while left:
            includer = left.pop()
            text = self.files.get(self.source / includer, "")
            for name in re.findall(r'#include "([^"]*)"', text):
                header = (pathlib.Path("include", name) if name.startswith("cake/") else
                          pathlib.Path(name) if name.startswith("src/") else includer.parent / name)
                if header not in found:
                    found.add(header)
                    left.append(header)
        return found

    def unmutated(self, file, level):
        """The object of a file of the tree as it is; made once at each level."""
        key = (file, level)
        with self.lock:
            lock = self.locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self.objects:
                out = self.folder / f"unmutated{len(self.locks)}-{len(self.objects)}-{file.stem}.o"
                self.objects[key] = self.compile(self.source, file, level, out)
        return self.objects[key]

    def build(self, tree, changed, test, out):
        """The program `test` (a source below tests/) with the headers of `tree`. `changed`: what
        differs from the tree as it is, as paths below `tree`."""
        headers = {path for path in changed if path.suffix == ".hpp"}
        main = self.source / "tests" / test
        # Only the simulation computes for long; other tests are compiled longer than they run.
        level = "-O1" if main.parent.name == "simulation" else "-O0"
        objects = [self.compile(tree, main, level, out.with_suffix(".o")) if headers
                   else self.unmutated(main, level)]
        for name in PURE if test == SIMULATE else LIBRARY:
            path = pathlib.Path("src", name)
            if path in changed or headers & self.headers_of(path):
                objects.append(self.compile(tree, tree / path, level, out.with_suffix(f".{path.stem}.o")))
            else:
                objects.append(self.unmutated(self.source / path, level))
        libraries = ["-lcrypto"] if test == SIMULATE else [*self.catch, "-lcrypto", "-lisal", "-ldl"]
        self.run_compiler([*objects, "-o", out, *libraries, "-pthread"])

    def run(self, program, test, case):
        """None when all is well; else what was found."""
        limit = TIMES * self.seconds.get((test, case), 60) + SECONDS
        command = [program, "0", str(self.args.seeds)]
        if test != SIMULATE:
            # Catch splits names at commas.
            command = [program, case.replace(",", "\\,"), "--abort"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace",
                                  timeout=limit)
        except subprocess.TimeoutExpired:
            return "does not end"
        if "No test cases matched" in done.stdout:
            raise CheckError(f"{test} has no test case \"{case}\"")
        if done.returncode == 0:
            return None
        if test != SIMULATE and done.returncode > 0:
            return f"\"{case}\" fails"
        return done.stdout.splitlines()[0] if done.stdout else f"ended by signal {-done.returncode}"

    def mutate(self, edits, tree):
        """Copies the code to `tree` with the edits made; the changed files, as paths below it."""
        changed = {}
        for old, new in edits:
            found = [(path, text) for path, text in self.files.items() if old in text]
            times = sum(text.count(old) for _, text in found)
            if times != 1:
                raise CheckError(f"its text occurs {times} times in include/cake and src: {old!r}")
            path, text = found[0]
            changed[path] = changed.get(path, text).replace(old, new)
        for top in ("include", "src"):
            shutil.copytree(self.source / top, tree / top)
        names = []
        for path, text in changed.items():
            names.append(path.relative_to(self.source))
            target = tree / names[-1]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        return names

    def try_mutant(self, index, unmutated):
        """`unmutated`: what try_unmutated says of each test, in futures."""
        what, edits, *by = MUTANTS[index]
        test, case = by if by else (SIMULATE, "")
        unmutated[test].result()
        tree = self.folder / f"tree{index}"
        program = self.folder / f"program{index}"
        try:
            self.build(tree, self.mutate(edits, tree), test, program)
            found = self.run(program, test, case)
            for _ in range(TRIES - 1 if test != SIMULATE else 0):
                found = found or self.run(program, test, case)
        except CheckError as error:
            return False, f"{what}: {error}"
        if found is None:
            by_whom = f"within {self.args.seeds} seeds" if test == SIMULATE else f"by \"{case}\""
            return False, f"{what}: NOT FOUND {by_whom}"
        shutil.rmtree(tree)
        program.unlink()
        return True, f"{what}: {found}"

    def try_unmutated(self, test, cases):
        """Every test that is to find a mutant passes without one."""
        program = self.folder / f"unmutated-{test.replace('/', '-')}.run"
        try:
            self.build(self.source, [], test, program)
            for case in cases:
                begin = time.monotonic()
                found = self.run(program, test, case)
                if found is not None:
                    return False, f"{test}, unmutated: {found}"
                self.seconds[test, case] = time.monotonic() - begin
        except CheckError as error:
            return False, f"{test}, unmutated: {error}"
        return True, f"nothing in {test} without a bug"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--source", type=pathlib.Path,
                        default=pathlib.Path(__file__).resolve().parents[2])
    parser.add_argument("--cxx", default=os.environ.get("CXX", "c++"))
    parser.add_argument("--seeds", type=int, default=10000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="mutants whose description has this text")
    args = parser.parse_args()
    args.source = args.source.resolve()
    chosen = [i for i, mutant in enumerate(MUTANTS) if args.only in mutant[0]]
    programs = {}
    for i in chosen:
        test, case = MUTANTS[i][2:] if len(MUTANTS[i]) > 2 else (SIMULATE, "")
        programs.setdefault(test, set()).add(case)
    missed = []
    with tempfile.TemporaryDirectory() as name:
        check = Check(args, pathlib.Path(name))
        check.precompile()
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            unmutated = {test: pool.submit(check.try_unmutated, test, sorted(cases))
                         for test, cases in programs.items()}
            results = [*unmutated.values(),
                       *(pool.submit(check.try_mutant, i, unmutated) for i in chosen)]
            for result in results:
                good, line = result.result()
                print(("found  " if good else "MISSED ") + line, flush=True)
                if not good:
                    missed.append(line)
    print(f"{len(chosen)} bugs, {len(missed)} failures")
    for line in missed:  # once more, below all that was found
        print("MISSED " + line)
    return 1 if missed or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
