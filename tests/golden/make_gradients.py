#!/usr/bin/env python3
"""Gradients that PyTorch computes for the tiny models of make_models.py.

    python make_gradients.py

Needs torch, transformers and safetensors. models/<name>/gradients.safetensors holds, for the mean
next-token loss over the rows of golden.safetensors, in binary64 with eager attention:

    loss            F64 [1]
    <tensor name>   F32, the gradient of each parameter, shared ones once
"""

from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

MODELS = Path(__file__).parent / "models"
NAMES = ("llama-bias-sharded", "llama-tied", "mistral-window", "qwen3")


def main():
    for name in NAMES:
        folder = MODELS / name
        ids = load_file(folder / "golden.safetensors")["ids"].long()
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float64, attn_implementation="eager"
        )
        logits = model(ids).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        found = {key: p.grad.float().contiguous() for key, p in model.named_parameters()}
        save_file(found | {"loss": loss.detach().double().view(1)}, folder / "gradients.safetensors")


if __name__ == "__main__":
    main()
