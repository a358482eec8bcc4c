#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
"""Prefill time of transformers on the shape of Llama-3.1-8B: random weights, bf16, one GPU.

    python3 benchmarks/peers/prefill.py [--tokens 2048 8192 32768] [--chunk 2048] [--seconds 60]

Needs torch with CUDA and transformers; downloads nothing. Measures each prompt in one pass and in
chunks, with SDPA by cuDNN and by FlashAttention 2 (the one inside PyTorch), until the last token's
logits are on the host, and prints medians beside TFLOP/s counted as prefill_bench counts them.
"""

import argparse
import os
import statistics
import sys
import time
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
warnings.filterwarnings("ignore")

LAYERS, HEADS, KV_HEADS, HEAD_DIM, WIDTH, FF, VOCAB = 32, 32, 8, 128, 4096, 14336, 128256


def flops(tokens):
    linear = 2 * LAYERS * (2 * WIDTH * HEADS * HEAD_DIM + 2 * WIDTH * KV_HEADS * HEAD_DIM + 3 * WIDTH * FF)
    return linear * tokens + 4 * LAYERS * HEADS * HEAD_DIM * tokens * (tokens + 1) / 2


def make_model(torch, transformers):
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=FF, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=HEAD_DIM,
        max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=500000.0,
        tie_word_embeddings=False, attn_implementation="sdpa")
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            model = transformers.LlamaForCausalLM(config)
        model.to_empty(device="cuda")
    finally:
        torch.set_default_dtype(default)
    generator = torch.Generator(device="cuda").manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
            else:
                parameter.fill_(1.0)
        # Frequencies of RoPE are no parameters: made anew, since to_empty() left them undefined.
        rotary = model.model.rotary_emb
        model.model.rotary_emb = type(rotary)(config=config).to("cuda")
    return model.eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 8192, 32768])
    parser.add_argument("--chunk", type=int, default=2048, help="tokens a pass of the runs in chunks")
    parser.add_argument("--seconds", type=float, default=60, help="for all measurements together")
    args = parser.parse_args()
    try:
        import torch
        import transformers
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError as error:
        print(f"prefill.py: {error}", file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        print("prefill.py: no CUDA device", file=sys.stderr)
        return 2

    @torch.inference_mode()
    def prefill(model, tokens, chunk):
        torch.cuda.synchronize()
        start = time.perf_counter()
        cache = transformers.DynamicCache()
        for begin in range(0, tokens.shape[1], chunk):
            out = model(tokens[:, begin:begin + chunk], past_key_values=cache, use_cache=True,
                        logits_to_keep=1)
        logits = out.logits[0, -1].float().cpu()
        seconds = time.perf_counter() - start
        if not bool(torch.isfinite(logits).all()):
            raise RuntimeError("logits are not finite")
        return seconds

    start = time.perf_counter()
    model = make_model(torch, transformers)
    print(f"{torch.cuda.get_device_name()}; transformers {transformers.__version__}, torch "
          f"{torch.__version__}, cuDNN {torch.backends.cudnn.version()}; made ready in "
          f"{time.perf_counter() - start:.1f} s", flush=True)

    cases = [(n, chunk) for n in args.tokens for chunk in (n, args.chunk) if chunk <= n]
    cases = list(dict.fromkeys(cases))
    backends = [("cuDNN SDPA", SDPBackend.CUDNN_ATTENTION), ("FA2 SDPA", SDPBackend.FLASH_ATTENTION)]
    budget = args.seconds / (len(cases) * len(backends))
    for tokens, chunk in cases:
        prompt = (torch.arange(tokens, device="cuda") * 7919 % VOCAB).unsqueeze(0)
        for name, backend in backends:
            label = f"transformers + {name:10s} {tokens:6d} tokens in passes of {chunk:5d}"
            # A pass over a prefix brings a mask, which FlashAttention does not take: PyTorch may
            # then use its memory-efficient kernel, and the line says so.
            allowed, note = [backend], ""
            try:
                try:
                    with sdpa_kernel(allowed):
                        first = prefill(model, prompt, chunk)
                except RuntimeError as error:
                    if chunk == tokens or "out of memory" in str(error):
                        raise
                    allowed, note = [backend, SDPBackend.EFFICIENT_ATTENTION], " (masked passes: efficient)"
                    with sdpa_kernel(allowed):
                        first = prefill(model, prompt, chunk)
                with sdpa_kernel(allowed):
                    first = prefill(model, prompt, chunk)
                    count = int(max(3, min(15, budget / first - 2))) | 1
                    times = sorted(prefill(model, prompt, chunk) for _ in range(count))
            except RuntimeError as error:
                print(f"{label}: failed: {str(error).splitlines()[0]}", flush=True)
                torch.cuda.empty_cache()
                continue
            median = statistics.median(times)
            print(f"{label}: median {median * 1e3:8.2f} ms ({times[0] * 1e3:.2f} to {times[-1] * 1e3:.2f}, "
                  f"{count} runs)  {flops(tokens) / median * 1e-12:6.1f} TFLOP/s{note}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
