#!/usr/bin/env python3
"""A second opinion on written GGUF files. Development only; `make check` never runs it.

    python check_gguf.py compare A.gguf B.gguf    keys and dequantised tensors, by the gguf package
    python check_gguf.py logits A.gguf FOLDER     transformers' logits of both, in F32
"""

import sys
from pathlib import Path

import gguf
import numpy as np


def compare(one, two):
    a, b = gguf.GGUFReader(one), gguf.GGUFReader(two)
    keys = [{name: field.contents() for name, field in r.fields.items()} for r in (a, b)]
    for name in sorted(set(keys[0]) | set(keys[1])):
        values = [k.get(name) for k in keys]
        if values[0] != values[1]:
            print(f"{name}: {values[0]!s:.60} | {values[1]!s:.60}")
    tensors = [{t.name: t for t in r.tensors} for r in (a, b)]
    print("only in one:", set(tensors[0]) ^ set(tensors[1]))
    worst = 0.0
    for name in set(tensors[0]) & set(tensors[1]):
        x, y = (gguf.quants.dequantize(t[name].data, t[name].tensor_type) for t in tensors)
        assert x.shape == y.shape, (name, x.shape, y.shape)
        worst = max(worst, float(np.abs(x - y).max() / np.abs(x).max()))
    print(f"{len(tensors[0])} tensors, largest difference over largest number {worst:g}")


def logits(file, folder):
    import torch
    from transformers import AutoModelForCausalLM

    ids = torch.arange(3, 19).unsqueeze(0)
    path = Path(file)
    out = []
    for args, more in (((str(path.parent),), {"gguf_file": path.name}), ((folder,), {})):
        model = AutoModelForCausalLM.from_pretrained(*args, **more, dtype=torch.float32)
        with torch.no_grad():
            out.append(model(ids).logits)
    print(f"largest logit {out[0].abs().max():g}, difference {(out[0] - out[1]).abs().max():g}")


{"compare": compare, "logits": logits}[sys.argv[1]](*sys.argv[2:])
