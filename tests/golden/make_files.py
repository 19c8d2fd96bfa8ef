"""Writes tests/golden/files/: small GGUF and safetensors files by the reference packages.

Needs gguf, numpy, safetensors and torch. Each line of expected.tsv names a file, a tensor, its type,
shape and bytes, and an Adler-32 sum of those bytes: what our readers must find.
"""

import json
import pathlib
import zlib

import gguf
import numpy
import safetensors.torch
import torch

FOLDER = pathlib.Path(__file__).parent / "files"
RNG = numpy.random.default_rng(0)
ROWS = []

GGUF_TENSORS = {
    "token_embd.weight": ("Q8_0", (12, 64)),
    "blk.0.attn_q.weight": ("Q4_1", (64, 64)),
    "blk.0.ffn_gate.weight": ("F16", (5, 3)),
    "blk.0.ffn_up.weight": ("BF16", (7, 4)),
    "blk.0.attn_norm.weight": ("F32", (33,)),
    "blk.0.ffn_down.weight": ("Q4_0", (4, 32)),
    "blk.0.experts": ("F32", (2, 3, 4)),
}

SAFETENSORS = {
    "weight.f32": (torch.float32, (3, 5)),
    "weight.f16": (torch.float16, (2, 7)),
    "weight.bf16": (torch.bfloat16, (4, 4)),
    "weight.f64": (torch.float64, (3,)),
    "count.i64": (torch.int64, (2, 2)),
    "count.i32": (torch.int32, (5,)),
    "bytes.i8": (torch.int8, (3,)),
    "bytes.u8": (torch.uint8, (1, 1, 7)),
    "flags.bool": (torch.bool, (3,)),
    "scalar": (torch.float32, ()),
    "empty": (torch.float32, (0, 4)),
}


def note(file, name, dtype, shape, data):
    sizes = "x".join(map(str, shape)) or "-"
    ROWS.append(f"{file}\t{name}\t{dtype}\t{sizes}\t{len(data)}\t{zlib.adler32(data)}")


def write_gguf(file, alignment):
    writer = gguf.GGUFWriter(FOLDER / file, "llama")
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    writer.add_block_count(2)
    writer.add_rope_freq_base(10000.5)
    writer.add_bool("test.flag", True)
    writer.add_int64("test.negative", -(2**40))
    writer.add_uint64("test.huge", 2**63 + 1)
    writer.add_float64("test.double", 0.1)
    writer.add_string("test.text", "naïve")
    writer.add_string("test.empty", "")
    writer.add_token_list(["<unk>", "a", "", "é"])
    writer.add_token_types([2, 1, 1, 1])
    writer.add_token_scores([0.0, -1.0, -2.5, -3.0])
    writer.add_array("test.flags", [True, False, True])
    for name, (kind, shape) in GGUF_TENSORS.items():
        values = RNG.standard_normal(shape).astype(numpy.float32)
        dtype = gguf.GGMLQuantizationType[kind]
        data = gguf.quants.quantize(values, dtype)
        writer.add_tensor(name, data, raw_dtype=dtype)
        note(file, name, kind.lower(), shape, data.tobytes())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensor(dtype, shape):
    values = torch.from_numpy(numpy.asarray(RNG.standard_normal(shape) * 50, numpy.float32))
    return values.reshape(shape).to(dtype)


def raw(value):
    return value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""


def write_safetensors(file, tensors, metadata=None):
    safetensors.torch.save_file(tensors, FOLDER / file, metadata)
    short = {"float": "f", "int": "i", "bfloat": "bf", "uint": "u"}
    for name, value in tensors.items():
        kind = str(value.dtype).removeprefix("torch.")
        stem = kind.rstrip("0123456789")
        dtype = short[stem] + kind[len(stem) :] if stem in short else "?"
        note(file, name, dtype, tuple(value.shape), raw(value))


def main():
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "shards").mkdir(exist_ok=True)
    write_gguf("tiny.gguf", 32)
    write_gguf("aligned.gguf", 128)
    tensors = {name: tensor(*spec) for name, spec in SAFETENSORS.items()}
    write_safetensors("tiny.safetensors", tensors, {"format": "pt", "note": "naïve"})
    one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    write_safetensors(f"shards/{one}", {"a.weight": tensor(torch.float32, (2, 3))})
    write_safetensors(f"shards/{two}", {"b.weight": tensor(torch.bfloat16, (4, 2))})
    index = {"metadata": {"total_size": 40}, "weight_map": {"a.weight": one, "b.weight": two}}
    (FOLDER / "shards" / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    (FOLDER / "expected.tsv").write_text("\n".join(ROWS) + "\n")


if __name__ == "__main__":
    main()
