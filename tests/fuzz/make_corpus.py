#!/usr/bin/env python3
"""Seeds of the fuzz targets, into corpus/TARGET/, as small as they can be and still reach the end.

    python make_corpus.py

Needs gguf and numpy. Names that begin with "seed" are written here; the others were found by
fuzzing.
"""

import json
import shutil
from pathlib import Path

import gguf
import numpy as np

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
GOLDEN = HERE.parent / "golden"
RNG = np.random.default_rng(5)
BLOCK = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
         "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
MODULES = [f"model.layers.0.{part}" for part in BLOCK]


def put(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"seed-{name}").write_bytes(data if isinstance(data, bytes) else data.encode())


def compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def header(tensors, metadata=None):
    """A header and its data as the targets take them: text, NUL, bytes."""
    names, data = ({"__metadata__": metadata} if metadata else {}), b""
    for name, (kind, array) in tensors.items():
        begin, data = len(data), data + array.tobytes()
        names[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [begin, len(data)]}
    return compact(names).encode() + b"\0" + data


# ---- GGUF ----


def alphabet():
    codes = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(code) for code in codes] + [chr(0x100 + i) for i in range(256 - len(codes))]


MERGES = ["t h", "th e", "Ġ the", "i n", "Ġ a", "1 2"]


def write_gguf(name, arch, pre, types, tied):
    path = CORPUS / "gguf" / f"seed-{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, arch)
    hidden, wide, heads, keys, size = 32, 32, 2, 1, 16
    writer.add_block_count(1)
    writer.add_context_length(32)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(wide)
    writer.add_head_count(heads)
    writer.add_head_count_kv(keys)
    writer.add_key_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = alphabet() + [merge.replace(" ", "") for merge in MERGES] + ["<s>", "</s>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_merges(MERGES)
    writer.add_token_types([1] * (len(tokens) - 2) + [3, 3])
    writer.add_bos_token_id(len(tokens) - 2)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_chat_template("{{ messages }}")
    shapes = {"token_embd.weight": (len(tokens), hidden), "output_norm.weight": (hidden,)}
    if not tied:
        shapes["output.weight"] = (len(tokens), hidden)
    for part, shape in {"attn_q": (heads * size, hidden), "attn_k": (keys * size, hidden),
                        "attn_v": (keys * size, hidden), "attn_output": (hidden, heads * size),
                        "ffn_gate": (wide, hidden), "ffn_up": (wide, hidden),
                        "ffn_down": (hidden, wide), "attn_norm": (hidden,),
                        "ffn_norm": (hidden,)}.items():
        shapes[f"blk.0.{part}.weight"] = shape
    if arch == "qwen3":
        shapes |= {"blk.0.attn_q_norm.weight": (size,), "blk.0.attn_k_norm.weight": (size,)}
    if arch == "qwen2":
        shapes |= {"blk.0.attn_q.bias": (heads * size,), "blk.0.attn_k.bias": (keys * size,),
                   "blk.0.attn_v.bias": (keys * size,)}
    for i, (tensor, shape) in enumerate(shapes.items()):
        kind = types[i % len(types)] if len(shape) == 2 else "F32"
        dtype = gguf.GGMLQuantizationType[kind]
        values = (RNG.standard_normal(shape) * 0.2).astype(np.float32)
        writer.add_tensor(tensor, gguf.quants.quantize(values, dtype), raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_gguf():
    write_gguf("llama", "llama", "smollm", ["Q4_0", "Q4_1", "Q8_0"], True)
    write_gguf("qwen2", "qwen2", "qwen2", ["Q5_0", "Q5_1", "Q4_0"], True)
    write_gguf("qwen3", "qwen3", "gpt-2", ["Q4_0", "F16", "BF16"], True)
    shutil.copy(GOLDEN / "files" / "aligned.gguf", CORPUS / "gguf" / "seed-aligned")
    shutil.copy(GOLDEN / "sentencepiece" / "tiny.gguf", CORPUS / "gguf" / "seed-sentencepiece")


# ---- safetensors ----


def f32(*shape):
    return "F32", (RNG.standard_normal(shape) * 0.2).astype("<f4")


def f16(*shape):
    return "F16", (RNG.standard_normal(shape) * 0.2).astype("<f2")


def small_model():
    """As the configuration of files.c has it."""
    tensors = {"model.embed_tokens.weight": f16(12, 8), "model.norm.weight": f32(8),
               "lm_head.weight": f32(12, 8)}
    shapes = [(8, 8), (4, 8), (4, 8), (8, 8), (6, 8), (6, 8), (8, 6)]
    for module, shape in zip(MODULES, shapes):
        tensors[f"{module}.weight"] = f16(*shape)
    for norm in ("input_layernorm", "post_attention_layernorm"):
        tensors[f"model.layers.0.{norm}.weight"] = f32(8)
    return tensors


def make_safetensors():
    shutil.copy(GOLDEN / "files" / "tiny.safetensors", CORPUS / "safetensors" / "seed-types")
    put("safetensors", "model", header(small_model()))
    section = {"version": 1, "modules": {"m": {"bias": "b", "shape": [8, 6], "terms": [
        {"scale": 0.5, "ops": [{"matrix": "left", "shape": [8, 2]},
                               {"matrix": "right", "shape": [2, 6]}]}]}}}
    put("safetensors", "module", header({"left": f32(8, 2), "right": f16(2, 6), "b": f32(8)},
                                        {"format": "pt", "lowrank": compact(section)}))
    put("safetensors", "index", compact({"metadata": {"total_size": 16}, "weight_map": {
        "left": "shard.safetensors", "right": "shard.safetensors"}}))


# ---- configurations ----


def make_config():
    base = {"model_type": "llama", "hidden_act": "silu", "num_hidden_layers": 1, "hidden_size": 8,
            "intermediate_size": 6, "num_attention_heads": 2, "num_key_value_heads": 1,
            "head_dim": 4, "vocab_size": 12, "max_position_embeddings": 32, "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True}
    biased = {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}
    linear = {"rope_scaling": {"type": "linear", "factor": 2.0}}
    llama3 = {"rope_parameters": {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 16}}
    yarn = {"model_type": "qwen3", "rope_scaling": {
        "rope_type": "yarn", "factor": 4.0, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0,
        "mscale_all_dim": 0.5, "truncate": False, "attention_factor": 1.2,
        "original_max_position_embeddings": 16}}
    window = {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 2,
              "max_window_layers": 0, "layer_types": ["sliding_attention"]}
    mistral = {"model_type": "mistral", "sliding_window": 2}
    for name, more in {"plain": {}, "biased": biased, "linear": linear, "llama3": llama3,
                       "yarn": yarn, "window": window, "mistral": mistral}.items():
        put("config", name, compact(base | more))


def make_lowrank():
    def matrix(name, rows, cols, **more):
        return {"matrix": name, "shape": [rows, cols], **more}

    def section(**modules):
        full = {f"model.layers.0.{name.replace('__', '.')}": {"bias": bias, "terms": terms}
                for name, (bias, terms) in modules.items()}
        return compact({"version": 1, "base_model_type": "llama", "modules": full})

    pair = [matrix("left", 8, 3), matrix("right", 3, 8)]
    put("lowrank", "pair", section(self_attn__q_proj=(None, [{"scale": 1.0, "ops": pair}]),
                                   self_attn__o_proj=("vector", [{"scale": 0.5, "ops": pair}])))
    quantised = [matrix("bytes", 8, 8, scale="scales")]
    put("lowrank", "quantised", section(self_attn__q_proj=(None, [{"scale": 1, "ops": quantised}])))
    places = [{"scatter": "few", "shape": [3], "size": 8}, matrix("right", 3, 8)]
    order = [{"gather": "index", "shape": [8]}, {"diagonal": "vector", "shape": [8]}]
    put("lowrank", "places", section(self_attn__q_proj=(
        "vector", [{"scale": 1, "ops": places}, {"scale": -1, "ops": order + pair}])))


def make_plan():
    ranks = {module: 2 for module in MODULES} | {MODULES[0]: 0}
    for storage in ("two-factor", "pivot"):
        put("plan", storage, compact({
            "format": "lowrank-plan", "version": 1, "storage": storage,
            "parameters": {"before": 336, "after": 200}, "ranks": ranks}))


def make_gradients(tensors, outs, ins):
    """Adds the statistics of derivatives of all modules; returns what the metadata says of them."""
    for module, out, in_ in zip(MODULES, outs, ins):
        slopes = RNG.standard_normal((out, in_)) ** 2
        rows = RNG.standard_normal((20, out))
        gram = rows.T @ rows / 20
        parts = {"fisher_in": slopes.sum(0), "fisher_out": slopes.sum(1),
                 "importance_in": slopes.sum(0) / 2, "importance_out": slopes.sum(1) / 2,
                 "gradient_gram": np.concatenate([gram[i, : i + 1] for i in range(out)])}
        for part, numbers in parts.items():
            tensors[f"{module}.{part}"] = ("F64", numbers.astype("<f8"))
    return [{"module": m, "windows": 2, "tokens": 20, "weight": 1.0} for m in MODULES]


def make_stats():
    tensors, inputs = {}, []
    for leader, modules, size in ((0, [0, 1, 2], 8), (3, [3], 8), (4, [4, 5], 8), (6, [6], 6)):
        rows = RNG.standard_normal((20, size))
        gram, name = rows.T @ rows / 20, MODULES[leader]
        packed = np.concatenate([gram[i, : i + 1] for i in range(size)])
        parts = {"gram": packed, "mean": rows.mean(0), "mean_absolute": np.abs(rows).mean(0),
                 "maximum": np.abs(rows).max(0)}
        for part, numbers in parts.items():
            tensors[f"{name}.{part}"] = ("F64", numbers.astype("<f8"))
        inputs.append({"modules": [MODULES[m] for m in modules], "tokens": 20, "weight": 1.0})
    put("stats", "all", header(tensors, {"format": "lowrank-stats", "version": "1",
                                         "inputs": compact(inputs)}))
    gradients = make_gradients(tensors, (8, 4, 4, 8, 6, 6, 8), (8, 8, 8, 8, 8, 8, 6))
    put("stats", "gradients", header(tensors, {
        "format": "lowrank-stats", "version": "1", "inputs": compact(inputs),
        "gradients": compact(gradients)}))


# ---- tokenizers ----


def make_tokenizer():
    letters = ["Ġ", "a", "b", "c", "t", "h", "e", "1", "2", "<", "s", ">", "'", "Ã", "©", "Ċ"]
    merges = ["t h", "th e", "Ġ the", "a b", "ab ab"]
    tokens = letters + [merge.replace(" ", "") for merge in merges]
    vocab = {token: i for i, token in enumerate(tokens)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    plain = level | {"use_regex": False}

    def split(pattern, behavior="Isolated", invert=False):
        return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}

    def steps(*items):
        return {"type": "Sequence", "pretokenizers": list(items)}

    cl100k = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
              r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    variants = {
        "gpt2": (None, level),
        "prefix": ({"type": "NFC"}, level | {"add_prefix_space": True}),
        "digits": (None, steps({"type": "Digits", "individual_digits": True}, level)),
        "llama3": (None, steps(split({"Regex": cl100k}), plain)),
        "regex": ({"type": "Sequence", "normalizers": [{"type": "NFC"}]}, steps(
            split({"Regex": r"[^\s\p{L}]++|\p{L}{1,4}(?=\s)| ?\p{N}+?|(?:ab|c)?e|\s"},
                  "MergedWithNext"), split({"String": " "}, "MergedWithPrevious"), plain)),
        "removed": (None, steps(split({"String": "a"}, "Removed", True),
                                split({"Regex": "b+"}, "Contiguous"), plain)),
    }
    flags = {"single_word": False, "lstrip": True, "rstrip": True, "normalized": False}
    for name, (normalizer, pre) in variants.items():
        put("tokenizer", name, compact({
            "version": "1.0", "truncation": None, "padding": None, "normalizer": normalizer,
            "added_tokens": [{"id": len(tokens), "content": "<s>", "special": True} | flags,
                             {"id": len(tokens) + 1, "content": "e\u0301", "special": False,
                              "single_word": True, "normalized": True}],
            "pre_tokenizer": pre, "post_processor": None,
            "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "dropout": None, "unk_token": "a", "fuse_unk": True,
                      "byte_fallback": False, "ignore_merges": name == "llama3",
                      "vocab": vocab, "merges": merges}}))
    cases = json.loads((GOLDEN / "sentencepiece" / "cases.json").read_text())
    base = cases["base"]
    every = sorted(base["model"]["vocab"], key=base["model"]["vocab"].get)
    bytes_ = [token for token in every if token.startswith("<0x")]
    kept = [token for token in every if token not in bytes_][:80] + bytes_[9:12] + bytes_[195:]
    merges = [merge for merge in base["model"]["merges"]
              if all(part in kept for part in (*merge, "".join(merge)))]
    ids = {token: i for i, token in enumerate(kept)}
    added = [token | {"id": ids[token["content"]]} for token in base["added_tokens"]]
    small = base["model"] | {"vocab": ids, "merges": merges}
    for variant in cases["variants"]:
        change = {key: value for key, value in variant["change"].items()
                  if key not in ("model", "added_tokens")}
        model = {key: value for key, value in variant["change"].get("model", {}).items()
                 if key not in ("vocab", "merges")}
        put("tokenizer", f"sentencepiece-{variant['name']}", compact(
            base | {"added_tokens": added} | change | {"model": small | model}))


if __name__ == "__main__":
    (CORPUS / "safetensors").mkdir(parents=True, exist_ok=True)
    for make in (make_gguf, make_safetensors, make_config, make_lowrank, make_plan, make_stats,
                 make_tokenizer):
        make()
