#!/usr/bin/env python3
"""Writes tests/golden/sentencepiece/: a small SentencePiece BPE as GGUF and as tokenizer.json.

    make_sentencepiece.py [--whole DIR | --written tokenizer.json [--fuzz N]]

tiny.gguf holds pieces, scores and types; cases.json the same vocabulary as tokenizer.json (merges
made the way transformers makes them), nasty strings (hexadecimal), the ids that sentencepiece gives,
and for each variant of tokenizer.json (members that replace those of the base, of its model too) the
ids and texts of the tokenizers package; texts are those of valid UTF-8. --whole writes each variant
as a complete tokenizer.json, for check_tokenizer.py. --written compares sentencepiece with a
tokenizer.json that the library made for tiny.gguf, read by the tokenizers package.
"""
import argparse
import io
import json
import os
import random

import gguf
import sentencepiece
from tokenizers import Tokenizer

from check_tokenizer import BYTES, nasty
from make_tokenizer import TEXT, added, apply, split

MARK = "\u2581"
SPECIALS = ["<unk>", "<s>", "</s>", "<|im|>", "<tool>"]
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def train():
    out = io.BytesIO()
    lines = [line for line in (TEXT + "banana bananas abababab aaaaaaaa ananas\n" * 3).split("\n") if line]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, model_type="bpe", vocab_size=520, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True,
        allow_whitespace_only_pieces=True, character_coverage=0.985, control_symbols=["<|im|>"],
        user_defined_symbols=["<tool>"], num_threads=1, minloglevel=2)
    return sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())


def type_of(model, id):
    if model.is_unknown(id):
        return UNKNOWN
    if model.is_control(id):
        return CONTROL
    if model.is_byte(id):
        return BYTE
    return USER if model.id_to_piece(id) in SPECIALS else NORMAL


def write_gguf(path, pieces, scores, types):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(pieces)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def merges_of(pieces, scores, types):
    """Every cut of every normal piece into two, by score, then by length, as transformers has it."""
    vocab = {p: i for i, p in enumerate(pieces)}
    normal = {p for p, t in zip(pieces, types) if t == NORMAL}
    found = []
    for piece in normal:
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in normal and right in normal:
                found.append((scores[vocab[piece]], len(left), left, right))
    return [[left, right] for _, _, left, right in sorted(found, reverse=True)]


def replace(before, after):
    return dict(type="Replace", pattern=dict(String=before), content=after)


def sequence(key, *items):
    return {"type": "Sequence", key: list(items)}


def base_of(pieces, scores, types):
    specials = [(p, dict(special=t != USER)) for p, t in zip(pieces, types) if t in (UNKNOWN, CONTROL, USER)]
    strip = dict(type="Strip", content=" ", start=1, stop=0)
    return dict(
        version="1.0", truncation=None, padding=None, added_tokens=added(0, *specials),
        normalizer=sequence("normalizers", dict(type="Prepend", prepend=MARK), replace(" ", MARK)),
        pre_tokenizer=None, post_processor=None,
        decoder=sequence("decoders", replace(MARK, " "), dict(type="ByteFallback"), dict(type="Fuse"), strip),
        model=dict(type="BPE", dropout=None, unk_token="<unk>", continuing_subword_prefix=None,
                   end_of_word_suffix=None, fuse_unk=True, byte_fallback=True, ignore_merges=False,
                   vocab={p: i for i, p in enumerate(pieces)}, merges=merges_of(pieces, scores, types)))


def metaspace(**more):
    return dict(normalizer=None, pre_tokenizer=dict(type="Metaspace", replacement=MARK, **more))


def variants(base):
    vocab = base["model"]["vocab"]
    lacking = {p: i for p, i in vocab.items() if p not in ("<0xE2>", "<0x01>", "<0xF0>")}
    # A merge across words: then texts may not be cut at spaces.
    across = dict(vocab, **{"s" + MARK: 520, "s" + MARK + "t": 521})
    joining = dict(vocab=across, merges=[["s", MARK], ["s" + MARK, "t"]] + base["model"]["merges"])
    flags = base["added_tokens"] + added(
        520, ("<l>", dict(lstrip=True)), ("<r>", dict(rstrip=True)), ("word", dict(normalized=True, special=False)))
    nothing = sequence("decoders", *base["decoder"]["decoders"][:3])
    return {
        "legacy": {},
        "first": metaspace(prepend_scheme="first", split=False),
        "always": metaspace(prepend_scheme="always", split=True),
        "older": metaspace(add_prefix_space=True),
        "never": metaspace(prepend_scheme="never", add_prefix_space=False),
        "no-prefix": dict(normalizer=replace(" ", MARK), decoder=nothing),
        "flags": dict(added_tokens=flags),
        "flags-first": dict(added_tokens=flags, **metaspace(prepend_scheme="first", split=False)),
        "lacking": dict(model=dict(vocab=lacking)),
        "unfused": dict(model=dict(vocab=lacking, fuse_unk=False)),
        "no-bytes": dict(model=dict(byte_fallback=False)),
        "nothing": dict(model=dict(byte_fallback=False, unk_token=None)),
        "joining": dict(model=joining),
        "replaced": dict(normalizer=sequence("normalizers", replace("th", "\u00fe"), dict(type="Prepend", prepend=MARK),
                                             dict(type="NFC"), replace(" ", MARK))),
        "whole": dict(model=dict(ignore_merges=True), **metaspace(prepend_scheme="always")),
        "steps": dict(normalizer=sequence("normalizers", dict(type="NFC")),
                      pre_tokenizer=sequence("pretokenizers", split(r"\s+", "MergedWithNext"),
                                             dict(type="Metaspace", replacement=MARK, prepend_scheme="first"))),
    }


def strings():
    rng = random.Random(11)
    words = SPECIALS + ["<l>", "<r>", "word", MARK, " ", "   ", "banana", "abab", "th", "the", "\U0001f600", "<0x41>"]
    fixed = ["", " ", "  ", "the other people", " the", "   the  other ", MARK, MARK + " " + MARK, "a" + MARK + "b",
             "<s>", "<s> the</s>", "a<tool>b <|im|> c<s><s>", "a<l> <r>  b \t<r>", "a word, sword", "\n", "\t\n x",
             "\u4e2d\u6587\u5b57\u7b26", "\u4e2d\u6587 \u9f98\u9f98", "\U0001f600 \U0001f9ff\U0001f9ff", "cafe\u0301 caf\u00e9",
             "a\u0301\u0300", "x" * 90 + "banana" * 12, "aaaa" * 30, "ababababa" * 20, "".join(map(chr, range(128))),
             "<0x0A><0x41>", "they've the\u00e2tre", "the s" + MARK + "t is to", " " * 70, "\ufffd"]
    seen = [s.encode() for s in fixed] + [b"".join(BYTES)]
    while len(seen) < 70:
        text = nasty(words, rng)
        if len(text) < 90:
            seen.append(text)
    return seen


def by_sentencepiece(model, text):
    """Between special tokens each part is encoded by itself."""
    ids, rest = [], text
    while rest:
        found = [(rest.find(s), -len(s), s) for s in SPECIALS if s in rest]
        at, _, special = min(found, default=(len(rest), 0, ""))
        ids += model.encode(rest[:at]) if at else []
        ids += [model.piece_to_id(special)] if special else []
        rest = rest[at + len(special):]
    return ids


def texts_of(oracle, ids):
    """With and without special tokens; None where bytes make no text, or one that JSON readers refuse,
    and for added tokens that are normalised, which the package prints so."""
    if any(oracle.get_added_tokens_decoder()[i].normalized for i in ids if i in oracle.get_added_tokens_decoder()):
        return [None, None]
    texts = [oracle.decode(ids, skip_special_tokens=skip) for skip in (False, True)]
    return [None if "\ufffd" in t or "\0" in t else t for t in texts]


def compare(model, path, count):
    oracle, rng, wrong = Tokenizer.from_file(path), random.Random(5), 0
    for _ in range(count):
        text = nasty(["banana", "the", " th", "abab", "aaa"] + SPECIALS, rng).decode(errors="replace")
        wrong += oracle.encode(text, add_special_tokens=False).ids != by_sentencepiece(model, text)
    print(count, "strings,", wrong, "differ")


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--whole")
    parser.add_argument("--written")
    parser.add_argument("--fuzz", type=int, default=20000)
    options = parser.parse_args()
    out = os.path.join(here, "sentencepiece")
    os.makedirs(out, exist_ok=True)
    model, texts = train(), strings()
    if options.written:
        return compare(model, options.written, options.fuzz)
    ids = range(model.vocab_size())
    pieces, scores = [model.id_to_piece(i) for i in ids], [model.get_score(i) for i in ids]
    types = [type_of(model, i) for i in ids]
    write_gguf(os.path.join(out, "tiny.gguf"), pieces, scores, types)
    base, valid = base_of(pieces, scores, types), [t.decode("utf-8", errors="replace") for t in texts]
    cases = dict(base=base, strings=[t.hex() for t in texts], variants=[],
                 sentencepiece=[by_sentencepiece(model, t) for t in valid])
    for name, change in variants(base).items():
        whole = json.dumps(apply([base], change), ensure_ascii=False)
        oracle = Tokenizer.from_str(whole)
        if options.whole:
            with open(os.path.join(options.whole, name + ".json"), "w") as file:
                file.write(whole)
        found = [oracle.encode(t, add_special_tokens=False).ids for t in valid]
        cases["variants"].append(dict(name=name, change=change, ids=found, texts=[texts_of(oracle, f) for f in found]))
    path = os.path.join(out, "cases.json")
    with open(path, "w") as file:
        file.write(json.dumps(cases, separators=(",", ":"), ensure_ascii=False) + "\n")
    same = sum(a == b for a, b in zip(cases["variants"][0]["ids"], cases["sentencepiece"]))
    print(os.path.getsize(path), "bytes,", len(base["model"]["merges"]), "merges,", same, "of", len(texts),
          "as sentencepiece")


if __name__ == "__main__":
    main()
