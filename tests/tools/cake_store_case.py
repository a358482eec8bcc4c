# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
"""What the tests of cake_store have in common: a folder, stores in it, and runs of the program."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

PROGRAM, MAKE_OBJECTS = (os.path.abspath(path) for path in sys.argv[1:3])
del sys.argv[1:3]


class StoreCase(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="cake-store-")
        self.addCleanup(shutil.rmtree, self.folder)
        self.environment = {}

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def make(self, store="store", seed=1, count=5, model="model", salt="tenant"):
        """The fingerprint, and the keys of the chunks of one prompt, the first one first."""
        made = subprocess.run([MAKE_OBJECTS, self.path(store), str(seed), str(count), model, salt],
                              capture_output=True, text=True, check=True)
        model, *keys = made.stdout.split()
        return model, keys

    def file_of(self, key, store="store"):
        return self.path(store, key[:2], key + ".ckv")

    def run_it(self, *arguments, code=0, stdin=None):
        """What it printed, on stdout and on stderr."""
        done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, input=stdin, timeout=240,
                              env={**os.environ, **self.environment})
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout, done.stderr

    def json(self, *arguments, **more):
        out, _ = self.run_it(*arguments, "--json", **more)
        return json.loads(out)

    def keys_in(self, store):
        return sorted(each["key"] for each in self.json("list", store, "--names-only")["objects"])

    def damage(self, key, at=20000, store="store"):
        with open(self.file_of(key, store), "r+b") as f:
            f.seek(at)
            byte = f.read(1)[0]
            f.seek(at)
            f.write(bytes([byte ^ 1]))
