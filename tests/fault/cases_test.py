#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
"""Checks cases.md: each fault case is there and names a test that is, or says why there is none.

    tests/fault/cases_test.py TESTS       prints each violation; exit status 1 if there is one

TESTS: the folder of the tests. Then the check itself is checked on tables that are wrong.
"""
import os
import re
import sys

# How many cases each list has at least.
NUMBERS = {"": 44, "C": 12, "N": 13, "S": 20, "R": 20}
ROW = re.compile(r"^\|(.*)\|(.*)\|(.*)\|$")
CASE = re.compile(r'TEST_CASE\(\s*((?:"(?:[^"\\]|\\.)*"\s*)+)')
WORDS_OF_A_REASON = 5


def tests_of(folder):
    """The names of all test cases, by the names of their files; a program of its own has its file's name."""
    names = {}
    for path, _, files in os.walk(folder):
        for file in files:
            if not file.endswith(".cpp"):
                continue
            with open(os.path.join(path, file), encoding="utf-8") as source:
                text = source.read()
            found = names.setdefault(file, set())
            found.update(re.sub(r'"\s*"', "", case).strip()[1:-1] for case in CASE.findall(text))
            if re.search(r"^int main\(", text, re.MULTILINE):
                found.add(file[:-len(".cpp")])
    return names


def problems(table, tests):
    """What is wrong with the rows of a table."""
    wrong, seen = [], []
    for line in table.splitlines():
        row = ROW.match(line)
        if not row or row[1].strip() in ("Case", "---"):
            continue
        number, must, shown = (cell.strip() for cell in row.groups())
        if number in seen:
            wrong.append(f"case {number} is there twice")
        seen.append(number)
        if not must:
            wrong.append(f"case {number} does not say what must happen")
        if shown.startswith("not here: "):
            if len(shown.split()) < WORDS_OF_A_REASON:
                wrong.append(f"case {number} gives no reason")
            continue
        named = re.findall(r"`([^`]+)`", shown)
        if not named:
            wrong.append(f"case {number} has neither a test nor a reason")
        for name in named:
            file, _, case = name.partition(": ")
            if case not in tests.get(file, ()):
                wrong.append(f"case {number}: there is no test {name}")
    for letter, least in NUMBERS.items():
        wrong += [f"case {letter}{i} is missing" for i in range(1, least + 1) if f"{letter}{i}" not in seen]
    return wrong


def check_the_check(table, tests):
    """Each kind of mistake is found in a table that has it."""
    row = next(line for line in table.splitlines() if line.startswith("| 3 |"))
    cells = row.split("|")
    for what, changed in (("is missing", ""), ("is there twice", row + "\n" + row),
                          ("neither a test nor a reason", "|".join([*cells[:3], " ", ""])),
                          ("gives no reason", "|".join([*cells[:3], " not here: no ", ""])),
                          ("does not say", "|".join([*cells[:2], " ", *cells[3:]])),
                          ("there is no test", row.replace("disk error", "disk terror"))):
        found = problems(table.replace(row, changed), tests)
        if not any(what in problem for problem in found):
            return [f"a table in which something '{what}' passes this test"]
    return []


def main():
    folder = sys.argv[1]
    with open(os.path.join(folder, "fault", "cases.md"), encoding="utf-8") as file:
        table = file.read()
    tests = tests_of(folder)
    wrong = problems(table, tests) or check_the_check(table, tests)
    for problem in wrong:
        print(f"tests/fault/cases.md: {problem}")
    print(f"{len(re.findall(r'^[|] [A-Z]*[0-9]+ [|]', table, re.MULTILINE))} cases, {len(wrong)} problems")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
