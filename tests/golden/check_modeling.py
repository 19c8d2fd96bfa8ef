#!/usr/bin/env python3
"""Does transformers load what src/format/modeling_lowrank.py describes?

Builds small random models, rewrites their linear modules by hand in every form the file knows
(full-rank factors, ranks above the output, a right factor shared by q, k and v, a diagonal, the
pivot form, a gather, a bias, I8 with and without a tied embedding), saves a folder as liblowrank
would, loads it with trust_remote_code and compares logits with those of the dense model.

    python check_modeling.py

Needs torch, transformers and safetensors; development only, `make check` does not run it.
"""

import contextlib
import copy
import json
import shutil
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

MODELING = Path(__file__).parents[2] / "src" / "format" / "modeling_lowrank.py"
BASES = ("Llama", "Mistral", "Qwen2", "Qwen3")
BLOCK = 32


def make_dense(base, **options):
    torch.manual_seed(7)
    config = getattr(transformers, f"{base}Config")(
        vocab_size=131,
        hidden_size=36,
        intermediate_size=52,
        num_hidden_layers=2,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=6,
        max_position_embeddings=64,
        **options,
    )
    model = getattr(transformers, f"{base}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(1 + 0.1 * noise if parameter.dim() == 1 else 0.2 * noise)
    return model


class Rewriter:
    """Collects tensors and the "lowrank" modules that name them."""

    def __init__(self, model):
        self.tensors = {name: value.clone() for name, value in model.state_dict().items()}
        if model.config.tie_word_embeddings:
            del self.tensors["lm_head.weight"]
        self.modules = {}

    def take(self, module):
        return self.tensors.pop(f"{module}.weight").double()

    def put(self, name, value, dtype=torch.float32):
        self.tensors[name] = value.to(dtype).contiguous()
        return name, list(value.shape)

    def matrix(self, name, value):
        name, shape = self.put(name, value)
        return {"matrix": name, "shape": shape}

    def scatter(self, name, index, size):
        name, shape = self.put(name, torch.tensor(index), torch.int32)
        return {"scatter": name, "shape": shape, "size": size}

    def module(self, name, *chains):
        bias = f"{name}.bias"
        terms = [{"scale": scale, "ops": ops} for scale, ops in chains]
        self.modules[name] = {"bias": bias if bias in self.tensors else None, "terms": terms}

    def factorise(self, name, rank):
        """left · right of full rank or more; a spare row of right meets a zero column of left."""
        u, s, v = torch.linalg.svd(self.take(name), full_matrices=False)
        left, right = u * s, v
        spare = rank - s.numel()
        if spare > 0:
            extra = torch.randn(spare, right.shape[1], dtype=torch.float64)
            left = torch.cat([left, torch.zeros(left.shape[0], spare)], dim=1)
            right = torch.cat([right, extra])
        ops = [self.matrix(f"{name}.left.weight", left), self.matrix(f"{name}.right.weight", right)]
        self.module(name, (1, ops))

    def share_right(self, names, home):
        weights = [self.take(name) for name in names]
        basis = torch.linalg.svd(torch.cat(weights), full_matrices=False).Vh
        for name, weight in zip(names, weights):
            left = self.matrix(f"{name}.left.weight", weight @ basis.T)
            self.module(name, (1, [left, self.matrix(home, basis)]))

    def gate(self, name):
        """left · diag · right twice, so that scales and a common tail are seen."""
        u, s, v = torch.linalg.svd(self.take(name), full_matrices=False)
        left = self.matrix(f"{name}.left.weight", 2 * u)
        right = self.matrix(f"{name}.right.weight", v)
        tensor, shape = self.put(f"{name}.gate", s)
        chain = [left, {"diagonal": tensor, "shape": shape}, right]
        self.module(name, (0.25, chain), (0.25, chain))

    def pivot(self, name, rank):
        """The pivot form of the weight cut to `rank`: chosen rows, and the others from them."""
        u, s, v = torch.linalg.svd(self.take(name), full_matrices=False)
        weight = u[:, :rank] * s[:rank] @ v[:rank]
        rows = torch.randperm(weight.shape[0])
        pivots, others = rows[:rank].tolist(), rows[rank:].tolist()
        basis = weight[pivots]
        mixed = torch.linalg.lstsq(basis.T, weight[others].T).solution.T
        size = weight.shape[0]
        tail = self.matrix(f"{name}.pivot.weight", basis)
        chosen = self.scatter(f"{name}.pivots", pivots, size)
        rest = self.scatter(f"{name}.others", others, size)
        mix = self.matrix(f"{name}.mix.weight", mixed)
        self.module(name, (1, [chosen, tail]), (1, [rest, mix, tail]))
        return weight

    def permute_input(self, name):
        weight = self.take(name)
        order = torch.randperm(weight.shape[1])
        index, shape = self.put(f"{name}.order", order, torch.int32)
        ops = [self.matrix(f"{name}.weight", weight[:, order]), {"gather": index, "shape": shape}]
        self.module(name, (1, ops))

    def quantise(self, name, users):
        weight = self.take(name)
        rows, columns = weight.shape
        spare = -columns % BLOCK
        blocks = torch.nn.functional.pad(weight, (0, spare)).view(rows, -1, BLOCK)
        scale = (blocks.abs().amax(-1) / 127).half()
        levels = (blocks / scale.double()[..., None]).round().clamp(-127, 127)
        widened = (levels * scale.double()[..., None]).view(rows, -1)[:, :columns]
        levels = levels.view(rows, -1)[:, :columns]
        tensor, shape = self.put(f"{name}.weight", levels, torch.int8)
        self.put(f"{name}.scale", scale, torch.float16)
        for user in users:
            self.module(user, (1, [{"matrix": tensor, "shape": shape, "scale": f"{name}.scale"}]))
        return widened


def rewrite(model):
    """Every form once; the dense model receives the weights that the lossy forms stand for."""
    made, state = Rewriter(model), model.state_dict()
    attention, mlp = "model.layers.{}.self_attn.{}_proj", "model.layers.{}.mlp.{}_proj"
    made.share_right(
        [attention.format(0, x) for x in "qkv"], "model.layers.0.self_attn.qkv.right.weight"
    )
    made.factorise(attention.format(0, "o"), 36)
    made.factorise(attention.format(1, "k"), 23)
    made.gate(mlp.format(0, "gate"))
    made.permute_input(mlp.format(1, "down"))
    lossy = {mlp.format(0, "up"): made.pivot(mlp.format(0, "up"), 17)}
    lossy[mlp.format(0, "down")] = made.quantise(mlp.format(0, "down"), [mlp.format(0, "down")])
    if model.config.tie_word_embeddings:
        embedding = "model.embed_tokens"
        lossy[embedding] = made.quantise(embedding, [embedding, "lm_head"])
    with torch.no_grad():
        for name, weight in lossy.items():
            state[f"{name}.weight"].copy_(weight)
    return made


def write_folder(folder, base, dense, made):
    config = dense.config.to_dict()
    config.pop("transformers_version", None)
    name = f"LowRank{base}"
    config |= {
        "model_type": f"lowrank_{base.lower()}",
        "architectures": [f"{name}ForCausalLM"],
        "auto_map": {
            "AutoConfig": f"modeling_lowrank.{name}Config",
            "AutoModelForCausalLM": f"modeling_lowrank.{name}ForCausalLM",
        },
        "dtype": "float32",
        "lowrank": {"version": 1, "base_model_type": base.lower(), "modules": made.modules},
    }
    Path(folder, "config.json").write_text(json.dumps(config, indent=2))
    save_file(made.tensors, Path(folder, "model.safetensors"), metadata={"format": "pt"})
    shutil.copy(MODELING, folder)


def load(folder, **options):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=True, output_loading_info=True, **options
    )
    problems = {key: value for key, value in info.items() if value}
    assert not problems, problems
    return model.eval()


def logits_of(model, ids):
    with torch.no_grad():
        return model(ids).logits.float()


def refuses_plain_load(folder):
    with contextlib.suppress(ValueError, EOFError, KeyError):
        transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
        return False
    return True


def check(base, folder, **options):
    dense = make_dense(base, **options)
    made = rewrite(dense)
    write_folder(folder, base, dense, made)
    ids = torch.randint(0, 131, (2, 19))
    expected = logits_of(dense, ids)
    bound = 2e-5 * expected.abs().max().item()

    def agree(model):
        error = (logits_of(model, ids) - expected).abs().max().item()
        assert error <= bound, (base, error, bound)
        return error

    model = load(folder)
    error = agree(model)
    duplicate = copy.deepcopy(model)
    agree(duplicate)
    for parameter in duplicate.parameters():
        torch.nn.init.zeros_(parameter)
    agree(model)
    assert not logits_of(duplicate, ids).any()
    stored = {name: (value.dtype, value.shape) for name, value in made.tensors.items()}
    assert {n: (v.dtype, v.shape) for n, v in model.state_dict().items()} == stored

    again = Path(folder, "again")
    model.save_pretrained(again)
    agree(load(again))
    assert Path(again, MODELING.name).read_bytes() == MODELING.read_bytes()

    choose = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(model.generate(ids, **choose), dense.generate(ids, **choose))

    half = load(folder, dtype=torch.bfloat16)
    widest = logits_of(half, ids)
    assert (widest - expected).norm() < 0.1 * expected.norm()
    assert half.model.norm.weight.dtype == torch.bfloat16

    model.train()
    model(ids, labels=ids).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)

    fresh = transformers.AutoModelForCausalLM.from_config(model.config, trust_remote_code=True)
    assert fresh.state_dict().keys() == stored.keys()
    assert refuses_plain_load(folder)
    print(f"{base} {options}: largest difference {error:.2e}, bound {bound:.2e}")


def main():
    cases = [(base, {"tie_word_embeddings": tied}) for base in BASES for tied in (False, True)]
    cases.append(("Llama", {"attention_bias": True, "mlp_bias": True}))
    cases.append(("Mistral", {"sliding_window": 5}))
    for base, options in cases:
        with tempfile.TemporaryDirectory() as folder:
            check(base, folder, **options)


if __name__ == "__main__":
    main()
