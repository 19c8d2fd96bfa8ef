#!/usr/bin/env python3
"""Writes tests/golden/tokenizer/: a small byte-level BPE, pipelines over it, and expected ids.

    make_tokenizer.py [--whole DIR]

cases.json holds two tokenizer.json (the second lacks some bytes), nasty strings (hexadecimal) and
variants: members that replace those of a base (of its model too), and the ids that the tokenizers
package gives.
--whole writes each variant as a complete tokenizer.json, for check_tokenizer.py.
"""
import argparse
import copy
import json
import os
import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from check_tokenizer import BYTES, CL100K, TEKKEN, nasty

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

TEXT = """The people said that they would not come to the house, and it wasn't the first time.
She'll be there in 1984, they've heard; I'm sure he'd say: "don't!" -- they're 2 or 3 hours late.
for (int i = 0; i < 10; i++) { sum += values[i]; }  // the sum of the values
\t\tdef main():\n\t\t    return 'the\u00e2tre', \"caf\u00e9\", na\u00efve\n\n
\u4e2d\u6587\u5b57\u7b26\u4e2d\u6587 \u65e5\u672c\u8a9e\u306e\u6587\u5b57 \ud55c\uad6d\uc5b4 \U0001f600\U0001f600 \U0001f468\u200d\U0001f469
       and the other thing, the other place, the other people; aaaa aaaaaaaa !!!! ==== ----
"""


def added(first, *tokens):
    base = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    return [dict(base, id=first + i, content=c, **flags) for i, (c, flags) in enumerate(tokens)]


def byte_level(prefix=False, regex=True):
    return dict(type="ByteLevel", add_prefix_space=prefix, trim_offsets=True, use_regex=regex)


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return dict(type="Split", pattern={kind: pattern}, behavior=behavior, invert=invert)


def sequence(*steps):
    return dict(type="Sequence", pretokenizers=list(steps))


def train():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=460, show_progress=False, special_tokens=["<|end|>", "<|start|>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([TEXT], trainer)
    return json.loads(tokenizer.to_str())


def variants(base):
    size = len(base["model"]["vocab"])
    plain = byte_level(regex=False)
    special = added(0, ("<|end|>", {}), ("<|start|>", {}))
    flags = special + added(
        size, ("<l>", dict(lstrip=True)), ("<r>", dict(rstrip=True)), ("<lr>", dict(lstrip=True, rstrip=True)),
        ("word", dict(single_word=True, special=False)), ("<repo>", {}), ("<repo_name>", {}),
        ("<rep", dict(special=False)), ("\n\n", dict(special=False)),
        ("cafe\u0301", dict(normalized=True, special=False)), ("\u4e2d", dict(normalized=True, special=False)))
    nfc = dict(type="NFC")
    return {
        "gpt2": {},
        "prefix": dict(pre_tokenizer=sequence(dict(type="Digits", individual_digits=False), byte_level(True))),
        "smollm": dict(pre_tokenizer=sequence(dict(type="Digits", individual_digits=True), byte_level())),
        "llama3": dict(pre_tokenizer=sequence(split(CL100K % "{1,3}"), plain), model=dict(ignore_merges=True)),
        "qwen2": dict(normalizer=nfc, pre_tokenizer=sequence(split(CL100K % ""), plain)),
        "tekken": dict(pre_tokenizer=sequence(split(TEKKEN), plain), model=dict(ignore_merges=True)),
        "gpt2-pcre": dict(pre_tokenizer=sequence(split("(?:" + GPT2 + ")"), plain)),
        "llama3-pcre": dict(pre_tokenizer=sequence(split("(?:" + CL100K % "{1,3}" + ")"), plain)),
        "flags": dict(normalizer=dict(type="Sequence", normalizers=[nfc]), added_tokens=flags),
        "unknown": dict(base=1, model=dict(unk_token="<|end|>")),
        "fused": dict(base=1, model=dict(unk_token="<|end|>", fuse_unk=True)),
        "lacking": dict(base=1),
        "removed": dict(pre_tokenizer=sequence(split(r"\s+", "Removed"), split(r"[a-f]\S?", "Contiguous"), plain)),
        "previous": dict(pre_tokenizer=sequence(split(r"[\s,]", "MergedWithPrevious"), split("th", kind="String"), plain)),
        "next": dict(pre_tokenizer=sequence(split(r"\p{N}|[^\s\p{L}]", "MergedWithNext"), plain)),
        "inverted": dict(pre_tokenizer=sequence(split(r"[\p{L}']+", "Removed", True), split("e", "MergedWithNext", kind="String"), plain)),
        "lazy": dict(pre_tokenizer=sequence(split(r"(?i:k|th|s|qu)?\S+?(?=\s|\d)".replace(r"\d", r"\p{N}"), "Isolated"), split(r"\P{L}++[^ -/]{1,2}"), plain)),
    }


def lacking(base):
    """Without the space, a lead byte and two others; merges in the older form."""
    lack = copy.deepcopy(base)
    model, gone = lack["model"], ("\u0120", "\u00c3", "Q", "\u0101")
    model["vocab"] = {t: i for t, i in model["vocab"].items() if not any(g in t for g in gone)}
    kept = [m for m in model["merges"] if all(t in model["vocab"] for t in (*m, m[0] + m[1]))]
    model["merges"] = [" ".join(m) for m in kept]
    return lack


def apply(bases, change):
    whole = copy.deepcopy(bases[change.get("base", 0)])
    whole["model"].update(change.get("model", {}))
    whole.update({k: v for k, v in change.items() if k not in ("model", "base")})
    return whole


def strings():
    rng = random.Random(7)
    specials = ["<|end|>", "<|start|>", "<l>", "<r>", "<lr>", "word", "<repo>", "<repo_name>", "<rep", "\n\n"]
    fixed = ["", " ", "the other people", "They've <|end|> said <|start|><|end|>", "a<l> <r>  b \t<lr>\n c",
             "a word, sword wordy word", "<repo_name><repo><repo_nam<rep", "x <r>\n\n\ny", "caf\u00e9 cafe\u0301",
             "\u4e2d\u6587\u5b57\u7b26", "x" * 90 + "ththththth" * 12, "aaaa" * 30, "  12 345\t\n6 \u00bd\u2167 ",
             "".join(map(chr, range(128))), "Qa QQ \u00c3\u00c3 \x01Q", "0\u0661\U00011de0 7"]
    seen = [s.encode() for s in fixed] + [b"".join(BYTES)]
    while len(seen) < 70:
        text = nasty(specials, rng)
        if len(text) < 90:
            seen.append(text)
    return seen


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--whole")
    options = parser.parse_args()
    out = os.path.join(here, "tokenizer")
    os.makedirs(out, exist_ok=True)
    bases, texts = [train()], strings()
    bases.append(lacking(bases[0]))
    cases = dict(bases=bases, strings=[t.hex() for t in texts], variants=[])
    for name, change in variants(bases[0]).items():
        whole = json.dumps(apply(bases, change), ensure_ascii=False)
        oracle = Tokenizer.from_str(whole)
        if options.whole:
            with open(os.path.join(options.whole, name + ".json"), "w") as file:
                file.write(whole)
        ids = [oracle.encode(t.decode("utf-8", errors="replace"), add_special_tokens=False).ids for t in texts]
        cases["variants"].append(dict(name=name, change=change, ids=ids))
    path = os.path.join(out, "cases.json")
    with open(path, "w") as file:
        file.write(json.dumps(cases, separators=(",", ":")) + "\n")
    print(os.path.getsize(path), "bytes,", len(bases[0]["model"]["merges"]), "merges")


if __name__ == "__main__":
    main()
