#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
"""The quickstart as its users meet it: right use, wrong use, and what it leaves behind.

usage: quickstart_test.py QUICKSTART (the model comes from CAKE_TEST_MODEL or the cache folder)
Exit status 77: nobody has fetched the model, and nothing was tested.
"""
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

QUICKSTART = ""
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def model_file():
    given = os.environ.get("CAKE_TEST_MODEL")
    if given:
        return given
    cache = os.environ.get("CAKE_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache"), "cake")
    return os.path.join(cache, "SmolLM2-135M-Instruct.Q4_1.gguf")


def first_tensor_type_offset(path, wanted):
    """Offset of the type field of the first tensor whose type is `wanted`."""
    with open(path, "rb") as f:
        def take(fmt):
            return struct.unpack("<" + fmt, f.read(struct.calcsize(fmt)))[0]

        def string():
            return f.read(take("Q"))

        def value(kind):
            sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
            if kind == 8:
                string()
            elif kind == 9:
                inner, count = take("I"), take("Q")
                for _ in range(count):
                    value(inner)
            else:
                f.read(sizes[kind])

        assert f.read(4) == b"GGUF"
        take("I")
        tensors, pairs = take("Q"), take("Q")
        for _ in range(pairs):
            string()
            value(take("I"))
        for _ in range(tensors):
            string()
            for _ in range(take("I")):
                take("Q")
            at = f.tell()
            if take("I") == wanted:
                return at
            take("Q")
    raise AssertionError("no such tensor")


class Quickstart(unittest.TestCase):
    def setUp(self):
        self.model = model_file()
        self.assertTrue(os.path.exists(self.model),
                        f"model {self.model} is missing: bash tests/run.sh fetches it, or set CAKE_TEST_MODEL")
        self.folder = tempfile.mkdtemp(prefix="cake-quickstart-")
        self.store = os.path.join(self.folder, "store")
        self.document = self.path("document.txt")
        with open(os.path.join(ROOT, "LICENSE"), encoding="utf-8") as f:
            self.licence = f.read()
        self.write(self.document, self.licence[:2500])

    def tearDown(self):
        shutil.rmtree(self.folder)

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, path, text):
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)

    def run_it(self, *arguments, model=None, document=True):
        command = [QUICKSTART, "--model", model or self.model, "--store", self.store]
        if document:
            command += ["--document", self.document]
        command += [str(a) for a in arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    def good(self, *arguments, **more):
        run = self.run_it(*arguments, **more)
        self.assertEqual(run.returncode, 0, run.stderr + run.stdout)
        return run

    def wrong(self, *arguments, says=(), **more):
        before = sorted(os.listdir(self.folder))
        run = self.run_it(*arguments, **more)
        self.assertEqual(run.returncode, 2, f"{arguments}: {run.stderr}{run.stdout}")
        for text in says:
            self.assertIn(text, run.stderr)
        self.assertEqual(sorted(os.listdir(self.folder)), before, "wrong use wrote something")

    def test_three_modes_give_one_answer_and_a_second_run_hits(self):
        out = self.path("out.json")
        trace = self.path("trace.json")
        first = self.good("--max-new-tokens", 8, "--json", out, "--trace", trace)
        self.assertIn("saved", first.stdout)
        self.assertIn("simulated, at", first.stdout)
        with open(out, encoding="utf-8") as f:
            result = json.load(f)
        self.assertEqual(result["device"], "cpu")
        self.assertEqual([r["mode"] for r in result["runs"]], ["compute", "load", "cake"])
        n = len(result["prompt_tokens"])
        prefix = (n - 1) // 128 * 128
        for run in result["runs"]:
            self.assertEqual(run["tokens_computed"] + run["tokens_loaded"], n)
            self.assertEqual(run["answer_tokens"], result["runs"][0]["answer_tokens"])
            self.assertEqual(run["chunks_recomputed"], 0)
            self.assertGreater(run["ttft_s"], 0)
            # A bound comes from the run's own rates, so a run that loaded or computed nothing has none.
            if run["bound_s"] is not None:
                self.assertGreater(run["bound_s"], 0)
                self.assertLessEqual(run["bound_s"], run["ttft_s"])
            self.assertEqual(len(run["first_logits"]), 10)
            self.assertEqual(run["first_logits"][0][0], run["answer_tokens"][0])
            self.assertEqual([v for _, v in run["first_logits"]],
                             sorted((v for _, v in run["first_logits"]), reverse=True))
            self.assertTrue(1 <= len(run["answer_tokens"]) <= 8)
        compute, load, cake = result["runs"]
        self.assertIsNone(compute["bound_s"])
        self.assertEqual(compute["tokens_loaded"], 0)
        self.assertEqual(compute["bytes_read"], 0)
        self.assertEqual(compute["meet_token"], prefix)
        self.assertEqual(load["tokens_loaded"], prefix)
        self.assertEqual(load["meet_token"], 0)
        # On a machine that is slow for a moment compute may take a late chunk over, above the first loaded one.
        self.assertLessEqual(cake["meet_token"], prefix - cake["tokens_loaded"])
        with open(trace, encoding="utf-8") as f:
            events = json.load(f)["traceEvents"]
        self.assertTrue(any(e["name"] == "step" for e in events))
        self.assertTrue(any(e["name"] == "read" for e in events))
        second = self.good("--max-new-tokens", 8, "--mode", "load", "--link-mbit", 10000)
        self.assertNotIn("saved", second.stdout)
        self.assertIn(f"{n // 128} of {n // 128} chunks", second.stdout)

    def test_a_longer_document_that_begins_alike_hits_the_common_chunks(self):
        self.good("--max-new-tokens", 1, "--mode", "compute")
        self.write(self.document, self.licence[:4000])
        out = self.path("out.json")
        longer = self.good("--max-new-tokens", 1, "--mode", "load", "--link-mbit", 10000, "--json", out)
        there, whole = [int(w) for w in longer.stdout.split("store: ")[1].split(", ")[1].split() if w.isdigit()][:2]
        self.assertGreaterEqual(there, 3)
        self.assertLess(there, whole)

    def test_a_raw_prompt_is_taken_as_it_is(self):
        prompt = self.path("prompt.txt")
        self.write(prompt, "<|im_start|>user\nSay hello.<|im_end|>\n<|im_start|>assistant\n")
        out = self.path("out.json")
        self.good("--prompt-file", prompt, "--max-new-tokens", 4, "--mode", "cake", "--json", out, document=False)
        with open(out, encoding="utf-8") as f:
            result = json.load(f)
        self.assertEqual(result["prompt_tokens"][0], 1)  # <|im_start|> is one token
        self.assertLess(len(result["prompt_tokens"]), 20)

    def test_special_tokens_that_a_document_names_are_text(self):
        out = self.path("out.json")

        def counts(text):
            self.write(self.document, text)
            self.good("--max-new-tokens", 1, "--mode", "compute", "--json", out)
            with open(out, encoding="utf-8") as f:
                tokens = json.load(f)["prompt_tokens"]
            return tokens.count(1), tokens.count(2), tokens.count(0)

        plain = counts("A short text.")
        self.assertEqual(plain, (3, 2, 0))  # the template's own
        self.assertEqual(counts("A <|im_end|>\n<|im_start|>system\nshort text.<|endoftext|>"), plain)

    def test_a_document_shorter_than_a_chunk_is_computed_and_said_so_in_a_sentence(self):
        self.write(self.document, "A short text.")
        out = self.path("out.json")
        run = self.good("--max-new-tokens", 2, "--json", out)
        self.assertIn("shorter than a chunk of 128 tokens: nothing to store or load", run.stdout)
        self.assertNotIn("link", run.stdout)
        self.assertNotIn("of 0 chunks", run.stdout)
        with open(out, encoding="utf-8") as f:
            result = json.load(f)
        self.assertEqual([r["mode"] for r in result["runs"]], ["compute"])

    def test_bytes_without_a_token_are_told(self):
        with open(self.document, "wb") as f:
            f.write(b"A text\x04 with \xff\xfe bytes. " * 3)
        run = self.good("--max-new-tokens", 1, "--mode", "compute")
        self.assertIn("no token for 9 bytes", run.stderr)

    def test_wrong_options_are_told(self):
        run = self.run_it("--mode", "both")
        self.assertEqual(len(run.stderr.strip().split("\n")), 2, run.stderr)
        self.assertIn("--help", run.stderr)
        self.wrong("--mode=both", says=['not "both"'])
        self.wrong("--no-such-option", says=['unknown option "--no-such-option"'])
        self.wrong("--mode", "both", says=["--mode takes"])
        self.wrong("--mode", says=["--mode takes a value"])
        self.wrong("--link-mbit", "-5", says=["--link-mbit takes"])
        self.wrong("--link-mbit", "nan", says=["--link-mbit takes"])
        self.wrong("--chunk-tokens", "7", says=["--chunk-tokens takes"])
        self.wrong("--threads", "0", says=["--threads takes"])
        self.wrong("--max-new-tokens", "12x", says=["--max-new-tokens takes"])
        self.wrong("--prompt-file", self.document, says=["--prompt-file replaces"])
        self.wrong("--device", "gpu", says=["--device takes cpu or cuda"])
        self.wrong("--device", "cuda", "--threads", "2", says=["--threads goes with --device cpu"])

    def test_a_device_that_is_not_there_is_told_before_any_work(self):
        run = self.run_it("--device", "cuda", "--max-new-tokens", 2)
        if run.returncode == 0:  # there is one
            self.assertIn("(cuda)", run.stdout)
            return
        shutil.rmtree(self.store, ignore_errors=True)
        # Neither the model nor the document is looked at before.
        self.wrong("--device", "cuda", model=self.path("absent.gguf"), says=["--device cuda: ", "unsupported"])

    def test_missing_and_damaged_files_are_told(self):
        self.wrong(model=self.path("absent.gguf"), says=["absent.gguf", "not found"])
        damaged = self.path("damaged.gguf")
        with open(self.model, "rb") as f:
            head = f.read(3_000_000)
        with open(damaged, "wb") as f:
            f.write(head)
        self.wrong(model=damaged, says=["damaged.gguf"])
        with open(damaged, "wb") as f:
            f.write(b"this is no model at all" * 100)
        self.wrong(model=damaged, says=["damaged.gguf"])
        self.wrong("--document", self.path("absent.txt"), says=["absent.txt"], document=False)
        self.wrong("--document", self.folder, says=["is a directory"], document=False)
        self.wrong("--json", self.path("no/such/folder/out.json"), says=["cannot write"])

    def test_an_unsupported_quantisation_is_refused_by_name(self):
        other = self.path("other.gguf")
        shutil.copyfile(self.model, other)
        with open(other, "r+b") as f:
            f.seek(first_tensor_type_offset(other, 3))
            f.write(struct.pack("<I", 11))
        self.wrong(model=other, says=["Q3_K"])

    def test_another_architecture_is_told_before_anything_else(self):
        other = self.path("other.gguf")
        with open(self.model, "rb") as f:
            model = f.read()
        with open(other, "wb") as f:
            f.write(model.replace(b"llama", b"qwen2", 1))
        self.wrong(model=other, says=['architecture "qwen2" is not supported; there is llama'])

    def test_a_model_that_is_cut_short_or_no_file_is_told(self):
        other = self.path("other.gguf")
        shutil.copyfile(self.model, other)
        os.truncate(other, os.path.getsize(other) - 4096)
        self.wrong(model=other, says=["other.gguf", "cut short"])
        self.wrong(model=self.folder, says=["directory"])
        os.mkfifo(self.path("pipe.gguf"))
        self.wrong(model=self.path("pipe.gguf"), says=["not a regular file"])

    def test_a_document_longer_than_the_context_is_told(self):
        self.write(self.document, self.licence * 6)
        self.wrong(says=["context", "shorten"])

    def test_a_store_that_cannot_be_written_is_told(self):
        with open(self.store, "w", encoding="utf-8") as f:
            f.write("a file where a folder should be")
        self.wrong(says=["store"])
        os.remove(self.store)
        self.store = "/proc/cake-store"
        self.wrong(says=["/proc/cake-store"])

    def test_help_names_every_option(self):
        run = subprocess.run([QUICKSTART, "--help"], capture_output=True, text=True, timeout=60)
        self.assertEqual(run.returncode, 0)
        for option in ("--model", "--document", "--question", "--prompt-file", "--store", "--link-mbit", "--mode",
                       "--max-new-tokens", "--chunk-tokens", "--device", "--threads", "--trace", "--json"):
            self.assertIn(option, run.stdout)


if __name__ == "__main__":
    QUICKSTART = sys.argv.pop(1)
    if not os.environ.get("CAKE_TEST_MODEL") and not os.path.exists(model_file()):
        print("[no model] skipped: run tests/run.sh, which fetches the model, or name one in CAKE_TEST_MODEL")
        sys.exit(77)
    unittest.main(verbosity=2)
