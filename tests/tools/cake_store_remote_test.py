#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
"""cake_store over a bucket of SeaweedFS, or over Redis, which this test starts on loopback and stops.

usage: cake_store_remote_test.py CAKE_STORE MAKE_OBJECTS s3|redis
Exit status 77: the server's program is not there, and nothing was tested.
"""
import filecmp
import subprocess
import sys
import unittest

from cake_store_case import StoreCase

import servers

KIND = sys.argv.pop(1)


class Remote(StoreCase):
    SECRET = "WordOfTheTest" if KIND == "redis" else servers.SECRET

    def setUp(self):
        super().setUp()
        subprocess.run(["mkdir", self.path("server")], check=True)
        if KIND == "redis":
            self.server, port = servers.start_redis(self.path("server"), self.SECRET)
            self.store = f"redis://:{self.SECRET}@127.0.0.1:{port}/kv"
            self.other = f"redis://:{self.SECRET}@127.0.0.1:{port}/other"
        else:
            self.server, ports, self.environment = servers.start_weed(self.path("server"))
            self.addCleanup(servers.clean_up_weed, ports)
            self.store, self.other = "s3://bucket/kv", "s3://bucket/other"
        self.addCleanup(self.server.wait)
        self.addCleanup(self.server.kill)

    def run_it(self, *arguments, **more):
        out, err = super().run_it(*arguments, **more)
        self.assertNotIn(self.SECRET, out + err)
        return out, err

    def test_objects_go_there_and_back_and_are_the_same(self):
        model, keys = self.make(count=12)
        done = self.json("copy", self.path("store"), self.store)
        self.assertEqual((done["copied"], done["failed"]), (12, 0))
        self.assertEqual(self.keys_in(self.store), sorted(keys))
        self.assertEqual(self.json("copy", self.path("store"), self.store)["present"], 12)
        counted = self.json("stats", self.store)
        self.assertEqual([each["model"] for each in counted["models"]], [model])
        self.assertEqual(self.json("verify", self.store)["good"], 12)
        # From one prefix to another one, and back into a directory.
        self.assertEqual(self.json("copy", self.store, self.other)["copied"], 12)
        self.run_it("copy", self.other, self.path("back"))
        for key in keys:
            self.assertTrue(filecmp.cmp(self.file_of(key), self.file_of(key, "back"), shallow=False))

    def test_erase_takes_what_was_named_and_leaves_another_prefix_alone(self):
        model, keys = self.make(count=4)
        for store in (self.store, self.other):
            self.run_it("copy", self.path("store"), store)
        self.run_it("erase", self.store, "--key", keys[0])
        self.assertEqual(self.keys_in(self.store), sorted(keys[1:]))
        self.run_it("erase", self.store, "--model", model[:16])
        self.assertEqual(self.keys_in(self.store), [])
        self.run_it("erase", self.other, code=2)
        self.assertEqual(self.keys_in(self.other), sorted(keys))
        self.run_it("erase", self.other, "--everything")
        self.assertEqual(self.keys_in(self.other), [])

    def test_bench_leaves_nothing_behind(self):
        done = self.json("bench", self.store, "--objects", "2", "--bytes", "200kB", "--seconds", "0.2")
        self.assertEqual(done["failed"], 0)
        self.assertEqual(self.keys_in(self.store), [])

    def test_a_server_that_is_gone_is_named_and_the_exit_status_is_1(self):
        self.server.kill()
        self.server.wait()
        _, err = self.run_it("list", self.store, code=1)
        self.assertIn("127.0.0.1", err)
        self.assertIn("cannot be reached", err)


if __name__ == "__main__":
    if not (servers.has_redis() if KIND == "redis" else servers.has_weed()):
        print(servers.NO_REDIS if KIND == "redis" else servers.NO_WEED)
        sys.exit(77)
    unittest.main(verbosity=2)
