#!/usr/bin/env python3
"""Output PCA as a plain PyTorch script does it: the peer of `lowrank compress`.

    python compress_peer.py MODEL TEXT --samples N --window N --keep R [--threads N]

Sums x'x of every linear's input over the windows by hooks, in F32 matrix products added up in F64,
once for modules that read one input; takes the leading eigenvectors of W C W'; keeps two factors.
Prints seconds of collecting and of factorising as JSON.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "golden"))
from check_model import load_model, read_tokens  # noqa: E402

READS_THE_SAME = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}


def collect(model, linears, tokens, args):
    moments = {}

    def add(name):
        def hook(module, inputs):
            x = inputs[0].reshape(-1, inputs[0].shape[-1])
            product = (x.T @ x).double()
            moments[name] = moments[name] + product if name in moments else product

        return hook

    for name, module in linears.items():
        if name.rsplit(".", 1)[1] not in READS_THE_SAME:
            module.register_forward_pre_hook(add(name))
    ids = torch.tensor(tokens[: args.samples * args.window]).view(-1, args.window)
    with torch.inference_mode():
        for batch in ids.split(args.batch):
            model.model(batch, use_cache=False)
    return moments


def factorise(linears, moments, keep):
    factors = {}
    for name, module in linears.items():
        stem, last = name.rsplit(".", 1)
        c = moments[f"{stem}.{READS_THE_SAME.get(last, last)}"]
        w = module.weight.double()
        rank = int(keep * w.numel() / sum(w.shape))
        vectors = torch.linalg.eigh(w @ c @ w.T).eigenvectors[:, -rank:]
        factors[name] = vectors.bfloat16(), (vectors.T @ w).bfloat16()
    return factors


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("text")
    for name, default in (("samples", 32), ("window", 512), ("batch", 4), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--keep", type=float, default=0.8)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, tokens = load_model(args.model), read_tokens(args.model, args.text)
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in name
    }
    start = time.perf_counter()
    moments = collect(model, linears, tokens, args)
    middle = time.perf_counter()
    with torch.inference_mode():
        factorise(linears, moments, args.keep)
    end = time.perf_counter()
    print(json.dumps({"collect": middle - start, "factorise": end - middle}))


if __name__ == "__main__":
    main()
