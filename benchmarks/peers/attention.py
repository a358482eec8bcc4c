# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
"""The peers of attention_bench on the same shapes: PyTorch's scaled_dot_product_attention (cuDNN and FA2), and FA3
where the package fa3-fwd is installed.

    python3 benchmarks/peers/attention.py [--bench build/release/benchmarks/attention_bench] [--svg FILE]

With --bench, ours and the peers alternate in one run, round by round; "ratio" is ours over the best peer. Each round
has an order of its own, and each function runs for a while before it is timed: where the card's power is the limit,
whoever comes after a slow kernel finds a cooler card. Rates are medians over rounds. "MHz" is the clock of the
multiprocessors right after the row, "of peak" what ours is of the tensor cores' dense rate at that clock.
Causal prefill is compared like with like. For queries behind a prefix PyTorch takes no mask that is aligned to
the end together with these kernels, so its rows are without a mask, over all keys; FA3 takes one. TFLOP/s, medians
over events, random normal data; causal area counted exactly.
"""
import argparse
import math
import random
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
WARM_SECONDS = 0.1  # as attention_bench


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
    once = timed(function, 2)
    timed(function, 1 + int(WARM_SECONDS / once))
    launches = 1 + int(4e-3 / once)
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


def columns(program, pages, others):
    """Name -> function of (dim, queries, prefix); ours first."""
    ours = Ours(program) if program else None
    table = {}
    if ours:
        table["ours"] = ours.rate
        for page in pages:
            table[f"page{page}"] = lambda d, q, p, page=page: ours.rate(d, q, p, page)
    for name, other in others:
        table[name] = Ours(other).rate
    table["FA2"] = lambda d, q, p: sdpa(SDPBackend.FLASH_ATTENTION, d, q, p)
    table["cuDNN"] = lambda d, q, p: sdpa(SDPBackend.CUDNN_ATTENTION, d, q, p)
    if flash_attn_func:
        table["FA3"] = fa3
    return table


def orders(names, rounds):
    """An order of the names for each round: by chance, and backwards every other time, so that each is behind each other
    one about as often as in front of it."""
    chance = random.Random(1)
    order = list(names)
    for number in range(rounds):
        if number % 2 == 0:
            chance.shuffle(order)
        yield order[::-1] if number % 2 else list(order)


def guarded(function, shape):
    try:
        return function(*shape)
    except RuntimeError as error:
        print(f"  ({str(error).splitlines()[0][:60]})", end="")
        return float("nan")


def clock():
    """MHz of the multiprocessors now; NaN where nvidia-smi does not say."""
    query = ["nvidia-smi", "--query-gpu=clocks.sm", "--format=csv,noheader,nounits", "--id=0"]
    try:
        return float(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])
    except (OSError, ValueError, IndexError, subprocess.CalledProcessError):
        return float("nan")


def peak(mhz):
    """TFLOP/s of the tensor cores at a clock: 4096 dense bf16 operations a cycle on each multiprocessor of Hopper."""
    return torch.cuda.get_device_properties(0).multi_processor_count * 4096 * mhz * 1e-6


def svg(rows):
    """TFLOP/s against context at head_dim 128: causal prompts solid, 2,048 queries behind a prefix dashed."""
    width, height, left, bottom = 720, 420, 60, 40
    colours = ["#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f"]
    rows = [(shape, rates) for shape, rates in rows if shape[0] == 128]
    contexts = [q + p for (_, q, p), _ in rows]
    if not contexts:
        return None
    low, high = math.log2(min(contexts)), math.log2(max(contexts)) + 1e-9
    top = 100 * math.ceil(max(r for _, rates in rows for r in rates.values() if r == r) / 100)
    x = lambda context: left + (math.log2(context) - low) / (high - low) * (width - left - 130)
    y = lambda rate: height - bottom - rate / top * (height - bottom - 20)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
           'font-size="12"><rect width="100%" height="100%" fill="white"/>']
    for rate in range(0, top + 1, 100):
        out.append(f'<path d="M{left} {y(rate):.0f}H{width - 130}" stroke="#ddd"/>'
                   f'<text x="{left - 8}" y="{y(rate) + 4:.0f}" text-anchor="end">{rate}</text>')
    for context in sorted({2 ** round(math.log2(c)) for c in contexts}):
        out.append(f'<text x="{x(context):.0f}" y="{height - 18}" text-anchor="middle">{context // 1024}k</text>')
    for i, name in enumerate(rows[0][1]):
        colour = colours[i % len(colours)]
        out.append(f'<text x="{width - 120}" y="{30 + 18 * i}" fill="{colour}">{name}</text>')
        for chosen, dash in ((lambda q, p: p == 0, ""), (lambda q, p: q == 2048 and p > 0, ' stroke-dasharray="5 4"')):
            points = [f"{x(q + p):.0f},{y(r[name]):.0f}" for (_, q, p), r in rows
                      if chosen(q, p) and r[name] == r[name]]
            out.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}"{dash}/>')
    return "\n".join(out + [f'<text x="{left}" y="14">TFLOP/s against keys</text></svg>']) + "\n"


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
    parser.add_argument("--svg", help="where to draw the rates against context")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--others", default="", help="comma-separated name:program, other builds of attention_bench")
    parser.add_argument("--pages", default="", help="comma-separated page sizes of ours, beside contiguous")
    parser.add_argument("--without", default="", help="comma-separated columns to leave out")
    parser.add_argument("--shapes", default="", help="comma-separated dim:queries:prefix; default: all")
    return parser.parse_args()


def main():
    args = parse()
    if not torch.cuda.is_available():
        sys.exit("needs a GPU")
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}")
    print(f"TFLOP/s, bf16, {HEADS} query heads over {KV_HEADS}")
    others = [other.split(":", 1) for other in args.others.split(",") if other]
    table = columns(args.bench, [int(p) for p in args.pages.split(",") if p], others)
    for name in args.without.split(","):
        table.pop(name, None)
    ends = f"{'ratio':>7}{'MHz':>6}{'of peak':>8}" if "ours" in table else f"{'MHz':>6}"
    print("   d queries  prefix" + "".join(f"{name:>8}" for name in table) + ends)
    shapes = [tuple(map(int, s.split(":"))) for s in args.shapes.split(",") if s] or all_shapes()
    rows = []
    for shape in shapes:
        rounds = [{name: guarded(table[name], shape) for name in order} for order in orders(table, args.rounds)]
        mhz = clock()
        rates = {name: statistics.median(r[name] for r in rounds) for name in table}
        rows.append((shape, rates))
        line = "{:4} {:7} {:7}".format(*shape) + "".join(f"{rate:8.0f}" for rate in rates.values())
        if "ours" in rates:
            peers = [rates[name] for name in ("FA2", "cuDNN", "FA3") if name in rates and rates[name] == rates[name]]
            line += f"{rates['ours'] / max(peers):7.2f}" if peers else " " * 7
        line += f"{mhz:6.0f}" + (f"{rates['ours'] / peak(mhz):8.2f}" if "ours" in rates else "")
        print(line, flush=True)
    drawing = svg(rows) if args.svg else None
    if drawing:
        with open(args.svg, "w", encoding="utf-8") as file:
            file.write(drawing)


main()
