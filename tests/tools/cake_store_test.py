#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
"""cake_store over directories, as its users meet it.

usage: cake_store_test.py CAKE_STORE MAKE_OBJECTS
"""
import filecmp
import os
import time
import unittest

from cake_store_case import StoreCase

COMMANDS = ("list", "stats", "metrics", "verify", "trim", "erase", "copy", "bench")


class Looks(StoreCase):
    def test_list_names_every_object_with_what_its_header_says(self):
        model, keys = self.make()
        listed = self.json("list", self.path("store"))
        self.assertEqual([each["key"] for each in listed["objects"]], sorted(keys))
        self.assertEqual(listed["others"], 0)
        by_key = {each["key"]: each for each in listed["objects"]}
        for i, key in enumerate(keys):
            self.assertEqual(by_key[key]["bytes"], os.path.getsize(self.file_of(key)))
            self.assertEqual(by_key[key]["place"], self.file_of(key))
            header = by_key[key]["header"]
            self.assertEqual((header["model"], header["token_begin"], header["tokens"]), (model, 16 * i, 16))
            self.assertEqual((header["layers"], header["layers_held"]), (4, 4))
        out, _ = self.run_it("list", self.path("store"))
        self.assertEqual(sorted(line.split()[0] for line in out.splitlines()), sorted(keys))

    def test_list_takes_a_model_or_a_tenant_alone(self):
        one, keys_of_one = self.make(seed=1, count=2, model="one")
        _, keys_of_other = self.make(seed=2, count=3, model="other", salt="another")
        with open(self.path("salt"), "w", encoding="utf-8") as f:
            f.write("another\n")
        listed = self.json("list", self.path("store"), "--model", one[:12])
        self.assertEqual({each["key"] for each in listed["objects"]}, set(keys_of_one))
        listed = self.json("list", self.path("store"), "--salt-file", self.path("salt"))
        self.assertEqual({each["key"] for each in listed["objects"]}, set(keys_of_other))
        listed = self.json("list", self.path("store"), "--salt-file", "-", stdin="another")
        self.assertEqual({each["key"] for each in listed["objects"]}, set(keys_of_other))

    def test_stats_counts_by_model_and_tenant(self):
        one, keys = self.make(seed=1, count=2, model="one")
        self.make(seed=2, count=3, model="other", salt="a")
        other, _ = self.make(seed=3, count=1, model="other", salt="b")
        counted = self.json("stats", self.path("store"))
        size = os.path.getsize(self.file_of(keys[0]))
        self.assertEqual((counted["objects"], counted["bytes"]), (6, 6 * size))
        models = {each["model"]: each for each in counted["models"]}
        self.assertEqual((models[one]["objects"], models[one]["tokens"], len(models[one]["tenants"])), (2, 32, 1))
        self.assertEqual((models[other]["objects"], models[other]["tokens"], len(models[other]["tenants"])), (4, 64, 2))
        out, _ = self.run_it("stats", self.path("store"))
        self.assertIn("6 objects", out)
        self.assertIn(other, out)

    def test_metrics_are_those_of_stats_and_lines_of_prometheus(self):
        model, keys = self.make(count=3)
        with open(self.path("store", keys[0][:2], "notes.txt"), "w", encoding="utf-8") as f:
            f.write("mine")
        out, _ = self.run_it("metrics", self.path("store"))
        size = os.path.getsize(self.file_of(keys[0]))
        for line in (f'cake_store_objects{{store="{self.path("store")}"}} 3',
                     f'cake_store_bytes{{store="{self.path("store")}"}} {3 * size}',
                     f'cake_store_other_entries{{store="{self.path("store")}"}} 1',
                     f'cake_store_model_tokens{{store="{self.path("store")}",model="{model}"}} 48',
                     "# TYPE cake_store_bytes gauge"):
            self.assertIn(line + "\n", out)
        self.run_it("metrics", self.path("store"), "--json", code=2)

    def test_a_store_that_is_not_there_is_named_and_not_made(self):
        for command in (["list"], ["stats"], ["metrics"], ["verify"], ["trim", "--to", "1"], ["erase", "--everything"]):
            _, err = self.run_it(command[0], self.path("none"), *command[1:], code=1)
            self.assertIn(self.path("none"), err)
            self.assertIn("does not exist", err)
            self.assertFalse(os.path.exists(self.path("none")))

    def test_an_empty_store_is_good(self):
        os.mkdir(self.path("store"), 0o700)
        self.assertEqual(self.json("stats", self.path("store"))["objects"], 0)
        self.assertEqual(self.json("verify", self.path("store"))["checked"], 0)
        self.assertEqual(self.json("trim", self.path("store"), "--to", "0")["objects"], 0)


class Verify(StoreCase):
    def test_whole_objects_are_good(self):
        _, keys = self.make()
        verdict = self.json("verify", self.path("store"))
        self.assertEqual((verdict["checked"], verdict["good"], verdict["damaged"]), (len(keys), len(keys), []))

    def test_a_damaged_file_is_found_and_named_and_the_exit_status_is_1(self):
        _, keys = self.make()
        self.damage(keys[2])
        out, err = self.run_it("verify", self.path("store"), code=1)
        self.assertIn("damaged     1", out)
        self.assertIn(self.file_of(keys[2]), err)
        self.assertIn("--key " + keys[2], err)
        verdict = self.json("verify", self.path("store"), code=1)
        self.assertEqual([each["key"] for each in verdict["damaged"]], [keys[2]])
        self.assertEqual(verdict["good"], len(keys) - 1)
        # What it says to do helps.
        self.run_it("erase", self.path("store"), "--key", keys[2])
        self.run_it("verify", self.path("store"))

    def test_damage_is_found_wherever_it_is(self):
        _, keys = self.make(count=8)
        size = os.path.getsize(self.file_of(keys[0]))
        for key, at in zip(keys, (0, 70, 4095, 4096, 8192, 12345, size - 4096, size - 1)):
            self.damage(key, at)
        verdict = self.json("verify", self.path("store"), code=1)
        self.assertEqual({each["key"] for each in verdict["damaged"]}, set(keys))

    def test_files_that_were_cut_short_or_lie_under_a_wrong_name_are_damaged(self):
        _, keys = self.make()
        os.truncate(self.file_of(keys[0]), 1000)
        os.truncate(self.file_of(keys[1]), 8192)
        os.truncate(self.file_of(keys[2]), 0)
        other = keys[3][:-1] + ("0" if keys[3][-1] != "0" else "1")
        os.rename(self.file_of(keys[3]), self.file_of(other))
        verdict = self.json("verify", self.path("store"), code=1)
        self.assertEqual({each["key"] for each in verdict["damaged"]}, {*keys[:3], other})
        for key in (*keys[:3], other):
            self.run_it("erase", self.path("store"), "--key", key)
            self.assertFalse(os.path.exists(self.file_of(key)))

    def test_an_object_of_a_newer_version_is_no_damage_and_not_good_either(self):
        _, keys = self.make(count=2)
        with open(self.file_of(keys[0]), "r+b") as f:
            header = bytearray(f.read(4096))
            header[8] = 3
            header[4092:4096] = crc32c(bytes(header[:4092])).to_bytes(4, "little")
            f.seek(0)
            f.write(header)
        verdict = self.json("verify", self.path("store"), code=1)
        self.assertEqual([each["key"] for each in verdict["unknown_version"]], [keys[0]])
        self.assertEqual(verdict["damaged"], [])

    def test_a_sample_is_of_the_size_that_was_asked_for_and_comes_again_with_its_seed(self):
        _, keys = self.make(count=20)
        for key in keys:
            self.damage(key)
        first = self.json("verify", self.path("store"), "--sample", "5", code=1)
        self.assertEqual((first["checked"], first["objects"]), (5, 20))
        again = self.json("verify", self.path("store"), "--sample", "5", "--seed", str(first["seed"]), code=1)
        self.assertEqual(first["damaged"], again["damaged"])
        self.assertEqual(self.json("verify", self.path("store"), "--sample", "10%", code=1)["checked"], 2)
        self.assertEqual(self.json("verify", self.path("store"), "--sample", "100", code=1)["checked"], 20)

    def test_what_is_verified_does_not_become_younger(self):
        _, keys = self.make(count=2)
        then = time.time() - 5000
        for key in keys:
            os.utime(self.file_of(key), (then, then))
        self.run_it("verify", self.path("store"))
        self.run_it("stats", self.path("store"))
        self.run_it("copy", self.path("store"), self.path("copy"))
        for key in keys:
            self.assertEqual(int(os.stat(self.file_of(key)).st_atime), int(then))


class Changes(StoreCase):
    def test_trim_keeps_what_was_read_last(self):
        _, keys = self.make(count=6)
        size = os.path.getsize(self.file_of(keys[0]))
        now = time.time()
        for i, key in enumerate(keys):
            # The later chunks of the prompt were read an hour before the first ones.
            age = 600 if i < 3 else 4200
            os.utime(self.file_of(key), (now - age, now - 9000))
        done = self.json("trim", self.path("store"), "--to", str(3 * size))
        self.assertEqual((done["objects"], done["bytes"], done["bytes_left"]), (3, 3 * size, 3 * size))
        self.assertEqual(self.keys_in(self.path("store")), sorted(keys[:3]))
        # Of one age the front of the prompt goes first.
        self.run_it("trim", self.path("store"), "--to", str(size))
        self.assertEqual(self.keys_in(self.path("store")), [keys[2]])

    def test_trim_takes_sizes_with_units(self):
        _, keys = self.make(count=3)
        self.run_it("trim", self.path("store"), "--to", "1GiB")
        self.assertEqual(len(self.keys_in(self.path("store"))), 3)
        self.run_it("trim", self.path("store"), "--to", "1kB")
        self.assertEqual(self.keys_in(self.path("store")), [])
        self.assertFalse(os.path.exists(self.file_of(keys[0])))

    def test_erase_refuses_to_erase_everything_without_being_told_so(self):
        _, keys = self.make()
        _, err = self.run_it("erase", self.path("store"), code=2)
        self.assertIn("--everything", err)
        self.assertEqual(self.keys_in(self.path("store")), sorted(keys))
        self.run_it("erase", self.path("store"), "--everything")
        self.assertEqual(self.keys_in(self.path("store")), [])

    def test_erase_takes_a_key_a_model_or_a_tenant_and_nothing_else(self):
        one, keys_of_one = self.make(seed=1, count=2, model="one")
        _, keys_of_a = self.make(seed=2, count=2, model="other", salt="a")
        _, keys_of_b = self.make(seed=3, count=3, model="other", salt="b")
        store = self.path("store")
        self.run_it("erase", store, "--key", keys_of_b[0], "--key", "0" * 64)
        self.assertEqual(self.keys_in(store), sorted(keys_of_one + keys_of_a + keys_of_b[1:]))
        self.run_it("erase", store, "--model", one)
        self.assertEqual(self.keys_in(store), sorted(keys_of_a + keys_of_b[1:]))
        self.run_it("erase", store, "--salt-file", "-", stdin="b")
        self.assertEqual(self.keys_in(store), sorted(keys_of_a))

    def test_a_dry_run_erases_nothing_and_says_what_would_go(self):
        model, keys = self.make()
        done = self.json("erase", self.path("store"), "--model", model, "--dry-run")
        self.assertEqual((done["objects"], done["dry_run"]), (len(keys), True))
        self.assertEqual(self.keys_in(self.path("store")), sorted(keys))

    def test_foreign_files_and_links_are_counted_and_left_as_they_are(self):
        _, keys = self.make()
        _, foreign = self.make(store="elsewhere", seed=9, count=2)
        folder = os.path.dirname(self.file_of(keys[0]))
        link = os.path.join(folder, keys[0][:2] + foreign[0][2:] + ".ckv")
        os.symlink(self.file_of(foreign[0], "elsewhere"), link)
        notes, top = os.path.join(folder, "notes.txt"), self.path("store", "notes.txt")
        unsafe = os.path.join(folder, keys[0][:2] + "f" * 62 + ".ckv")
        for file in (notes, top, unsafe):
            with open(file, "w", encoding="utf-8") as f:
                f.write("mine")
        os.chmod(unsafe, 0o666)
        free = next(name for name in (f"{i:02x}" for i in range(256))
                    if not os.path.exists(self.path("store", name)))
        os.symlink(self.path("elsewhere", foreign[0][:2]), self.path("store", free))
        self.assertEqual(self.json("stats", self.path("store"))["others"], 4)
        self.run_it("verify", self.path("store"))
        self.run_it("trim", self.path("store"), "--to", "0")
        self.make()
        # A key that leads to a link is no object.
        self.run_it("erase", self.path("store"), "--key", os.path.basename(link)[:-4])
        self.run_it("erase", self.path("store"), "--everything")
        self.assertEqual(self.keys_in(self.path("store")), [])
        for file in (notes, top, unsafe):
            with open(file, encoding="utf-8") as f:
                self.assertEqual(f.read(), "mine")
        self.assertTrue(os.path.islink(link))
        self.assertTrue(os.path.islink(self.path("store", free)))
        self.assertEqual(self.keys_in(self.path("elsewhere")), sorted(foreign))

    def test_a_directory_that_others_may_write_is_refused_unless_it_is_trusted(self):
        _, keys = self.make()
        os.chmod(self.path("store"), 0o777)
        _, err = self.run_it("list", self.path("store"), code=1)
        self.assertIn("chmod 700 " + self.path("store"), err)
        out, _ = self.run_it("list", self.path("store"), "--names-only", "--trust-directory")
        self.assertEqual(len(out.splitlines()), len(keys))


class Copy(StoreCase):
    def test_a_copy_has_the_same_bytes(self):
        _, keys = self.make()
        done = self.json("copy", self.path("store"), self.path("copy"))
        self.assertEqual((done["copied"], done["present"], done["failed"]), (len(keys), 0, 0))
        self.assertEqual(self.keys_in(self.path("copy")), sorted(keys))
        for key in keys:
            self.assertTrue(filecmp.cmp(self.file_of(key), self.file_of(key, "copy"), shallow=False))
        self.run_it("verify", self.path("copy"))

    def test_what_is_there_is_skipped_and_what_is_missing_or_cut_short_is_copied(self):
        _, keys = self.make(count=6)
        self.run_it("copy", self.path("store"), self.path("copy"))
        os.remove(self.file_of(keys[1], "copy"))
        os.truncate(self.file_of(keys[2], "copy"), 4096)
        done = self.json("copy", self.path("store"), self.path("copy"))
        self.assertEqual((done["copied"], done["present"]), (2, 4))
        self.run_it("verify", self.path("copy"))

    def test_damaged_objects_are_not_copied_and_the_others_are(self):
        _, keys = self.make()
        self.damage(keys[0])
        out, err = self.run_it("copy", self.path("store"), self.path("copy"), code=1)
        self.assertIn(self.file_of(keys[0]), err)
        self.assertIn("1 failed", out)
        self.assertEqual(self.keys_in(self.path("copy")), sorted(keys[1:]))

    def test_one_model_alone_is_copied(self):
        one, keys_of_one = self.make(seed=1, count=2, model="one")
        self.make(seed=2, count=2, model="other")
        self.run_it("copy", self.path("store"), self.path("copy"), "--model", one)
        self.assertEqual(self.keys_in(self.path("copy")), sorted(keys_of_one))


class Bench(StoreCase):
    def test_bench_counts_what_it_did_and_leaves_nothing_behind(self):
        _, keys = self.make()
        done = self.json("bench", self.path("store"), "--objects", "3", "--bytes", "200kB", "--seconds", "0.2",
                         "--workers", "2")
        self.assertEqual((done["objects"], done["failed"]), (3, 0))
        self.assertGreaterEqual(done["writes"]["count"], 3)
        self.assertEqual(done["reads"]["bytes"], done["reads"]["count"] * done["object_bytes"])
        for kind in ("reads", "writes"):
            times = [done[kind][f"{name}_seconds"] for name in ("p50", "p90", "p99", "max")]
            self.assertEqual(times, sorted(times))
        self.assertEqual(self.keys_in(self.path("store")), sorted(keys))


class WrongUse(StoreCase):
    def test_wrong_use_exits_with_2_and_says_what_is_wrong(self):
        _, keys = self.make()
        store = self.path("store")
        for arguments, says in (
                ([], "A subcommand is required"),
                (["frobnicate"], "there is no command \"frobnicate\""),
                (["list"], "STORE is required"),
                (["list", store, "--frobnicate"], "--frobnicate"),
                (["list", store, "--model", "xyz"], "--model takes 8 to 64 hex digits"),
                (["list", store, "--tenant", "12"], "--tenant takes 8 to 32 hex digits"),
                (["list", store, "--salt-file", self.path("none")], "it cannot be read"),
                (["verify", store, "--sample", "some"], "--sample is a number of objects"),
                (["verify", store, "--sample", "0"], "--sample is a number of objects"),
                (["verify", store, "--sample", "101%"], "--sample is a number of objects"),
                (["verify", store, "--workers", "0"], "--workers"),
                (["trim", store], "--to is required"),
                (["trim", store, "--to", "much"], "is no size"),
                (["trim", store, "--to=-5"], "is no size"),
                (["trim", store, "--to", "5XB"], "is no size"),
                (["trim", store, "--to", "5iB"], "is no size"),
                (["trim", store, "--to", "99999999PB"], "is no size"),
                (["erase", store, "--key", "12"], "--key takes the 64 hex digits"),
                (["erase", store, "--key", keys[0], "--everything"], "exclude each other"),
                (["copy", store], "TARGET is required"),
                (["bench", store, "--reads", "101"], "--reads"),
                (["list", "ftp://host/store"], "a store is a directory, s3://BUCKET/PREFIX, or redis://"),
                (["list", "redis://host:port"], "PORT is a number"),
                (["list", "s3:bucket"], "s3://BUCKET/PREFIX")):
            with self.subTest(arguments=arguments):
                out, err = self.run_it(*arguments, code=2)
                self.assertEqual(out, "")
                self.assertIn(says, err)
        self.assertEqual(self.keys_in(store), sorted(keys))

    def test_a_trim_of_what_evicts_by_itself_is_refused(self):
        self.environment = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
                            "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
        for store, says in (("redis://127.0.0.1:9/kv", "maxmemory-policy"), ("s3://bucket/kv", "a rule of the bucket")):
            _, err = self.run_it("trim", store, "--to", "1GB", code=2)
            self.assertIn(says, err)

    def test_no_text_shows_a_secret(self):
        for store in ("redis://user:WordOfTheTest@127.0.0.1:9/kv", "redis://user:WordOfTheTest@127.0.0.1:port",
                      "ftp://user:WordOfTheTest@host", "redis://user:Word@OfTheTest@host/"):
            for command in (["list", store], ["copy", store, store], ["frobnicate", store], ["list", store, store],
                            ["verify", store, store], ["erase", store, "--everything"]):
                done = [*self.run_it_any(*command)]
                self.assertNotIn("OfTheTest", "".join(done), command)

    def run_it_any(self, *arguments):
        for code in (1, 2):
            try:
                return self.run_it(*arguments, code=code)
            except AssertionError as e:
                last = e
        raise last

    def test_help_stands_alone(self):
        out, _ = self.run_it("--help")
        for says in (*COMMANDS, "s3://BUCKET", "redis://", "AWS_ACCESS_KEY_ID", "REDISCLI_AUTH", "Exit status: 0",
                     "symbolic links"):
            self.assertIn(says, out)
        for command in COMMANDS:
            out, _ = self.run_it(command, "--help")
            for says in ("STORE", *(["--json"] if command != "metrics" else []), "Exit status: 0"):
                self.assertIn(says, out)
        out, _ = self.run_it("--version")
        self.assertRegex(out, r"^\d+\.\d+\.\d+\n$")


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


if __name__ == "__main__":
    unittest.main(verbosity=2)
