"""Random blocks of GGUF's quantised types and what the gguf package makes of them.

    python make_blocks.py          writes files/blocks.safetensors (gguf 0.19.0, safetensors 0.8.0)
"""
import pathlib

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize
from safetensors.numpy import save_file

BLOCKS = 3
# bytes of a block, and where its binary16 numbers stand
TYPES = {T.Q4_0: (18, [0]), T.Q5_0: (22, [0]), T.Q5_1: (24, [0, 2]), T.Q4_K: (144, [0, 2]),
         T.Q5_K: (176, [0, 2]), T.Q6_K: (210, [208])}

rng = np.random.default_rng(7)
tensors = {}
for kind, (size, halves) in TYPES.items():
    raw = rng.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
    for at in halves:  # random bytes would be infinities now and then
        raw[:, at:at + 2] = rng.normal(0, 0.1, (BLOCKS, 1)).astype(np.float16).view(np.uint8)
    tensors[kind.name.lower() + ".raw"] = raw
    tensors[kind.name.lower() + ".values"] = dequantize(raw, kind).reshape(-1).astype(np.float32)
save_file(tensors, pathlib.Path(__file__).parent / "files" / "blocks.safetensors")
