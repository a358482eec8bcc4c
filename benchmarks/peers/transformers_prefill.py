#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
"""Prefill time of transformers (fp32, sdpa) on the same GGUF, by turns with reference_bench.

    pip install torch transformers accelerate gguf
    python3 benchmarks/peers/transformers_prefill.py MODEL.gguf --ours build/benchmarks/reference_bench

Both sides prefill the same number of tokens on the same number of threads. Turns are short, so that
whatever else the machine does meets both alike. Without --ours it measures transformers alone.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import time

import torch
from transformers import AutoModelForCausalLM


@torch.inference_mode()
def theirs(model, tokens):
    start = time.perf_counter()
    model(tokens, use_cache=True, logits_to_keep=1)
    return time.perf_counter() - start


def ours(program, model, tokens, step, threads):
    out = subprocess.run(
        [program, "--model", model, "--threads", str(threads), "--benchmark_format=json",
         f"--benchmark_filter=^prefill/{tokens}/{step}/"],
        check=True, capture_output=True, text=True,
    )
    run = json.loads(out.stdout)["benchmarks"][0]
    return tokens / run["tokens/s"], run["gemm_of_peak"], run["gemm_share"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--ours", help="path of reference_bench")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--step", type=int, default=2048, help="tokens a pass on our side")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(
        str(args.model.parent), gguf_file=args.model.name, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    tokens = (torch.arange(args.tokens) * 7919 % model.config.vocab_size).unsqueeze(0)
    theirs(model, tokens)  # warm

    a, b = [], []
    for number in range(args.rounds):
        a.append(theirs(model, tokens))
        line = f"round {number}: transformers {a[-1]:.3f} s"
        if args.ours:
            seconds, peak, share = ours(args.ours, str(args.model), args.tokens, args.step, args.threads)
            b.append(seconds)
            line += f", cake::reference {seconds:.3f} s (GEMMs {share:.0%} of it, at {peak:.2f} of the BLAS peak)"
        print(line, flush=True)
    print(f"transformers {torch.__version__}: median {statistics.median(a):.3f} s, best {min(a):.3f} s")
    if b:
        print(f"cake::reference: median {statistics.median(b):.3f} s, best {min(b):.3f} s; "
              f"ratio of medians {statistics.median(b) / statistics.median(a):.2f}")


if __name__ == "__main__":
    main()
