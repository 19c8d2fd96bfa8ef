#!/usr/bin/env python3
"""Gradients and ten steps of training that PyTorch computes for the tiny models of make_models.py.

    python make_gradients.py

Needs torch, transformers and safetensors. models/<name>/gradients.safetensors holds, for the mean
next-token loss over the rows of golden.safetensors, in binary64 with eager attention:

    loss            F64 [1]
    <tensor name>   F32, the gradient of each parameter, shared ones once

models/<name>/steps.safetensors holds ten steps of AdamW (LEARNING, CLIP) on its first row:

    losses          F64 [10], each before its step
    norms           F64 [10], of the gradients before clipping
    <tensor name>   F32, each parameter behind them
"""

from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

MODELS = Path(__file__).parent / "models"
NAMES = ("llama-bias-sharded", "llama-tied", "mistral-window", "qwen3")
TRAINED = ("llama-tied", "qwen3")
STEPS = 10
LEARNING = {"lr": 3e-3, "betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.1}
CLIP = 0.5


def open_model(name):
    return transformers.AutoModelForCausalLM.from_pretrained(
        MODELS / name, dtype=torch.float64, attn_implementation="eager"
    )


def loss_of(model, ids):
    logits = model(ids).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def named(model, values):
    return {key: values(p).float().contiguous() for key, p in model.named_parameters()}


def gradients(name, ids):
    model = open_model(name)
    loss = loss_of(model, ids)
    loss.backward()
    return named(model, lambda p: p.grad) | {"loss": loss.detach().double().view(1)}


def steps(name, ids):
    model = open_model(name)
    optimizer = torch.optim.AdamW(model.parameters(), **LEARNING)
    losses, norms = [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model, ids)
        loss.backward()
        losses.append(loss.detach())
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP))
        optimizer.step()
    return named(model, lambda p: p.detach()) | {
        "losses": torch.stack(losses),
        "norms": torch.stack(norms),
    }


def main():
    for name in NAMES:
        ids = load_file(MODELS / name / "golden.safetensors")["ids"].long()
        save_file(gradients(name, ids), MODELS / name / "gradients.safetensors")
        if name in TRAINED:
            save_file(steps(name, ids[:1]), MODELS / name / "steps.safetensors")


if __name__ == "__main__":
    main()
