#!/usr/bin/env python3
"""Tiny random models with the logits that transformers computes for them, into models/.

    python make_models.py [NAME...]

Needs torch, transformers, safetensors, tokenizers and gguf. Each folder holds a model as people
have it (config.json and safetensors, or model.gguf) and golden.safetensors:

    ids     I32 [rows, T]           the input
    logits  F32 [rows, T, vocab]    F32 arithmetic and eager attention on the widened weights
    nll     F64 [rows]              mean negative log-likelihood of tokens 1 to T-1, in nats

llama-tied has besides hidden.0 (after the embedding), hidden.i (after block i-1), norm.output
(after the last norm), and layers.0.<linear>.input and .output of the first block's linears, all
[rows, T, n]. gguf-mixed has tokens.json: texts and the ids its tokenizer gives them.
"""

import json
import shutil
import sys
import zlib
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import pre_tokenizers

from check_model import GgufFile

MODELS = Path(__file__).parent / "models"
GGUF = "gguf-mixed"

# Nine heads of 6 do not make 36, and no size but the head count is a multiple of another.
AWKWARD = {
    "vocab_size": 131,
    "hidden_size": 36,
    "intermediate_size": 52,
    "num_hidden_layers": 2,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 6,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
SMALL = {
    "vocab_size": 37,
    "hidden_size": 20,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 5,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
QWEN2 = {"head_dim": None}  # has no such key; the heads divide the hidden size


def plain(theta):
    return {"rope_type": "default", "rope_theta": theta}


def linear(theta):
    return {"rope_type": "linear", "rope_theta": theta, "factor": 2.5}


def small(rope, base="Llama", dtype="bfloat16", **options):
    keys = SMALL | {"rope_parameters": rope} | options.pop("keys", {})
    keys = {key: value for key, value in keys.items() if value is not None}
    return {"base": base, "dtype": dtype, "keys": keys} | options


# old: config.json as transformers 4 wrote it (rope_theta, rope_scaling, torch_dtype).
SETS = {
    "llama-tied": {
        "base": "Llama",
        "dtype": "float32",
        "keys": AWKWARD | {"rope_parameters": plain(10000.0), "tie_word_embeddings": True},
        "old": True,
        "length": 11,
        "captured": True,
    },
    "llama-bias-sharded": {
        "base": "Llama",
        "dtype": "bfloat16",
        "keys": AWKWARD
        | {"rope_parameters": plain(100000.0), "attention_bias": True, "mlp_bias": True},
        "shards": "24KB",
        "length": 11,
    },
    "llama-f16": small(plain(5000.0), dtype="float16", old=True),
    "llama-f32": small(plain(1e6), dtype="float32", keys={"tie_word_embeddings": True}),
    "rope-linear": small(linear(10000.0), old=True),
    "rope-linear-new": small(linear(10000.0)),
    "rope-dynamic": small(
        {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 3.0},
        keys={"max_position_embeddings": 16},
        old=True,
    ),
    "rope-llama3": small(LLAMA3, keys={"max_position_embeddings": 512}, old=True),
    "rope-llama3-new": small(LLAMA3, keys={"max_position_embeddings": 512}),
    "rope-yarn": small(YARN, keys={"max_position_embeddings": 128}, old=True),
    "rope-yarn-new": small(
        YARN | {"beta_fast": 8.0, "beta_slow": 2.0, "attention_factor": 1.25, "truncate": False},
        keys={"max_position_embeddings": 128},
    ),
    "mistral-window": small(plain(10000.0), base="Mistral", keys={"sliding_window": 5}, old=True),
    "qwen2": small(plain(1e6), base="Qwen2", keys=QWEN2, old=True),
    "qwen2-window": small(
        plain(1e6),
        base="Qwen2",
        keys=QWEN2
        | {
            "num_hidden_layers": 2,
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 1,
        },
    ),
    "qwen3": small(plain(1e6), base="Qwen3", keys={"tie_word_embeddings": True}),
}


def seed_of(name):
    return zlib.crc32(name.encode())


def fill(model):
    """Logits of a standard deviation near 2 and attention far from uniform."""
    hidden = model.config.hidden_size
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if name.endswith("norm.weight"):
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(0.3 * noise)
            elif "embed_tokens" in name or "lm_head" in name:
                parameter.copy_(2 / hidden**0.5 * noise)
            else:
                gain = 1.5 if "q_proj" in name or "k_proj" in name else 1
                parameter.copy_(gain / parameter.shape[1] ** 0.5 * noise)


def write_config(folder, old):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("transformers_version")
    # The defaults of a library version are no part of a model.
    for key in ("_name_or_path", "use_cache", "pretraining_tp", "initializer_range"):
        config.pop(key, None)
    if old:
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        kind = rope.pop("rope_type")
        config["torch_dtype"] = config.pop("dtype")
        # "type" is the oldest spelling, "rope_type" came with llama3.
        key = "type" if kind in ("linear", "dynamic") else "rope_type"
        config["rope_scaling"] = None if kind == "default" else {key: kind} | rope
        config.pop("layer_types", None)
        if config.get("use_sliding_window") is False:
            config["sliding_window"] = 4  # Qwen's files name a window that is not in use
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def capture(model):
    """Hooks that note the residual stream and the first block's linears; returns the notes."""
    notes = {}

    def note(module, name, with_input=False):
        def hook(_, inputs, output):
            if with_input:
                notes[f"{name}.input"] = inputs[0].clone()
            notes[f"{name}.output" if with_input else name] = output.clone()

        module.register_forward_hook(hook)

    note(model.model.embed_tokens, "hidden.0")
    for index, layer in enumerate(model.model.layers):
        note(layer, f"hidden.{index + 1}")
    note(model.model.norm, "norm.output")
    for name, module in model.model.layers[0].named_modules():
        if isinstance(module, torch.nn.Linear):
            note(module, f"layers.0.{name}", with_input=True)
    return notes


def golden(model, ids, captured=False):
    notes = capture(model) if captured else {}
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].double().transpose(1, 2), ids[:, 1:], reduction="none"
    )
    notes |= {"ids": ids.to(torch.int32), "logits": logits, "nll": losses.mean(dim=1)}
    return {name: notes[name].contiguous() for name in sorted(notes)}


def make_folder(name, base, dtype, keys, old=False, shards="1GB", length=24, captured=False):
    folder = MODELS / name
    torch.manual_seed(seed_of(name))
    config = getattr(transformers, f"{base}Config")(**keys)
    model = getattr(transformers, f"{base}ForCausalLM")(config)
    fill(model)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shards)
    (folder / "generation_config.json").unlink()
    write_config(folder, old)
    ids = torch.randint(0, keys["vocab_size"], (2, length))
    # Read back what was written: transformers itself vouches for the folder.
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    return golden(model.eval(), ids, captured)


def gguf_tokenizer(writer):
    """Specials, bytes and merges in the order of SmolLM2's file, like it without byte 4.

    The `tokenizers` package drops a byte that no token stands for, when no unknown token is set.
    """
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - {chr(256 + 4)})
    merges = ["Ġ t", "h e", "Ġt he", "i n", "e r", "Ġ a", "a n", "r e", "Ġ Ġ", "Ã ©", "1 2"]
    merges += ["ĠĠ ĠĠ", "' s", "in g", "an d", "Ġa n", "Ġan d"]
    tokens = specials + alphabet + [merge.replace(" ", "") for merge in merges]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(specials) + [1] * (len(tokens) - len(specials)))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    return len(tokens)


def permute(weight, heads):
    """llama.cpp's convert: the two halves of a head's rotary pairs become neighbours."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path):
    """A tied Llama of two blocks whose matrices take turns in the types of real files."""
    hidden, inner, heads, kv_heads, head_dim = 96, 64, 3, 1, 32
    types = {
        "attn_q": ["Q8_0", "Q4_1"],
        "attn_k": ["F32", "BF16"],
        "attn_v": ["F16", "Q8_0"],
        "attn_output": ["Q4_1", "Q8_0"],
        "ffn_gate": ["Q4_1", "Q8_0"],
        "ffn_up": ["Q4_1", "Q4_1"],
        "ffn_down": ["Q8_0", "Q4_1"],
    }
    shapes = {
        "attn_q": (heads * head_dim, hidden),
        "attn_k": (kv_heads * head_dim, hidden),
        "attn_v": (kv_heads * head_dim, hidden),
        "attn_output": (hidden, heads * head_dim),
        "ffn_gate": (inner, hidden),
        "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
    }
    random = np.random.default_rng(seed_of(GGUF))
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_license("apache-2.0")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(100000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    vocab = gguf_tokenizer(writer)
    writer.add_vocab_size(vocab)

    def matrix(name, shape, std, kind, rows_of=None):
        values = (std * random.standard_normal(shape)).astype(np.float32)
        if rows_of:
            values = permute(values, rows_of)
        quantised = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, gguf.quants.quantize(values, quantised), raw_dtype=quantised)

    def norm(name):
        writer.add_tensor(name, (1 + 0.2 * random.standard_normal(hidden)).astype(np.float32))

    matrix("token_embd.weight", (vocab, hidden), 2 / hidden**0.5, "Q4_1")
    for block in range(2):
        norm(f"blk.{block}.attn_norm.weight")
        norm(f"blk.{block}.ffn_norm.weight")
        for part, kinds in types.items():
            shape, rows_of = shapes[part], {"attn_q": heads, "attn_k": kv_heads}.get(part)
            std = (1.5 if rows_of else 1) / shape[1] ** 0.5
            matrix(f"blk.{block}.{part}.weight", shape, std, kinds[block], rows_of)
    norm("output_norm.weight")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


TEXTS = [
    "",
    "the",
    " the  and    anderer's 1212",
    "<|im_start|>user\nthé 12\t3.<|im_end|>",
    "<|im_start|x <|endoftext|><|endoftext|>",
    "\n\n  \n the\r\nÅ ß 日本 🙂 x²½ ٣٤",
    "I'll we've HE'S it''s -- 'the' don\u2019t",
    "nul \x00 eot \x04the del \x7f nbsp\u00a0ideographic\u3000end ",
]


def make_gguf(name):
    folder = MODELS / name
    folder.mkdir(parents=True)
    write_gguf(folder / "model.gguf")
    file = GgufFile(folder / "model.gguf")
    tokenizer = file.tokenizer()
    listed = [{"text": text, "ids": tokenizer.encode(text).ids} for text in TEXTS]
    (folder / "tokens.json").write_text(json.dumps(listed, indent=1) + "\n")
    rows = ["<|im_start|>the anderer's 12<|im_end|>", "in thé  and er 2 there an on"]
    ids = torch.tensor([tokenizer.encode(text).ids[:10] for text in rows])
    model = file.model()
    model.set_attn_implementation("eager")
    return golden(model.eval(), ids)


def main():
    for name in sys.argv[1:] or [*SETS, GGUF]:
        shutil.rmtree(MODELS / name, ignore_errors=True)
        tensors = make_gguf(name) if name == GGUF else make_folder(name, **SETS[name])
        save_file(tensors, MODELS / name / "golden.safetensors")
        size = sum(file.stat().st_size for file in (MODELS / name).iterdir())
        logits = tensors["logits"]
        print(
            f"{name}: {size} bytes, logits {list(logits.shape)} std {logits.std():.2f},"
            f" nll {[round(value, 4) for value in tensors['nll'].tolist()]}"
        )


if __name__ == "__main__":
    main()
