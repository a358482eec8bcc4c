# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
"""The peers of attention_bench on the same shapes: PyTorch's scaled_dot_product_attention (cuDNN and FA2), and FA3
where the package fa3-fwd is installed.

    python3 benchmarks/peers/attention.py [--bench build/release/benchmarks/attention_bench] [--shapes FILTER]

With --bench, ours and the peers alternate in one run, round by round; the last column is ours over the best peer.
Causal prefill is compared like with like. For queries behind a prefix PyTorch takes no mask that is aligned to
the end together with these kernels, so its rows are without a mask, over all keys; FA3 takes one. TFLOP/s, medians
over events, random normal data; causal area counted exactly.
"""
import argparse
import statistics
import subprocess
import sys

try:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError:
    sys.exit("needs PyTorch with CUDA")
try:
    from fa3_fwd_interface import flash_attn_func
except ImportError:
    flash_attn_func = None

HEADS, KV_HEADS = 32, 8


def timed(function, launches):
    begin = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(launches):
        function()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e-3 / launches


def measure(function):
    """Seconds of one launch: several between two events, so that what the host takes for one does not count."""
    timed(function, 1)
    launches = 1 + int(4e-3 / timed(function, 2))
    return statistics.median(timed(function, launches) for _ in range(9))


def tensors(queries, keys, dim, heads_first):
    def one(tokens, heads):
        shape = (1, heads, tokens, dim) if heads_first else (1, tokens, heads, dim)
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)

    return one(queries, HEADS), one(keys, KV_HEADS), one(keys, KV_HEADS)


def sdpa(backend, dim, queries, prefix):
    keys = prefix + queries
    q, k, v = tensors(queries, keys, dim, True)
    causal = prefix == 0
    area = queries * (queries + 1) / 2 if causal else queries * keys

    def run():
        with sdpa_kernel(backend):
            torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)

    return 4 * area * HEADS * dim / measure(run) * 1e-12


def fa3(dim, queries, prefix):
    q, k, v = tensors(queries, prefix + queries, dim, False)
    area = queries * prefix + queries * (queries + 1) / 2
    return 4 * area * HEADS * dim / measure(lambda: flash_attn_func(q, k, v, causal=True)) * 1e-12


class Ours:
    """attention_bench, asked for one rate after the other."""

    def __init__(self, program):
        self.process = subprocess.Popen([program, "ask"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def rate(self, dim, queries, prefix, page=0, kernel="chosen"):
        self.process.stdin.write(f"{dim} {queries} {prefix} {page} {kernel}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"{self.process.args[0]} ended with {self.process.wait()}")
        return float(answer)


def columns(program, pages):
    """Name -> function of (dim, queries, prefix); ours first."""
    ours = Ours(program) if program else None
    table = {}
    if ours:
        table["ours"] = ours.rate
        for page in pages:
            table[f"page{page}"] = lambda d, q, p, page=page: ours.rate(d, q, p, page)
    table["FA2"] = lambda d, q, p: sdpa(SDPBackend.FLASH_ATTENTION, d, q, p)
    table["cuDNN"] = lambda d, q, p: sdpa(SDPBackend.CUDNN_ATTENTION, d, q, p)
    if flash_attn_func:
        table["FA3"] = fa3
    return table


def guarded(function, shape):
    try:
        return function(*shape)
    except RuntimeError as error:
        print(f"  ({str(error).splitlines()[0][:60]})", end="")
        return float("nan")


def all_shapes():
    for dim in (128, 64):
        for n in (2048, 8192, 16384, 32768):
            yield dim, n, 0
    for prefix in (8192, 32768, 131072):
        for queries in (1, 128, 512, 1024, 2048, 4096):
            yield 128, queries, prefix
    for prefix in (32768, 131072):
        yield 64, 2048, prefix


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", help="attention_bench, to alternate with")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--pages", default="", help="comma-separated page sizes of ours, beside contiguous")
    parser.add_argument("--without", default="", help="comma-separated columns to leave out")
    parser.add_argument("--shapes", default="", help="comma-separated dim:queries:prefix; default: all")
    return parser.parse_args()


def main():
    args = parse()
    if not torch.cuda.is_available():
        sys.exit("needs a GPU")
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}")
    print(f"TFLOP/s, bf16, {HEADS} query heads over {KV_HEADS}; last: ours over the best peer")
    table = columns(args.bench, [int(p) for p in args.pages.split(",") if p])
    for name in args.without.split(","):
        table.pop(name, None)
    print("   d queries  prefix" + "".join(f"{name:>8}" for name in table))
    shapes = [tuple(map(int, s.split(":"))) for s in args.shapes.split(",") if s] or all_shapes()
    for shape in shapes:
        rounds = [{name: guarded(f, shape) for name, f in table.items()} for _ in range(args.rounds)]
        best = {name: statistics.median(r[name] for r in rounds) for name in table}
        peers = [best[name] for name in ("FA2", "cuDNN", "FA3") if name in best and best[name] == best[name]]
        ratio = f"  {best['ours'] / max(peers):5.2f}" if "ours" in best and peers else ""
        print("{:4} {:7} {:7}".format(*shape) + "".join(f"{rate:8.0f}" for rate in best.values()) + ratio, flush=True)


main()
