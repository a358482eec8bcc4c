#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
"""The quickstart over a bucket: of SeaweedFS on loopback, which this test starts and stops.

usage: quickstart_s3_test.py QUICKSTART (the model as for quickstart_test.py; CAKE_TEST_WEED names the program)
Exit status 77: the model or SeaweedFS is not there, and nothing was tested.
"""
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request

from quickstart_test import ROOT, model_file

QUICKSTART = ""
ACCESS, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


def free_ports(count):
    """Each with one 10,000 above it, which SeaweedFS takes, too."""
    ports = []
    while len(ports) < count:
        port = random.randint(12000, 22000)
        try:
            for each in (port, port + 10000):
                with socket.socket() as one:
                    one.bind(("127.0.0.1", each))
        except OSError:
            continue
        ports.append(port)
    return ports


class Bucket(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="cake-quickstart-s3-")
        self.ports = free_ports(4)
        with open(self.path("s3.json"), "w", encoding="utf-8") as f:
            json.dump({"identities": [{"name": "test", "actions": ["Admin", "Read", "Write", "List"],
                                       "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}]}]}, f)
        with open(os.path.join(ROOT, "LICENSE"), encoding="utf-8") as f, \
                open(self.path("document.txt"), "w", encoding="utf-8") as to:
            to.write(f.read()[:2500])
        s3, master, volume, filer = self.ports
        self.weed = subprocess.Popen(
            [os.environ["CAKE_TEST_WEED"], "server", f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
             f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", "-volume.max=20",
             "-master.telemetry=false", "-s3", f"-s3.port={s3}", f"-s3.config={self.path('s3.json')}",
             "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", "-s3.autoCreateBucket"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{s3}/", timeout=1).close()
                break
            except urllib.error.HTTPError:
                break
            except OSError:
                time.sleep(0.1)
        else:
            self.fail("SeaweedFS does not answer")

    def tearDown(self):
        self.kill()
        for kind, port in zip(("s3", "master", "volume", "filer"), self.ports):
            for name in (f"{kind}-{port}", f"{kind}-grpc-{port + 10000}"):
                if os.path.exists(f"/tmp/seaweedfs-{name}.sock"):
                    os.remove(f"/tmp/seaweedfs-{name}.sock")
        shutil.rmtree(self.folder)

    def kill(self):
        self.weed.send_signal(signal.SIGKILL)
        self.weed.wait()

    def path(self, name):
        return os.path.join(self.folder, name)

    def begin(self, *arguments, store="s3://bucket/kv", **environment):
        known = {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1",
                 "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.ports[0]}", "no_proxy": "127.0.0.1"}
        return subprocess.Popen(
            [QUICKSTART, "--model", model_file(), "--store", store, "--document", self.path("document.txt"),
             "--max-new-tokens", "8", "--json", self.path("out.json"), *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **known, **environment})

    def run_it(self, *arguments, **more):
        process = self.begin(*arguments, **more)
        out, err = process.communicate(timeout=300)
        self.assertNotIn(SECRET, out + err)
        return process.returncode, out, err

    def result(self):
        with open(self.path("out.json"), encoding="utf-8") as f:
            return json.load(f)

    def test_three_modes_over_a_bucket_give_one_answer_and_a_second_run_hits(self):
        code, out, err = self.run_it()
        self.assertEqual(code, 0, err + out)
        self.assertIn("store: s3://bucket/kv, 0 of", out)
        self.assertIn("saved", out)
        first = self.result()
        self.assertEqual([r["mode"] for r in first["runs"]], ["compute", "load", "cake"])
        answer = first["runs"][0]["answer_tokens"]
        for run in first["runs"]:
            self.assertEqual(run["answer_tokens"], answer)
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
        run = self.result()["runs"][0]
        self.assertEqual(run["answer_tokens"], answer)
        self.assertLess(run["tokens_loaded"], prefix)
        self.assertEqual(run["tokens_loaded"] + run["tokens_computed"], len(self.result()["prompt_tokens"]))

    def test_what_is_wrong_with_a_bucket_is_told_before_any_work(self):
        def refused(says, **more):
            code, out, err = self.run_it(**more)
            self.assertEqual(code, 2, err + out)
            self.assertIn(says, err)
            self.assertFalse(os.path.exists(self.path("out.json")))
        refused("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", AWS_SECRET_ACCESS_KEY="")
        refused("the address of a bucket is s3://BUCKET/PREFIX", store="s3:bucket")
        refused("the signature is refused; look at AWS_SECRET_ACCESS_KEY", AWS_SECRET_ACCESS_KEY="another")
        refused("the server does not know the access key", AWS_ACCESS_KEY_ID="another")
        refused("the server cannot be reached", AWS_ENDPOINT_URL="http://127.0.0.1:9")


if __name__ == "__main__":
    QUICKSTART = sys.argv.pop(1)
    if not os.path.exists(model_file()):
        print("[no model] skipped: run tests/run.sh, which fetches the model, or name one in CAKE_TEST_MODEL")
        sys.exit(77)
    if not os.access(os.environ.get("CAKE_TEST_WEED") or "", os.X_OK):
        print("[no SeaweedFS] skipped: CAKE_TEST_WEED names no program (bash tests/run.sh fetches it)")
        sys.exit(77)
    unittest.main(verbosity=2)
