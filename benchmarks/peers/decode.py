# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
"""Attention of few queries by PyTorch, for the table beside decode_bench: layers with KV of their own until a gigabyte
was read, as a graph; rates over the copy of the same run."""
import statistics

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

HEADS, KV_HEADS, DIM = 32, 8, 128


def seconds_of(enqueue, rounds=9):
    enqueue()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        enqueue()
    times = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3)
    return statistics.median(times[2:])


def main():
    torch.manual_seed(0)
    half = 1 << 28  # elements of 512 MiB
    pool = torch.randn(half, device="cuda", dtype=torch.bfloat16).repeat(2)
    copy = 4 * half / seconds_of(lambda: pool[half:].copy_(pool[:half]))
    print(f"a copy of 512 MiB: {copy * 1e-9:.0f} GB/s read and written")
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        for keys in (8192, 32768, 131072):
            for queries in (1, 16):
                side = keys * KV_HEADS * DIM
                q = torch.randn(1, HEADS, queries, DIM, device="cuda", dtype=torch.bfloat16)
                layers = [
                    [pool[at:at + side].view(1, KV_HEADS, keys, DIM) for at in (begin, begin + side)]
                    for begin in range(0, pool.numel(), 2 * side)
                ]

                def enqueue():
                    with sdpa_kernel(backend):
                        for k, v in layers:
                            scaled_dot_product_attention(q, k, v, enable_gqa=True)

                seconds = seconds_of(enqueue) / len(layers)
                print(f"{backend.name:16} {queries:3} over {keys:6}: {seconds * 1e6:7.1f} us, "
                      f"{4 * side / seconds / copy:.2f} of the copy's rate", flush=True)


if __name__ == "__main__":
    main()
