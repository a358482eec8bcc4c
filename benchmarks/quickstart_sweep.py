#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
"""Time to first token of the quickstart's three modes at multiples of the crossover rate.

usage: quickstart_sweep.py QUICKSTART [--repeats N] [--multiples 0.25,1,4] [further arguments of the quickstart]

Each repeat runs all modes in one process, so ratios are taken within one run; the table shows their medians. The claim
that is checked: cake <= 1.05 x the better baseline everywhere, and at the crossover (multiple 1) both baselines take at
least 1.6 times as long. Exit status 1 when a median breaks it.
"""
import json
import os
import statistics
import subprocess
import sys
import tempfile


def run(quickstart, store, link, extra):
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out.json")
        command = [quickstart, "--store", store, "--json", out, "--max-new-tokens", "1"] + extra
        if link is not None:
            command += ["--link-mbit", f"{link:.6g}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(out, encoding="utf-8") as f:
            return json.load(f)


def main():
    arguments = sys.argv[1:]
    if not arguments:
        sys.exit(__doc__)
    quickstart, extra = arguments[0], arguments[1:]
    repeats, multiples = 5, [0.25, 1.0, 4.0]
    while extra and extra[0] in ("--repeats", "--multiples"):
        if extra[0] == "--repeats":
            repeats = int(extra[1])
        else:
            multiples = [float(m) for m in extra[1].split(",")]
        extra = extra[2:]
    with tempfile.TemporaryDirectory() as folder:
        store = os.path.join(folder, "store")
        # The rate at which the load mode takes as long as the compute mode does.
        first = run(quickstart, store, None, extra)
        links = []
        for _ in range(3):
            result = run(quickstart, store, first["link_mbit"], extra)
            compute, load = result["runs"][0]["ttft_s"], result["runs"][1]["ttft_s"]
            links.append(first["link_mbit"] * load / compute)
        crossover = statistics.median(links)
        print(f"prompt of {len(first['prompt_tokens'])} tokens; crossover at {crossover:.0f} Mbit/s; "
              f"medians of {repeats} runs (lowest to highest)")
        print("  rate   link Mbit/s   compute s    load s    cake s   cake/better baseline   better/cake   cake/bound")
        broken = False
        for multiple in multiples:
            rows = [run(quickstart, store, crossover * multiple, extra) for _ in range(repeats)]
            times = [{r["mode"]: r["ttft_s"] for r in row["runs"]} for row in rows]
            ratios = [t["cake"] / min(t["compute"], t["load"]) for t in times]
            bounds = [t["cake"] / row["runs"][2]["bound_s"] for t, row in zip(times, rows) if row["runs"][2]["bound_s"]]
            median = statistics.median(ratios)
            print("  %4.2fx %13.0f %11.3f %9.3f %9.3f      %.3f (%.3f-%.3f)    %10.2f %12.2f" % (
                multiple, crossover * multiple, *(statistics.median(t[m] for t in times) for m in ("compute", "load", "cake")),
                median, min(ratios), max(ratios), 1 / median, statistics.median(bounds or [float("nan")])))
            broken = broken or median > 1.05 or (multiple == 1 and 1 / median < 1.6)
        if broken:
            sys.exit("the claim does not hold")


if __name__ == "__main__":
    main()
