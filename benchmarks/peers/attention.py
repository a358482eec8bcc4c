# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
"""The peer of attention_bench: PyTorch's scaled_dot_product_attention (cuDNN and FA2) on the same shapes.

    python3 benchmarks/peers/attention.py

Causal prefill is compared like with like. For queries behind a prefix PyTorch takes no mask that is aligned to
the end together with these kernels, so its rows are without a mask, over all keys. TFLOP/s, medians over events;
causal area counted exactly.
"""
import statistics
import sys

try:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError:
    sys.exit("needs PyTorch with CUDA")


def measure(function):
    times = []
    for i in range(12):
        begin = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        begin.record()
        function()
        end.record()
        end.synchronize()
        if i >= 2:
            times.append(begin.elapsed_time(end) * 1e-3)
    return statistics.median(times)


def rate(backend, queries, prefix, dim, heads=32, kv_heads=8):
    keys = prefix + queries
    q = torch.randn(1, heads, queries, dim, device="cuda", dtype=torch.bfloat16)
    k = torch.randn(1, kv_heads, keys, dim, device="cuda", dtype=torch.bfloat16)
    v = torch.randn_like(k)
    causal = prefix == 0
    area = queries * (queries + 1) / 2 if causal else queries * keys

    def run():
        with sdpa_kernel(backend):
            torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)

    try:
        return 4 * area * heads * dim / measure(run) * 1e-12
    except RuntimeError as error:
        print(f"  ({str(error).splitlines()[0][:60]})", end="")
        return float("nan")


def main():
    if not torch.cuda.is_available():
        sys.exit("needs a GPU")
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}")
    print("TFLOP/s, bf16, 32 query heads over 8")
    print("   d queries  prefix    FA2  cuDNN")
    shapes = [(dim, n, 0) for dim in (128, 64) for n in (2048, 8192, 32768)]
    shapes += [(128, queries, prefix) for queries in (1, 128, 512, 1024, 2048) for prefix in (8192, 32768, 131072)]
    for dim, queries, prefix in shapes:
        fa2 = rate(SDPBackend.FLASH_ATTENTION, queries, prefix, dim)
        cudnn = rate(SDPBackend.CUDNN_ATTENTION, queries, prefix, dim)
        print(f"{dim:4} {queries:7} {prefix:7} {fa2:6.0f} {cudnn:6.0f}", flush=True)


main()
