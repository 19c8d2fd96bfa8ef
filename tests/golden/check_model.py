#!/usr/bin/env python3
"""A second opinion on a whole model, by transformers in F32.

Reads a GGUF (architecture llama, weights dequantised, llama.cpp's order of the q and k rows
undone, text split by the tokenizer inside the file) or a Hugging Face folder, and measures what
`lowrank evaluate` measures, by the same rules. Development only; `make check` never runs it.

    python check_model.py dump    MODEL TEXT OUT.safetensors   ids and logits of some windows
    python check_model.py ppl     MODEL TEXT...                perplexity and tokens per second
    python check_model.py compare REFERENCE MODEL TEXT...      KL(reference || model), agreement
    python check_model.py folder  MODEL.gguf OUT               the model as a folder
    python check_model.py tokens  MODEL TEXT OUT.safetensors   the text's token ids

Needs torch, transformers, tokenizers, safetensors and gguf. JSON on standard output.
"""

import argparse
import json
import math
import time
from fractions import Fraction
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
CONTROL, USER_DEFINED = 3, 4


class GgufFile:
    """A GGUF's metadata, tensors and tokenizer, in Hugging Face's terms."""

    def __init__(self, path):
        self.reader = gguf.GGUFReader(path)
        self.meta = {name: field.contents() for name, field in self.reader.fields.items()}
        if self.meta["general.architecture"] != "llama":
            raise SystemExit(f"{path}: architecture {self.meta['general.architecture']}")
        if self.meta.get("llama.rope.scaling.type", "none") != "none":
            raise SystemExit(f"{path}: scaled rotary embeddings are not read here")

    def config(self):
        meta = self.meta
        heads = meta["llama.attention.head_count"]
        hidden = meta["llama.embedding_length"]
        names = {tensor.name for tensor in self.reader.tensors}
        return transformers.LlamaConfig(
            vocab_size=len(meta["tokenizer.ggml.tokens"]),
            hidden_size=hidden,
            intermediate_size=meta["llama.feed_forward_length"],
            num_hidden_layers=meta["llama.block_count"],
            num_attention_heads=heads,
            num_key_value_heads=meta.get("llama.attention.head_count_kv", heads),
            head_dim=meta.get("llama.attention.key_length", hidden // heads),
            max_position_embeddings=meta["llama.context_length"],
            rms_norm_eps=meta["llama.attention.layer_norm_rms_epsilon"],
            rope_parameters={
                "rope_type": "default",
                "rope_theta": meta.get("llama.rope.freq_base", 10000.0),
            },
            attention_bias="blk.0.attn_q.bias" in names,
            mlp_bias="blk.0.ffn_up.bias" in names,
            tie_word_embeddings="output.weight" not in names,
            bos_token_id=meta.get("tokenizer.ggml.bos_token_id"),
            eos_token_id=meta.get("tokenizer.ggml.eos_token_id"),
            pad_token_id=None,
        )

    def weights(self):
        """Dequantised F32 tensors under their Hugging Face names."""
        heads = {"attn_q": self.meta["llama.attention.head_count"]}
        heads["attn_k"] = self.meta.get("llama.attention.head_count_kv", heads["attn_q"])
        state = {}
        for tensor in self.reader.tensors:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            name = TOP_NAMES.get(tensor.name)
            if name is None:
                _, layer, kind, suffix = tensor.name.split(".")
                name = f"model.layers.{layer}.{BLOCK_NAMES[kind]}.{suffix}"
                if kind in heads:
                    values = unpermute(values, heads[kind])
            state[name] = torch.from_numpy(np.ascontiguousarray(values))
        return state

    def tokenizer(self):
        meta = self.meta
        tokens = meta["tokenizer.ggml.tokens"]
        merges = [tuple(merge.split(" ")) for merge in meta["tokenizer.ggml.merges"]]
        tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
        steps = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
        if meta["tokenizer.ggml.pre"] == "smollm":
            steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
        elif meta["tokenizer.ggml.pre"] != "gpt-2":
            raise SystemExit(f"pre-tokenizer {meta['tokenizer.ggml.pre']} is not read here")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
        tokenizer.decoder = decoders.ByteLevel()
        for token, kind in zip(tokens, meta["tokenizer.ggml.token_type"]):
            if kind in (CONTROL, USER_DEFINED):
                special = kind == CONTROL
                tokenizer.add_tokens([AddedToken(token, special=special, normalized=False)])
        return tokenizer

    def model(self, dtype=torch.float32):
        return transformers.LlamaForCausalLM.from_pretrained(
            None, config=self.config(), state_dict=self.weights(), dtype=dtype
        )

    def save(self, folder, dtype):
        self.model(dtype).save_pretrained(folder)
        tokens = self.meta["tokenizer.ggml.tokens"]
        named = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
        ids = {k: self.meta.get(f"tokenizer.ggml.{v}_token_id") for k, v in named.items()}
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=self.tokenizer(),
            chat_template=self.meta.get("tokenizer.chat_template"),
            **{f"{k}_token": tokens[i] for k, i in ids.items() if i is not None},
        )
        tokenizer.save_pretrained(folder)


def unpermute(values, heads):
    """From llama.cpp's interleaved rotary pairs back to the two halves of each head."""
    half = values.shape[0] // heads // 2
    return values.reshape(heads, half, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def load_model(path):
    if Path(path).is_dir():
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path, trust_remote_code=True, dtype=torch.float32
        )
    else:
        model = GgufFile(path).model()
    return model.eval()


def load_tokenizer(path):
    if Path(path).is_dir():
        return Tokenizer.from_file(str(Path(path) / "tokenizer.json"))
    return GgufFile(path).tokenizer()


def read_tokens(path, text):
    string = Path(text).read_bytes().decode("utf-8", errors="replace")
    return load_tokenizer(path).encode(string, add_special_tokens=False).ids


def cut_windows(tokens, args):
    """Consecutive windows from window K on; a shorter last one is dropped."""
    first = args.first_window
    if args.after is not None:
        first = math.ceil(Fraction(args.after) * len(tokens) / args.window)
    whole = len(tokens) // args.window
    last = whole if args.windows is None else min(whole, first + args.windows)
    if first >= last:
        raise SystemExit(f"{len(tokens)} tokens hold {whole} windows, none from {first} on")
    ids = torch.tensor(tokens[first * args.window : last * args.window], dtype=torch.int64)
    return first, ids.view(last - first, args.window)


class Forward:
    """Logits of a batch, with the seconds spent in forward passes."""

    def __init__(self, path):
        self.model = load_model(path)
        self.seconds = 0.0

    def __call__(self, ids):
        start = time.perf_counter()
        with torch.inference_mode():
            logits = self.model(ids, use_cache=False).logits
        self.seconds += time.perf_counter() - start
        return logits


def score(logits, ids):
    """Summed negative log-likelihood of every token but the first of each window, in nats."""
    total = 0.0
    for row, row_ids in zip(logits, ids):
        losses = torch.nn.functional.cross_entropy(row[:-1], row_ids[1:], reduction="none")
        total += losses.double().sum().item()
    return total


def diverge(reference, logits):
    """Summed KL(reference || model) in F64 and the number of equal argmax, lower id on ties."""
    total, equal = 0.0, 0
    for p_row, q_row in zip(reference, logits):
        for p, q in zip(p_row[:-1].split(64), q_row[:-1].split(64)):
            log_p, log_q = p.double().log_softmax(-1), q.double().log_softmax(-1)
            total += (log_p.exp() * (log_p - log_q)).sum().item()
            equal += int((p.numpy().argmax(-1) == q.numpy().argmax(-1)).sum())
    return total, equal


def describe(nll, scored, windows, forward):
    mean = nll / scored
    return {
        "nll": mean,
        "perplexity": math.exp(mean),
        "tokens_per_second": windows.numel() / forward.seconds,
    }


def evaluate(args, text):
    tokens = read_tokens(args.model, text)
    first, windows = cut_windows(tokens, args)
    forward, nll = Forward(args.model), 0.0
    forward.model(windows[:1], use_cache=False)
    for ids in windows.split(args.batch):
        nll += score(forward(ids), ids)
    scored = windows.shape[0] * (args.window - 1)
    return {
        "model": args.model,
        "text": text,
        "text_tokens": len(tokens),
        "window": args.window,
        "first_window": first,
        "windows": windows.shape[0],
        "tokens": scored,
        **describe(nll, scored, windows, forward),
    }


def compare(args, text):
    first, windows = cut_windows(read_tokens(args.reference, text), args)
    reference, model = Forward(args.reference), Forward(args.model)
    sums = {"reference": 0.0, "model": 0.0, "kl": 0.0, "equal": 0}
    for ids in windows.split(args.batch):
        expected, found = reference(ids), model(ids)
        kl, equal = diverge(expected, found)
        sums["reference"] += score(expected, ids)
        sums["model"] += score(found, ids)
        sums["kl"] += kl
        sums["equal"] += equal
    scored = windows.shape[0] * (args.window - 1)
    return {
        "text": text,
        "first_window": first,
        "windows": windows.shape[0],
        "tokens": scored,
        "kl": sums["kl"] / scored,
        "agreement": sums["equal"] / scored,
        "reference": {"path": args.reference}
        | describe(sums["reference"], scored, windows, reference),
        "model": {"path": args.model} | describe(sums["model"], scored, windows, model),
    }


def dump(args):
    first, windows = cut_windows(read_tokens(args.model, args.text), args)
    forward = Forward(args.model)
    logits = torch.cat([forward(ids) for ids in windows.split(args.batch)])
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    arrays = {"ids": windows.numpy().astype(np.int32), "logits": logits.numpy()}
    save_file(arrays, args.out, metadata={"first_window": str(first)})
    return {
        "out": args.out,
        "first_window": first,
        "logits": list(logits.shape),
        "logits_mean": logits.double().mean().item(),
        "logits_std": logits.double().std().item(),
        "nll": score(logits, windows) / (windows.shape[0] * (args.window - 1)),
    }


def tokens(args):
    ids = read_tokens(args.model, args.text)
    save_file({"ids": np.array(ids, dtype=np.int32)}, args.out)
    return {"out": args.out, "text_tokens": len(ids)}


def folder(args):
    GgufFile(args.model).save(args.out, {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype])
    return {"out": args.out, "dtype": args.dtype}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--threads", type=int, default=2)
    common.add_argument("--batch", type=int, default=4, help="windows in a forward pass")
    common.add_argument("--window", type=int, default=512)
    common.add_argument("--first-window", type=int, default=0)
    common.add_argument("--after", help="first window that starts at or after this share, as 0.7")
    common.add_argument("--windows", type=int, default=None)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, positions in {
        "dump": ["model", "text", "out"],
        "tokens": ["model", "text", "out"],
        "ppl": ["model", "texts"],
        "compare": ["reference", "model", "texts"],
        "folder": ["model", "out"],
    }.items():
        command = commands.add_parser(name, parents=[common])
        for position in positions:
            command.add_argument(position, nargs="+" if position == "texts" else None)
    commands.choices["folder"].add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    return parser.parse_args()


def main():
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    if args.command in ("ppl", "compare"):
        measure = evaluate if args.command == "ppl" else compare
        result = {
            "threads": args.threads,
            "batch": args.batch,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "results": [measure(args, text) for text in args.texts],
        }
    else:
        result = {"dump": dump, "tokens": tokens, "folder": folder}[args.command](args)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
