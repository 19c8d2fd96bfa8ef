# Copyright The liblowrank authors.
# SPDX-License-Identifier: Apache-2.0
"""Models whose linear modules are sums of chains, as liblowrank writes them.

    y = bias + sum over terms of scale * F_1 F_2 ... F_k x

config.json names the modules and their operators under "lowrank"; the tensors stand in the
safetensors under the names given there, each once, however many modules share it. Load with

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)

Operators, listed from the left ("shape" is that of the tensor):
    {"matrix": tensor, "shape": [out, in]}      with "scale": tensor, the matrix is I8 and the
                                                scales F16 [out, ceil(in / 32)], one for 32 columns
    {"diagonal": tensor, "shape": [n]}
    {"scatter": tensor, "shape": [n], "size": m}    y[index[i]] = x[i], the other y are zero
    {"gather": tensor, "shape": [n]}                y[i] = x[index[i]]
"""

import json
from functools import partial

import torch
import transformers
from torch import nn
from torch.nn import functional as F

VERSION = 1
BLOCK = 32


class TensorHolder(nn.Module):
    """A step on the path to a tensor that lies outside every replaced module."""


def place_tensor(model, name, shape, dtype=None):
    """Makes the tensor at its dotted name, zero until loaded, unless a sharer already has.

    What has a dtype of its own (indices, I8 and its scales) is a buffer and keeps it on loading.
    Returns how to read it through its owner, where loading and moving a model put new objects.
    """
    *path, leaf = name.split(".")
    owner = model
    for part in path:
        if not hasattr(owner, part):
            owner.add_module(part, TensorHolder())
        owner = getattr(owner, part)
        if not isinstance(owner, nn.Module):
            raise ValueError(f"{name}: {part} is not a module")
    if not hasattr(owner, leaf):
        if dtype is None:
            owner.register_parameter(leaf, nn.Parameter(torch.zeros(shape)))
        else:
            owner.register_buffer(leaf, torch.zeros(shape, dtype=dtype))
    present = getattr(owner, leaf)
    if not isinstance(present, torch.Tensor) or list(present.shape) != list(shape):
        raise ValueError(f"{name}: cannot be a tensor of shape {shape} here")
    return partial(getattr, owner, leaf)


class Matrix:
    def __init__(self, spec, place):
        self.size, columns = spec["shape"]
        dtype = torch.int8 if "scale" in spec else None
        self.weight = place(spec["matrix"], spec["shape"], dtype)
        self.scale = None
        if "scale" in spec:
            blocks = (columns + BLOCK - 1) // BLOCK
            self.scale = place(spec["scale"], [self.size, blocks], torch.float16)

    def rows(self, which, dtype):
        weight = self.weight()[which]
        if self.scale is None:
            return weight
        scale = self.scale()[which].float().repeat_interleave(BLOCK, dim=-1)
        return (weight * scale[..., : weight.shape[-1]]).to(dtype)

    def apply(self, x):
        return F.linear(x, self.rows(slice(None), x.dtype))

    def apply_to_rows(self, rows):
        return rows @ self.rows(slice(None), rows.dtype)


class Diagonal:
    def __init__(self, spec, place):
        (self.size,) = spec["shape"]
        self.values = place(spec["diagonal"], spec["shape"])

    def apply(self, x):
        return x * self.values()

    apply_to_rows = apply


class Scatter:
    def __init__(self, spec, place):
        self.size = spec["size"]
        self.index = place(spec["scatter"], spec["shape"], torch.int32)

    def apply(self, x):
        y = x.new_zeros(*x.shape[:-1], self.size)
        return y.index_copy(-1, self.index().long(), x)


class Gather:
    def __init__(self, spec, place):
        (self.size,) = spec["shape"]
        self.index = place(spec["gather"], spec["shape"], torch.int32)

    def apply(self, x):
        return x.index_select(-1, self.index())


OPERATORS = {"matrix": Matrix, "diagonal": Diagonal, "scatter": Scatter, "gather": Gather}


class LowRankLinear(nn.Module):
    """One module; its own tensors are attributes of it, shared ones may lie elsewhere."""

    def build(self, spec, operator, place):
        self.terms = [
            (term.get("scale", 1), tuple(operator(op) for op in term["ops"]))
            for term in spec["terms"]
        ]
        rows = self.terms[0][1][0].size
        self.added = place(spec["bias"], [rows]) if spec.get("bias") else None

    def forward(self, x):
        tails, total = {(): x}, 0 if self.added is None else self.added()
        for scale, chain in self.terms:
            for first in reversed(range(len(chain))):
                if chain[first:] not in tails:
                    tails[chain[first:]] = chain[first].apply(tails[chain[first + 1 :]])
            total = total + scale * tails[chain]
        return total


class LowRankEmbedding(LowRankLinear):
    """Rows of the same sum, for chains of matrices and diagonals that begin with a matrix."""

    def __init__(self, like):
        super().__init__()
        self.like = like

    def forward(self, ids):
        total = 0
        for scale, chain in self.terms:
            y = chain[0].rows(ids, self.like().dtype)
            for operator in chain[1:]:
                y = operator.apply_to_rows(y)
            total = total + scale * y
        return total


class LowRankMixin:
    """Puts the chains of config.lowrank in the place of a causal model's dense modules."""

    def __init__(self, config):
        super().__init__(config)
        if config.lowrank["version"] != VERSION:
            raise ValueError(f"lowrank version {config.lowrank['version']}, expected {VERSION}")
        # All modules first: a tensor shared between two may lie inside either.
        for name in config.lowrank["modules"]:
            parent, _, leaf = name.rpartition(".")
            owner = self.get_submodule(parent)
            embeds = isinstance(getattr(owner, leaf), nn.Embedding)
            like = partial(getattr, self.model.norm, "weight")
            setattr(owner, leaf, LowRankEmbedding(like) if embeds else LowRankLinear())
        made, place = {}, partial(place_tensor, self)
        for name, spec in config.lowrank["modules"].items():
            self.get_submodule(name).build(spec, partial(self._operator, made), place)

    def _operator(self, made, spec):
        """Equal operators are one object, which is how a common tail is known."""
        key = json.dumps(spec, sort_keys=True)
        if key not in made:
            (kind,) = OPERATORS.keys() & spec.keys()
            made[key] = OPERATORS[kind](spec, partial(place_tensor, self))
        return made[key]

    def get_expanded_tied_weights_keys(self, all_submodels=False):
        """A tied embedding that is a chain is tied by sharing tensors, not by transformers."""
        chains = {f"{name}.weight" for name in self.config.lowrank["modules"]}
        tied = super().get_expanded_tied_weights_keys(all_submodels)
        return {k: v for k, v in tied.items() if k not in chains and v not in chains}


for base in ("Llama", "Mistral", "Qwen2", "Qwen3"):
    config_class = type(
        f"LowRank{base}Config",
        (getattr(transformers, f"{base}Config"),),
        {"__module__": __name__, "model_type": f"lowrank_{base.lower()}"},
    )
    model_class = type(
        f"LowRank{base}ForCausalLM",
        (LowRankMixin, getattr(transformers, f"{base}ForCausalLM")),
        {"__module__": __name__, "config_class": config_class},
    )
    globals().update({config_class.__name__: config_class, model_class.__name__: model_class})
