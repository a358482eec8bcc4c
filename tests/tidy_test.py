#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
"""tests/tidy.py finds each kind of violation in a small tree, and finds nothing in the tree without it."""
import importlib.util
import os
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
SPEC = importlib.util.spec_from_file_location("tidy", os.path.join(HERE, "tidy.py"))
tidy = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tidy)

HEAD = "// SPDX-License-Identifier: Apache-2.0\n"
ARROWS = """# Architecture
```include-arrows
values   | version result      |
detail   | detail/*            | values
use      | loader              | detail values
umbrella | cake                | use values
```
"""
TREE = {
    "docs/architecture.md": ARROWS,
    "include/cake/version.hpp": HEAD + "#define CAKE_ABI v1\n",
    "include/cake/result.hpp": HEAD + '#include "cake/version.hpp"\nnamespace cake::inline CAKE_ABI {}\n',
    "include/cake/detail/guard.hpp": HEAD + '#include "cake/result.hpp"\nstruct Guard {};\n',
    "include/cake/loader.hpp": HEAD + '#include "cake/detail/guard.hpp"\nstruct Loader {\n  Guard guard;\n};\n',
    "include/cake/cake.hpp": HEAD + '#include "cake/loader.hpp"\n',
    "tests/loader_test.cpp": HEAD,
    "tests/result_test.cpp": HEAD,
    "tests/package/core.cpp": HEAD,
    "tests/abi_test.cpp": HEAD,
}


def violations(changes, check):
    """What one check finds in the tree with these files changed (None: removed)."""
    with tempfile.TemporaryDirectory() as root:
        for path, text in {**TREE, **changes}.items():
            if text is not None:
                os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
                with open(os.path.join(root, path), "w", encoding="utf-8") as file:
                    file.write(text)
        graph = tidy.include_graph(root)
        takes_graph = check in (tidy.check_arrows, tidy.check_detail, tidy.check_public)
        return list(check(root, graph) if takes_graph else check(root))


class Tidy(unittest.TestCase):
    def finds(self, check, text, changes):
        self.assertEqual(violations({}, check), [])
        found = violations(changes, check)
        self.assertEqual(len(found), 1, found)
        self.assertIn(text, found[0])

    def test_a_retired_word_is_found_in_any_case_and_inside_names(self):
        for line in ("// The oracle says", "class KvOracle;", "int doomed_insert;", "// It deals out rows.", "// Rungs"):
            self.finds(tidy.check_words, "retired", {"src/a.cpp": HEAD + line + "\n"})
        for line in ("// of course", "int onboard;", "// a keyboard", "// recourse", "// a dealer"):
            self.assertEqual(violations({"src/a.cpp": HEAD + line + "\n"}, tidy.check_words), [], line)

    def test_a_file_without_licence_head_is_found(self):
        self.finds(tidy.check_heads, "src/a.cpp:1", {"src/a.cpp": "int a;\n"})

    def test_a_link_to_nowhere_is_found(self):
        good = "[a](docs/architecture.md#architecture) [b](https://example.org/x.md) [c](#top)\n# Top\n"
        self.assertEqual(violations({"README.md": good}, tidy.check_links), [])
        self.finds(tidy.check_links, "not there", {"README.md": "[a](docs/gone.md)\n"})
        self.finds(tidy.check_links, "no such heading", {"docs/a.md": "[a](architecture.md#gone)\n"})

    def test_an_explained_error_text_that_is_gone_is_found(self):
        tree = {"src/a.cpp": HEAD + 'auto a = "one layer takes " + n +\n    " bytes of "\n    "memory";\n',
                "docs/troubleshooting.md": "## Error texts\n| `layer takes ... bytes of memory` | a | b |\n"}
        self.assertEqual(violations(tree, tidy.check_error_texts), [])
        tree["src/a.cpp"] = HEAD
        self.finds(tidy.check_error_texts, "not in the sources", tree)

    def test_a_function_of_more_than_60_lines_is_found(self):
        body = "  ++x;\n" * 58
        for opening in ("int f(int x) {\n", "auto S::f(int x) const noexcept -> int {\n",
                        "S::S(int x) : a_(x), b_{x} {\n", 'TEST_CASE("braces { in text") {\n',
                        "template <class T>\nvoid f(T x) {\n", "struct S {\n  void f(int x) {\n"):
            closing = "}\n};\n" if opening.startswith("struct") else "}\n"
            extra = opening.count("\n") - 1 - opening.startswith("struct")
            short = HEAD + opening + body[: len(body) - 7 * extra] + closing
            self.assertEqual(violations({"src/a.cpp": short}, tidy.check_lengths), [], opening)
            self.finds(tidy.check_lengths, "function", {"src/a.cpp": HEAD + opening + body + "  ++x;\n" + closing})

    def test_a_class_of_more_than_250_lines_is_found_and_a_table_is_not(self):
        self.finds(tidy.check_lengths, "class S",
                   {"src/a.cpp": HEAD + "class CAKE_API S final : public T<int> {\n" + "  int a;\n" * 250 + "};\n"})
        table = HEAD + "const int kTable[] = {\n" + "    1,\n" * 300 + "};\n"
        self.assertEqual(violations({"src/a.cpp": table}, tidy.check_lengths), [])

    def test_an_include_that_goes_up_is_found(self):
        self.finds(tidy.check_arrows, "may not include use",
                   {"include/cake/detail/guard.hpp": HEAD + '#include "cake/loader.hpp"\n'})

    def test_a_header_of_no_group_is_found(self):
        self.finds(tidy.check_arrows, "in no group", {"include/cake/other.hpp": HEAD})

    def test_a_list_of_arrows_with_a_cycle_is_found(self):
        cycle = ARROWS.replace("| version result      |", "| version result      | use")
        self.finds(tidy.check_arrows, "not above", {"docs/architecture.md": cycle})

    def test_an_internal_header_that_is_not_used_is_found(self):
        self.finds(tidy.check_detail, "uses nothing",
                   {"include/cake/loader.hpp": HEAD + '#include "cake/detail/guard.hpp"\nstruct Loader {};\n'})

    def test_a_store_that_the_umbrella_reaches_is_found(self):
        self.finds(tidy.check_detail, "reachable",
                   {"include/cake/storage/memory.hpp": HEAD, "include/cake/cake.hpp":
                    HEAD + '#include "cake/loader.hpp"\n#include "cake/storage/memory.hpp"\n'})

    def test_a_public_header_without_test_and_one_too_many_are_found(self):
        self.finds(tidy.check_public, "no test", {"tests/loader_test.cpp": None})
        many = {f"include/cake/x{i}.hpp": HEAD for i in range(19)}
        many.update({f"tests/x{i}_test.cpp": HEAD for i in range(19)})
        self.finds(tidy.check_public, "public headers", many)

    def test_a_test_that_the_table_of_threats_names_and_that_is_gone_is_found(self):
        table = "| who | tests |\n|---|---|\n| `nobody` | `a long name`, `b` |\n\n| other |\n|---|\n| `c` |\n"
        tree = {"SECURITY.md": table, "tests/a_test.cpp": HEAD + 'TEST_CASE(\n    "a long "\n    "name") {\n}\nTEST_CASE("b") {\n}\n'}
        self.assertEqual(violations(tree, tidy.check_named_tests), [])
        tree["tests/a_test.cpp"] = HEAD + 'TEST_CASE("a long name") {\n}\n'
        self.finds(tidy.check_named_tests, "SECURITY.md:3: no test below tests/ is named 'b'", tree)

    def test_the_namespace_macro_without_its_header_is_found(self):
        self.finds(tidy.check_abi, "src/a.hpp", {"src/a.hpp": HEAD + "namespace cake::inline CAKE_ABI {}\n"})

    def test_another_format_is_found_in_the_file_that_has_it(self):
        if not tidy.formatter():
            self.skipTest("clang-format 14 is not installed")
        self.finds(tidy.check_format, "src/b.cpp:2", {"src/a.cpp": HEAD + "int a;\n", "src/b.cpp": HEAD + "int  b;\n",
                                                      "src/c.cpp": HEAD + "int c;\n", ".clang-format": "BasedOnStyle: Google\n",
                                                      "include/cake/result.hpp": HEAD, "include/cake/loader.hpp": HEAD})


if __name__ == "__main__":
    unittest.main()
