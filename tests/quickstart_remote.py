# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
"""What tests of the quickstart over a store behind a network have in common."""
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from quickstart_test import ROOT, model_file

QUICKSTART = ""


class RemoteStore(unittest.TestCase):
    """Subclasses have start(), which sets `server`, a process, and `environment`; STORE and SECRET."""
    STORE = ""
    SECRET = ""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="cake-quickstart-")
        with open(os.path.join(ROOT, "LICENSE"), encoding="utf-8") as f, \
                open(self.path("document.txt"), "w", encoding="utf-8") as to:
            to.write(f.read()[:2500])
        self.environment = {}
        self.start()

    def start(self):
        self.skipTest("a base of tests")

    def clean_up(self):
        pass

    def tearDown(self):
        self.kill()
        self.clean_up()
        shutil.rmtree(self.folder)

    def kill(self):
        self.server.send_signal(signal.SIGKILL)
        self.server.wait()

    def path(self, name):
        return os.path.join(self.folder, name)

    def begin(self, *arguments, store=None, **environment):
        return subprocess.Popen(
            [QUICKSTART, "--model", model_file(), "--store", store or self.STORE, "--document", self.path("document.txt"),
             "--max-new-tokens", "8", "--json", self.path("out.json"), *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **self.environment, **environment})

    def run_it(self, *arguments, **more):
        process = self.begin(*arguments, **more)
        out, err = process.communicate(timeout=300)
        self.assertNotIn(self.SECRET, out + err)
        return process.returncode, out, err

    def result(self):
        with open(self.path("out.json"), encoding="utf-8") as f:
            return json.load(f)

    def check_three_modes(self, shown):
        """One answer in all modes, hits in a second run, and a server that is killed in a third one."""
        code, out, err = self.run_it()
        self.assertEqual(code, 0, err + out)
        self.assertIn(f"store: {shown}, 0 of", out)
        self.assertIn("saved", out)
        first = self.result()
        self.assertEqual([r["mode"] for r in first["runs"]], ["compute", "load", "cake"])
        answer = first["runs"][0]["answer_tokens"]
        for each in first["runs"]:
            self.assertEqual(each["answer_tokens"], answer)
        prefix = (len(first["prompt_tokens"]) - 1) // 128 * 128
        self.assertEqual(first["runs"][1]["tokens_loaded"], prefix)
        code, out, err = self.run_it("--mode", "load", "--link-mbit", "10000")
        self.assertEqual(code, 0, err + out)
        self.assertNotIn("saved", out)
        self.assertEqual(self.result()["runs"][0]["answer_tokens"], answer)
        # What a server that is killed does not bring any more is computed.
        self.killed_in_the_middle(answer, prefix)

    def killed_in_the_middle(self, answer, prefix):
        process = self.begin("--mode", "load", "--link-mbit", "60")
        for line in process.stderr:
            if line.startswith("mode load"):
                break
        time.sleep(1)
        self.kill()
        out, err = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 0, err + out)
        each = self.result()["runs"][0]
        self.assertEqual(each["answer_tokens"], answer)
        self.assertLess(each["tokens_loaded"], prefix)
        self.assertEqual(each["tokens_loaded"] + each["tokens_computed"], len(self.result()["prompt_tokens"]))

    def check_refused(self, says, **more):
        """Before any work, in words."""
        code, out, err = self.run_it(**more)
        self.assertEqual(code, 2, err + out)
        self.assertIn(says, err)
        self.assertFalse(os.path.exists(self.path("out.json")))


def run(skip):
    """All tests of the main program; `skip`: why there are none."""
    global QUICKSTART
    QUICKSTART = sys.argv.pop(1)
    if not os.path.exists(model_file()):
        skip = "[no model] skipped: run tests/run.sh, which fetches the model, or name one in CAKE_TEST_MODEL"
    if skip:
        print(skip)
        sys.exit(77)
    unittest.main(verbosity=2)
