#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
"""Checks the rules of CONTRIBUTING.md that a compiler does not check.

    tests/tidy.py ROOT          prints each violation as FILE:LINE: TEXT; exit status 1 if there is one

Functions and classes are found by matching braces, which is enough for sources in the style of
.clang-format. Formatting is checked where clang-format 14 is installed.
"""
import fnmatch
import os
import re
import shutil
import subprocess
import sys

CODE = (".hpp", ".cpp", ".cu", ".cuh", ".inc")
TEXT = CODE + (".md", ".py", ".sh", ".cmake", ".txt", ".in", ".json", ".svg")
SKIPPED = ("build", ".git", ".cache", "__pycache__", "data")
MAX_FUNCTION_LINES = 60
MAX_CLASS_LINES = 250
MAX_CORE_HEADERS = 20

# Words that docs/glossary.md replaces, and whether a word that starts like that counts as well.
RETIRED = re.compile(
    r"\b(courses?|outlooks?|board|claims|oracles?|ladders?|rungs?|doom\w*|starv\w*|blam\w*|patience|"
    r"houses?|stood in for|in vain|(?:deals?|dealt|dealing) out|dealt)\b", re.IGNORECASE)

# (file, text on the line, why): ordinary English, or text that is not ours.
WORDS_ALLOWED = [
    ("LICENSE", "claims", "the text of the licence"),
    ("CHANGELOG.md", "", "names of earlier versions"),
    ("docs/glossary.md", "", "the table of retired words"),
    ("tests/tidy*.py", "", "this test"),
    ("*", "of course", "ordinary English"),
    ("include/cake/detail/*", "starved", "a gated step without its layer; the coverage mark has that name"),
    ("src/core/*", "starved", "the same"),
    ("tests/simulation/*", "starved", "the coverage mark"),
    ("include/cake/*", "laims the ", "the verb: a lane claims the read"),
]

# (file, function or class, why): longer than the limit. At most ten functions.
LONG_FUNCTIONS = [
    ("src/cuda/attention/attention_mma.cuh", "__launch_bounds__", "one kernel: registers live from begin to end"),
    ("src/cuda/attention/attention_reference.cu", "__launch_bounds__", "the plain kernel that the others are checked against"),
    ("src/reference/cuda/model.cpp", "layer", "one layer, its launches in the order of the model"),
    ("include/cake/testing/check_engine.hpp", "check", "a list of rules, each checked in turn"),
    ("include/cake/testing/check_engine.hpp", "check_memory", "a list of rules, each checked in turn"),
    ("include/cake/testing/check_storage.hpp", "check", "a list of rules, each checked in turn"),
    ("tests/cuda/reference_kernels_test.cpp", "check_rope", "the formula written out"),
    ("tests/cuda/reference_gemm_test.cpp", "check_gemm", "one case with its data"),
    ("tests/reference/tiny_model.hpp", "encode", "a file format, field by field"),
    ("tests/reference/tiny_model.hpp", "naive_logits", "the whole model written out"),
]
LONG_CLASSES = [
    ("include/cake/detail/session_state.hpp", "SessionState", "to be split"),
    ("include/cake/detail/session_core.hpp", "SessionCore", "to be split"),
    ("examples/quickstart.cpp", "Quickstart", "one program, told in order"),
    ("src/core/io_lanes_inside.hpp", "IoLanesCore::Inside", "one mutex and all that it guards; three sources"),
    ("include/cake/scheduler/compute_cost.hpp", "ComputeCostEstimator", "to be split"),
    ("include/cake/scheduler/link_estimator.hpp", "LinkEstimator", "to be split"),
    ("include/cake/testing/simulation.hpp", "Simulation", "one machine: engine, lanes and clock"),
    ("tests/cuda/attention_case.hpp", "AttentionCase", "one case with its data"),
]

# (header, header that it includes, why): arrows that point up today.
ARROWS_KNOWN = []

# Public headers without a test of their stem: the test that covers them.
TESTED_BY = {
    "cake": "tests/package/core.cpp",
    "export": "tests/package/core.cpp",
    "version": "tests/abi_test.cpp",
    "types": "tests/prefill_spec_test.cpp",
    "scheduler": "tests/run_view_test.cpp",
    "session_options": "tests/session_lifecycle_test.cpp",
    "storage_backend": "tests/tiers_test.cpp",
    "cuda/device_arena": "tests/cuda/gds_gpu_test.cpp",
    "cuda/paged_kv": "tests/cuda/kv_transfer_plan_test.cpp",
    "reference/cuda_backend": "tests/cuda/reference_cuda_test.cpp",
    "reference/cuda_weights": "tests/cuda/reference_real_test.cpp",
    "testing/check_engine": "tests/testing/check_test.cpp",
    "testing/check_scheduler": "tests/testing/check_test.cpp",
    "testing/check_storage": "tests/testing/check_test.cpp",
    "testing/event_queue": "tests/simulation/fleet_test.cpp",
    "testing/kv_invariants": "tests/simulation/exhaustive_test.cpp",
    "testing/simulation_spec": "tests/simulation/simulation_test.cpp",
}

# Not counted: the umbrella, and headers of macros alone.
NOT_COUNTED = ("cake", "export", "version")


def files_of(root, endings):
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith(SKIPPED))
        for name in sorted(names):
            if name.endswith(endings):
                path = os.path.join(folder, name)
                yield os.path.relpath(path, root).replace(os.sep, "/")


def read(root, path):
    with open(os.path.join(root, path), encoding="utf-8") as file:
        return file.read()


def allowed(table, path, text):
    return any(fnmatch.fnmatch(path, entry[0]) and entry[1] in text for entry in table)


# ---- words and heads ------------------------------------------------------------------------------


def check_words(root):
    for path in list(files_of(root, TEXT)) + ["LICENSE"]:
        if not os.path.exists(os.path.join(root, path)):
            continue
        for number, line in enumerate(read(root, path).splitlines(), 1):
            # DoomedInsert and doomed_insert are words, too.
            split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", line)
            found = RETIRED.search(split)
            if found and not allowed(WORDS_ALLOWED, path, line):
                yield f"{path}:{number}: '{found.group()}' is retired; docs/glossary.md has the word to use"


def check_heads(root):
    for path in files_of(root, CODE + (".py", ".sh")):
        head = read(root, path)[:300]
        if "SPDX-License-Identifier: Apache-2.0" not in head:
            yield f"{path}:1: no SPDX-License-Identifier: Apache-2.0 at the top"


def check_links(root):
    """Links of documents to files of the project, and headings that they name, exist."""
    for path in files_of(root, (".md",)):
        for number, line in enumerate(read(root, path).splitlines(), 1):
            for target in re.findall(r"\]\(([^)\s]+)\)", line):
                name, _, heading = target.partition("#")
                file = os.path.normpath(os.path.join(os.path.dirname(path), name)) if name else path
                if re.match(r"\w+:", target):
                    continue
                if not os.path.exists(os.path.join(root, file)):
                    yield f"{path}:{number}: links to {target}, which is not there"
                elif heading and file.endswith(".md") and heading not in anchors(read(root, file)):
                    yield f"{path}:{number}: links to {target}, which has no such heading"


def check_error_texts(root):
    """The texts that docs/troubleshooting.md explains are texts of the sources."""
    path = "docs/troubleshooting.md"
    if not os.path.exists(os.path.join(root, path)):
        return
    sources = "\n".join(read(root, p) for p in files_of(root, CODE + (".cmake", "CMakeLists.txt"))
                        if p.startswith(("include/", "src/", "cmake/")))
    sources = re.sub(r'"\s*"', "", sources)  # literals that follow each other are one
    for line in read(root, path).partition("## Error texts")[2].splitlines():
        for text in re.findall(r"`([^`]+)`", line.split("|")[1]) if line.startswith("| `") else []:
            if not all(part in sources for part in re.split(r"\s*\.\.\.\s*", text)):
                yield f"{path}: the error text '{text}' is not in the sources any more"


def anchors(text):
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# ---- functions and classes ------------------------------------------------------------------------


def blank(text):
    """The same text, with comments, strings, characters and preprocessor lines as spaces."""
    def spaces(match):
        return re.sub(r"[^\n]", " ", match.group())
    pattern = (r'//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|'
               r"(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])*'|^[ \t]*#(?:[^\n\\]|\\.|\\\n)*")
    return re.sub(pattern, spaces, text, flags=re.DOTALL | re.MULTILINE)


FUNCTION = re.compile(r"\)\s*(const|noexcept(\([^()]*\))?|override|final|mutable|&&?|\s)*"
                      r"(->[^;{}]*|:[^;{}]*(\{\}[^;{}]*)*)?\s*$")
TYPE = re.compile(r"(?:^|[\s>])(class|struct|union)\s+(?:[A-Z_]+\s+)?(?:__\w+__\s*\(.*?\)\s*)?([\w:]+)")


def scopes(text):
    """(kind, name, first line, last line) of each class and each outermost function."""
    text = blank(text)
    stack = []  # (kind, name, line, prelude before it)
    prelude = ""
    start = line = 1
    for part in re.split(r"([{};\n])", text):
        if part == "\n":
            line += 1
            prelude += " "
        elif part == ";":
            prelude = ""
        elif part == "{":
            kind, name = kind_of(prelude, stack)
            stack.append((kind, name, start if kind == "function" else line, prelude))
            prelude = ""
        elif part == "}":
            if not stack:
                return
            kind, name, first, before = stack.pop()
            if kind in ("function", "class"):
                yield kind, name, first, line
            # What stands before a brace that is a value still belongs to what follows.
            prelude = before + "{}" if kind == "value" else ""
        else:
            if not prelude.strip() and part.strip():
                start = line
            prelude += part


def kind_of(prelude, stack):
    inside = [entry[0] for entry in stack]
    text = " ".join(prelude.split())
    if "function" in inside:
        found = TYPE.search(text)
        return ("class", found.group(2)) if found and "(" not in text else ("block", "")
    if re.search(r"\b(namespace|extern)\b", text) and "(" not in text:
        return "namespace", ""
    if re.search(r"\benum\b", text) and "(" not in text:
        return "block", ""
    found = TYPE.search(re.sub(r"template\s*<.*?>(?=\s*(class|struct))", " ", text))
    if found and not text.endswith(")") and not re.search(r"\)\s*(const|noexcept|override)*$", text):
        if not re.search(r"[\w>]\s+\w+\s*\(", text.split(found.group(2))[0]):
            return "class", found.group(2)
    if FUNCTION.search(text) and not text.endswith("="):
        # `Type() : member` is still open: its brace is a value, and the body follows.
        if re.search(r"[:,]\s*[\w:<>]+$", text) and re.search(r"\)\s*(noexcept)?\s*:", text):
            return "value", ""
        name = re.search(r"([\w~]+|operator\s*[^\s(]+)\s*\(", text)
        return "function", name.group(1) if name else text[:40]
    return "value", ""


def check_lengths(root):
    over = []
    for path in files_of(root, CODE):
        for kind, name, first, last in scopes(read(root, path)):
            most, table = ((MAX_FUNCTION_LINES, LONG_FUNCTIONS) if kind == "function" else
                           (MAX_CLASS_LINES, LONG_CLASSES))
            if last - first + 1 > most and not allowed_name(table, path, name):
                yield f"{path}:{first}: {kind} {name} has {last - first + 1} lines; at most {most}"
    if len(LONG_FUNCTIONS) > 10:
        yield f"tests/tidy.py: {len(LONG_FUNCTIONS)} long functions are excused; at most 10"


def allowed_name(table, path, name):
    return any(entry[0] == path and entry[1] == name for entry in table)


# ---- includes -------------------------------------------------------------------------------------


def include_graph(root):
    graph = {}
    for path in files_of(os.path.join(root, "include"), (".hpp",)):
        text = read(os.path.join(root, "include"), path)
        graph[path] = re.findall(r'^#include "(cake/[^"]+)"', text, re.MULTILINE)
    return graph


def groups_of(root):
    """The table of docs/architecture.md: [(group, [pattern], [group that it may include])]."""
    text = read(root, "docs/architecture.md")
    block = re.search(r"```include-arrows\n(.*?)```", text, re.DOTALL)
    rows = []
    for row in block.group(1).splitlines() if block else []:
        name, headers, below = (cell.strip() for cell in row.split("|"))
        rows.append((name, headers.split(), below.split()))
    return rows


def group_of(groups, header):
    stem = header[len("cake/"):-len(".hpp")]
    for name, patterns, _ in groups:
        if stem in patterns:
            return name
    for name, patterns, _ in groups:
        if any(fnmatch.fnmatchcase(stem, pattern) for pattern in patterns):
            return name
    return None


def check_arrows(root, graph):
    groups = groups_of(root)
    if not groups:
        yield "docs/architecture.md: the block ```include-arrows is missing"
        return
    below = {name: {name, *included} for name, _, included in groups}
    order = [name for name, _, _ in groups]
    for name, _, included in groups:
        for other in included:
            if other not in order or order.index(other) >= order.index(name):
                yield f"docs/architecture.md: {name} may include {other}, which is not above it in the list"
    for header, included in graph.items():
        mine = group_of(groups, header)
        if mine is None:
            yield f"include/{header}:1: in no group of docs/architecture.md"
            continue
        for other in included:
            theirs = group_of(groups, other)
            if theirs in below[mine] or allowed_name(ARROWS_KNOWN, header, other):
                continue
            yield (f"include/{header}:1: includes {other}, but {mine} may not include {theirs} "
                   "(docs/architecture.md)")


def names_of(root, header):
    """What a header declares at namespace level, roughly."""
    text = blank(read(os.path.join(root, "include"), header))
    names = set(re.findall(r"\b(?:class|struct|enum class|concept|using|enum)\s+(?:CAKE_API\s+)?(\w+)", text))
    return names | set(re.findall(r"\b(\w+)\s*\(", text)) | set(re.findall(r"\b(k[A-Z]\w+)", text))


def check_detail(root, graph):
    for header, included in graph.items():
        if "/detail/" in header:
            continue
        body = blank(read(os.path.join(root, "include"), header))
        for other in included:
            if "/detail/" not in other or "cake/detail/" + os.path.basename(header)[:-4] + "_core.hpp" == other:
                continue
            if not any(re.search(rf"\b{name}\b", body) for name in names_of(root, other)):
                yield f"include/{header}:1: includes {other} and uses nothing of it"
    reached, open_ = set(), ["cake/cake.hpp"]
    while open_:
        header = open_.pop()
        if header not in reached:
            reached.add(header)
            open_ += graph.get(header, [])
    for header in sorted(reached):
        if re.match(r"cake/(testing|storage|cuda|reference)/", header) or header.endswith("check_support.hpp"):
            yield f"include/{header}:1: reachable from cake.hpp; the core does not need it"


def check_public(root, graph):
    core = [h for h in graph if h.count("/") == 1 and stem_of(h) not in NOT_COUNTED]
    if len(core) > MAX_CORE_HEADERS:
        yield f"include/cake: {len(core)} public headers in the core; at most {MAX_CORE_HEADERS}"
    tests = " ".join(os.path.basename(path) for path in files_of(os.path.join(root, "tests"), (".cpp", ".cu")))
    for header in graph:
        stem = stem_of(header)
        if "/detail/" in header:
            continue
        other = TESTED_BY.get(header[len("cake/"):-len(".hpp")])
        if other and os.path.exists(os.path.join(root, other)):
            continue
        if not re.search(rf"\b(\w+_)?{stem}(_\w+)?_test\.", tests):
            yield f"include/{header}:1: no test of that stem below tests/"


def stem_of(header):
    return os.path.basename(header)[:-len(".hpp")]


# ---- tests that documents name --------------------------------------------------------------------


def check_named_tests(root):
    """Each test that the table of threats names is there."""
    path = "SECURITY.md"
    if not os.path.exists(os.path.join(root, path)):
        return
    tests = set()
    for source in files_of(os.path.join(root, "tests"), (".cpp",)):
        text = read(os.path.join(root, "tests"), source)
        for literals in re.findall(r'TEST_CASE\(\s*((?:"(?:[^"\\]|\\.)*"\s*)+)', text):
            tests.add("".join(re.findall(r'"((?:[^"\\]|\\.)*)"', literals)))
    column = None
    for number, line in enumerate(read(root, path).splitlines(), 1):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            column = None
        elif column is None:
            column = cells.index("tests") if "tests" in cells else -1
        elif 0 <= column < len(cells):
            for name in re.findall(r"`([^`]+)`", cells[column]):
                if name not in tests:
                    yield f"{path}:{number}: no test below tests/ is named '{name}'"


# ---- the inline namespace -------------------------------------------------------------------------


def check_abi(root):
    """CAKE_ABI must be defined where it is used, or a namespace of that name comes into being."""
    sources = list(files_of(root, CODE))
    known, texts = set(sources), {path: read(root, path) for path in sources}

    def included(path):
        for name in re.findall(r'^#include [<"]([^">]+)[">]', texts[path], re.MULTILINE):
            for place in (os.path.dirname(path), "", "include", "tests"):
                found = os.path.normpath(os.path.join(place, name))
                if found in known:
                    yield found
                    break

    reach = {"include/cake/version.hpp"}
    graph = {path: list(included(path)) for path in sources}
    while True:
        more = {path for path in sources if path not in reach and reach.intersection(graph[path])}
        if not more:
            break
        reach |= more
    for path in sources:
        if path not in reach and re.search(r"\bCAKE_ABI\b", blank(texts[path])):
            yield f'{path}:1: writes CAKE_ABI and does not include "cake/version.hpp"'


# ---- format ---------------------------------------------------------------------------------------


def formatter():
    """clang-format 14, or None."""
    for tool in filter(None, map(shutil.which, ("clang-format-14", "clang-format"))):
        if "version 14." in subprocess.run([tool, "--version"], capture_output=True, text=True).stdout:
            return tool
    return None


def check_format(root):
    tool = formatter()
    if tool is None:
        print("format not checked: clang-format 14 is not installed")
        return
    paths = list(files_of(root, CODE))
    # One process for all files: their output follows each other without a mark in between.
    formatted = subprocess.run([tool, *paths], cwd=root, capture_output=True).stdout
    texts = [read(root, path).encode() for path in paths]
    if formatted == b"".join(texts):
        return
    for path, text in zip(paths, texts):
        if formatted.startswith(text):
            formatted = formatted[len(text):]
            continue
        one = subprocess.run([tool, path], cwd=root, capture_output=True).stdout
        formatted = formatted[len(one):]
        lines = zip(text.decode().splitlines() + [""], one.decode().splitlines() + [""])
        number = next((i for i, (a, b) in enumerate(lines, 1) if a != b), 1)
        yield f"{path}:{number}: not as clang-format 14 writes it; run clang-format -i {path}"


def main():
    root = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else ".")
    graph = include_graph(root)
    found = [*check_words(root), *check_heads(root), *check_links(root), *check_error_texts(root), *check_lengths(root), *check_arrows(root, graph),
             *check_detail(root, graph), *check_public(root, graph), *check_named_tests(root), *check_abi(root), *check_format(root)]
    for violation in found:
        print(violation)
    print(f"{len(found)} violations")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
