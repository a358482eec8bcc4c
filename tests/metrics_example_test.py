#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
"""The example metrics, scraped as Prometheus does.

usage: metrics_example_test.py METRICS
"""
import re
import socket
import subprocess
import sys
import unittest
import urllib.error
import urllib.request

PROGRAM = sys.argv.pop(1)
SAMPLE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[a-zA-Z_]\w*="(?:[^"\\\n]|\\.)*"(?:,[a-zA-Z_]\w*="(?:[^"\\\n]|\\.)*")*\})? '
                    r"(\S+)$")


class Scrape(unittest.TestCase):
    def setUp(self):
        self.process = subprocess.Popen([PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(self.process.stdout.close)
        self.addCleanup(self.process.kill)
        self.url = re.match(r"(http://127\.0\.0\.1:\d+/metrics),", self.process.stdout.readline()).group(1)

    def end(self):
        self.process.stdin.close()
        self.assertEqual(self.process.wait(60), 0)

    def scrape(self):
        with urllib.request.urlopen(self.url, timeout=60) as answer:
            self.assertEqual(answer.headers["Content-Type"], "text/plain; version=0.0.4; charset=utf-8")
            return answer.read().decode()

    def samples(self):
        """Each sample by its name and labels."""
        samples, types = {}, {}
        for line in self.scrape().splitlines():
            if line.startswith("# TYPE "):
                _, _, name, kind = line.split(" ")
                self.assertNotIn(name, types)
                types[name] = kind
            elif not line.startswith("# HELP "):
                name, labels, value = SAMPLE.match(line).groups()
                self.assertNotIn((name, labels), samples)
                samples[name, labels] = float(value)
                self.assertTrue(name in types or re.sub("_(bucket|sum|count)$", "", name) in types, name)
        return samples

    def test_a_scrape_has_what_six_prompts_did(self):
        samples = self.samples()
        self.assertEqual(samples["cake_prefills_total", '{outcome="good"}'], 6)
        tokens = {source: samples["cake_prefill_tokens_total", f'{{source="{source}"}}']
                  for source in ("resident", "computed", "loaded", "out_of_window")}
        self.assertEqual(sum(tokens.values()), 6 * 640)
        self.assertEqual(samples["cake_ttft_seconds_count", None], 6)
        self.assertEqual(samples["cake_ttft_seconds_bucket", '{le="+Inf"}'], 6)
        self.assertEqual(samples["cake_saved_chunks_total", '{outcome="written"}'], 30)
        self.assertEqual(samples["cake_store_published_objects_total", '{store="disk"}'], 30)
        self.assertEqual(samples["cake_store_objects", '{store="memory"}'], 30)
        self.assertEqual(samples["cake_store_published_objects_total", '{store="tiers",tier="1"}'], 30)
        self.assertIn(("cake_lane_bytes_per_second", '{lane="1"}'), samples)
        self.end()

    def test_buckets_grow_up_to_the_count(self):
        values = [value for (name, _), value in self.samples().items() if name == "cake_planning_seconds_bucket"]
        self.assertEqual(values, sorted(values))
        self.assertEqual(values[-1], 6)
        self.end()

    def test_other_paths_and_methods_are_refused(self):
        for path, data, code in (("/", None, 404), ("/metricsx", None, 404), ("/metrics", b"x", 405)):
            with self.assertRaises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(self.url.replace("/metrics", path), data=data, timeout=60)
            self.assertEqual(refused.exception.code, code)
            refused.exception.close()
        self.end()

    def test_a_client_that_says_nothing_or_goes_away_keeps_nobody_waiting_for_ever(self):
        port = int(re.search(r":(\d+)/", self.url).group(1))
        with socket.create_connection(("127.0.0.1", port)):
            self.assertEqual(self.samples()["cake_prefills_total", '{outcome="good"}'], 6)
        socket.create_connection(("127.0.0.1", port)).close()
        self.samples()
        self.end()


if __name__ == "__main__":
    unittest.main(verbosity=2)
