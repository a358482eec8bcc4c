#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Copyright 2026 the cake authors
"""Makes the data that tests/reference/answers_test.cpp compares cake::reference with.

Everything comes from an independent implementation: transformers and torch in fp32 on the dequantised
weights of the same GGUF. Run by hand, outside the build, when a prompt is added:

    pip install torch transformers accelerate gguf
    python3 tests/reference/make_reference.py MODEL.gguf

For each prompt NAME it writes data/NAME.txt (the prompt, byte for byte) and data/NAME.expected:

    prompt ID...          token ids of the prompt
    greedy ID...          the first 32 tokens that follow, the likeliest each time, ends ignored
    gap VALUE             smallest lead of a greedy token over the second likeliest
    top ID VALUE          ten lines: the largest logits of the first token that follows
"""

import argparse
import pathlib

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

GREEDY = 32
LICENSE = pathlib.Path(__file__).resolve().parents[2] / "LICENSE"


def prompts(tokenizer):
    """Name and text of each prompt; chat ones through the model's own template."""

    def chat(text):
        return tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )

    yield "license", chat(LICENSE.read_text() + "\n\nWhat does each Contributor grant?")
    yield "short", chat("What is the capital of France?")
    yield "mixed", chat(
        "Rechne: 12345 + 67,89 =\t?  In 1999\tund 2024: 3.14159, ½, ², Ⅻ, ٣٤.\n"
        "Crème brûlée à 4,50 €; naïve Ångström; ÀÉÎÕÜ; it's, we'll, I'VE, don't.\n"
        "日本語の文章と漢字 1234、中文测试,한국어 문장.\n\n\n"
        "Emoji: 😀👍🏽👩‍👩‍👧‍👦🇩🇪 \u00a0\u2003\u3000end  \t \n    indented 42\r\n  7 spaces   8\u0301 x\u0308\n"
        "Русский текст, ελληνικά, עברית, العربية, हिन्दी."
    )
    yield "code", chat(
        "Explain this function:\n```cpp\n"
        "template <class T>\nstatic T* find(std::vector<T>& items, int id) {\n"
        "\tfor (auto it = items.begin(); it != items.end(); ++it) {\n"
        "\t\tif (it->id == id && !(it->flags & 0x1F)) return &*it;  // 0 <= id < 1000\n"
        "\t}\n\treturn nullptr;\n}\n```\n"
    )
    yield "raw", (
        "The history of the steam engine begins in the first century, when Hero of Alexandria "
        "described a device that"
    )
    yield "raw_special", "<|im_start|>user\nList 3 prime numbers above 10.<|im_end|>\n<|im_start|>assistant\n1. "


@torch.inference_mode()
def reference(model, ids):
    out = model(torch.tensor([ids]), use_cache=True, logits_to_keep=1)
    first = out.logits[0, -1]
    greedy, gap = [], float("inf")
    for _ in range(GREEDY):
        top = torch.topk(out.logits[0, -1], 2)
        gap = min(gap, (top.values[0] - top.values[1]).item())
        greedy.append(top.indices[0].item())
        out = model(torch.tensor([[greedy[-1]]]), past_key_values=out.past_key_values, use_cache=True)
    return first, greedy, gap


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    model_path = parser.parse_args().model
    folder, name = str(model_path.parent), model_path.name

    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    # The GGUF says tokenizer.ggml.pre = smollm, which splits off each digit first; the conversion leaves
    # that out.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.float32, attn_implementation="eager"
    ).eval()

    data = pathlib.Path(__file__).resolve().parent / "data"
    data.mkdir(exist_ok=True)
    for prompt, text in prompts(tokenizer):
        ids = tokenizer.encode(text, add_special_tokens=False)
        first, greedy, gap = reference(model, ids)
        top = torch.topk(first, 10)
        (data / f"{prompt}.txt").write_bytes(text.encode())
        lines = [
            "prompt " + " ".join(map(str, ids)),
            "greedy " + " ".join(map(str, greedy)),
            f"gap {gap:.6f}",
            *(f"top {i} {v:.6f}" for i, v in zip(top.indices.tolist(), top.values.tolist())),
        ]
        (data / f"{prompt}.expected").write_text("\n".join(lines) + "\n")
        print(f"{prompt}: {len(ids)} tokens, gap {gap:.4f}: {tokenizer.decode(greedy)!r}")


if __name__ == "__main__":
    main()
