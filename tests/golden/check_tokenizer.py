#!/usr/bin/env python3
"""Compares the library's tokenizer with the tokenizers package: texts, nasty strings, fuzz, speed.

    check_tokenizer.py --library liblowrank.so MODEL.gguf|tokenizer.json [TEXT ...]

For a GGUF the oracle is built by hand from its tokens, merges, types and the pipeline that
tokenizer.ggml.pre names. Needs tokenizers, and gguf for a GGUF.
"""
import argparse
import ctypes
import json
import os
import random
import sys
import time

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")

TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
          r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

PIECES = [
    "the", " The", "hello", " world", "'s", "'S", "'re", "'LL", "'\u017f", "'ve", "'d", "'x", "don't",
    " ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", " \n ", "\x0b", "\x0c", "\x85", "\u00a0", "\u1680",
    "\u2028", "\u2029", "\u3000", "\u180e", "\u200b", "\u200d", "\ufeff", "\u202f", "\u2007",
    "\x00", "\x01", "\x04", "\x13", "\x1c", "\x1f", "\x7f", "\x80", "\x9f", "\u00ad",
    "0", "1", "42", "2024", " 7", "\u00bd", "\u00b2", "\u2460", "\u2167", "\u0667", "\u0966", "\u3007",
    "\u4e09", "\U0001d7d9", "\U00011de0", "\U00016ff4", "\U00010107",
    "\u4e2d\u6587", "\u65e5\u672c\u8a9e", "\ud55c\uad6d\uc5b4", "\u0e44\u0e17\u0e22", "\u0641\u0627",
    "caf\u00e9", "cafe\u0301", "\u00e5", "a\u030a", "\u212b", "\u212a", "q\u0323\u0307", "q\u0307\u0323",
    "\u1e9b\u0323", "\u0344", "\u0958", "\ufb01", "\u1100\u1161\u11a8", "\uac00\u11a8", "a\u0315\u0300\u05ae",
    "a\u1ac0\u0334", "\U00011935\U00011930", "\u0301", "\u0338\u0338",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\u2764\ufe0f", "\U0001f44d\U0001f3fd",
    ".", ",", "!!", "...", "-->", "{}", "();", "\"", "`", "_", "__init__", "x_1", "\\n", "/", "@#$%^&*",
    "\u1c89", "\ua7cb", "\U00010d40", "\U0001e5f0", "\u0378", "\ue000", "\U000f0000", "\U0010ffff", "\ufffe",
    "camelCase", "HTTPServer", "ABC", " XmlId", "\u01c5", "\u02b0A", "\u4e2dA", "\u4e2dAB\u4e2dC", "\u0301A", " \u0301a",
    "//", "/\n", "\u00c9\u00e9", "\u0410\u0431\u0412", "\u10d0\u1c90", "\U00010400\U00010428", "\U0001e900\U0001e922",
    "\ufffd", "\ufffd\ufffd", "\u00aa", "\u02b0", "\u0345", "\u20ac", "\u2014",
]
BYTES = [
    b"\x80", b"\xbf", b"\xc0\x80", b"\xc1\xbf", b"\xc2", b"\xc3\x28", b"\xe0\x80\x80", b"\xe0\x9f\xbf",
    b"\xe0\xa0", b"\xe2\x82", b"\xe2\x28\xa1", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xed\xa0\x80\xed\xb0\x80",
    b"\xf0\x80\x80\x80", b"\xf0\x8f\xbf\xbf", b"\xf0\x90\x80", b"\xf0\x9f\x98", b"\xf0\x9f", b"\xf0",
    b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xfe", b"\xff", b"\xff\xfe\xfd",
]


def pipeline(name):
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bare = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = lambda digits: pre_tokenizers.Split(Regex(CL100K % digits), "isolated")
    return {
        "gpt-2": (None, byte_level, False),
        "gpt2": (None, byte_level, False),
        "smollm": (None, pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level]), False),
        "llama-bpe": (None, pre_tokenizers.Sequence([split("{1,3}"), bare]), True),
        "llama3": (None, pre_tokenizers.Sequence([split("{1,3}"), bare]), True),
        "qwen2": (normalizers.NFC(), pre_tokenizers.Sequence([split(""), bare]), False),
        "tekken": (None, pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(TEKKEN), "isolated"), bare]), True),
    }[name]


def oracle_from_gguf(path):
    import gguf

    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    normalizer, pre, ignore = pipeline(fields["tokenizer.ggml.pre"].contents())
    oracle = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges, ignore_merges=ignore))
    if normalizer:
        oracle.normalizer = normalizer
    oracle.pre_tokenizer = pre
    oracle.decoder = decoders.ByteLevel()
    types = fields["tokenizer.ggml.token_type"].contents()
    oracle.add_special_tokens([AddedToken(t, normalized=False, special=True)
                               for t, k in zip(tokens, types) if k in (2, 3)])
    oracle.add_tokens([AddedToken(t, normalized=False) for t, k in zip(tokens, types) if k == 4])
    return oracle


class Library:
    def __init__(self, library, path):
        self.c = ctypes.CDLL(library)
        self.c.lr_last_error.restype = ctypes.c_char_p
        self.handle = ctypes.c_void_p()
        started = time.perf_counter()
        self.check(self.c.lr_tokenizer_open(ctypes.byref(self.handle), path.encode()))
        self.open_seconds = time.perf_counter() - started

    def check(self, status):
        if status < 0:
            raise RuntimeError(self.c.lr_last_error().decode(errors="replace"))

    def encode(self, data, room=None):
        room = 4 * len(data) + 16 if room is None else room
        ids, count = (ctypes.c_int32 * room)(), ctypes.c_size_t()
        self.check(self.c.lr_tokenizer_encode(self.handle, data, ctypes.c_size_t(len(data)), ids,
                                              ctypes.c_size_t(room), ctypes.byref(count)))
        return ids[:count.value]

    def seconds(self, data):
        ids, count = (ctypes.c_int32 * (len(data) + 16))(), ctypes.c_size_t()
        started = time.perf_counter()
        self.check(self.c.lr_tokenizer_encode(self.handle, data, ctypes.c_size_t(len(data)), ids,
                                              ctypes.c_size_t(len(data) + 16), ctypes.byref(count)))
        return time.perf_counter() - started

    def decode(self, ids, skip):
        given, size = (ctypes.c_int32 * len(ids))(*ids), ctypes.c_size_t()
        call = self.c.lr_tokenizer_decode
        self.check(call(self.handle, given, ctypes.c_size_t(len(ids)), skip, None, ctypes.c_size_t(0),
                        ctypes.byref(size)))
        text = ctypes.create_string_buffer(size.value + 1)
        self.check(call(self.handle, given, ctypes.c_size_t(len(ids)), skip, text, size,
                        ctypes.byref(size)))
        return text.raw[:size.value]


class Comparison:
    def __init__(self, ours, oracle):
        self.ours, self.oracle, self.done, self.wrong = ours, oracle, 0, 0
        self.is_byte_level = isinstance(oracle.decoder, decoders.ByteLevel)
        # The package decodes an added token through the byte alphabet, or prints it normalised; we
        # print it as it is.
        self.odd = {i for i, t in oracle.get_added_tokens_decoder().items()
                    if not t.content.isascii() or (t.normalized and not self.is_byte_level)}

    def __call__(self, data):
        text = data.decode("utf-8", errors="replace")
        expected = self.oracle.encode(text, add_special_tokens=False).ids
        found = self.ours.encode(data)
        self.done += 1
        same = found == expected
        for skip in (0, 1) if self.odd.isdisjoint(expected) else ():
            decoded = self.oracle.decode(expected, skip_special_tokens=bool(skip))
            if "\ufffd" in decoded and not self.is_byte_level:
                continue  # where bytes make no text the package has a mark for each, we have the bytes
            same &= self.ours.decode(found, skip).decode("utf-8", errors="replace") == decoded
        if not same:
            self.wrong += 1
            if self.wrong <= 10:
                first = next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), -1)
                print("DIFFERS", data[:100], len(data), "at", first, found[:24], expected[:24])


def nasty(words, rng):
    kinds = PIECES + words * 3
    parts = []
    for _ in range(rng.randint(1, 14)):
        roll = rng.random()
        if roll < 0.08:
            parts.append(rng.choice(BYTES))
        elif roll < 0.16:
            code = rng.choice([rng.randrange(0x250), rng.randrange(0x3000), rng.randrange(0x110000)])
            parts.append(chr(code if not 0xD800 <= code < 0xE000 else 0x4E00).encode())
        elif roll < 0.2:
            word = rng.choice(kinds).encode()
            parts.append(word[rng.randint(0, len(word)):])
        elif roll < 0.24:
            word = rng.choice(kinds).encode()
            parts.append(word[:rng.randint(0, len(word))])
        elif roll < 0.27:
            parts.append(rng.choice(kinds).encode() * rng.randint(2, 60))
        else:
            parts.append(rng.choice(kinds).encode())
    return b"".join(parts)


def speed(ours, oracle, name):
    """Fastest of seven in turn; the package by its quickest call, which leaves offsets out."""
    data = open(name, "rb").read()
    text = data.decode("utf-8", errors="replace")
    mine, theirs = [], []
    for _ in range(7):
        mine.append(ours.seconds(data))
        started = time.perf_counter()
        found = oracle.encode_batch_fast([text], add_special_tokens=False)[0]
        theirs.append(time.perf_counter() - started)
    if found.ids != ours.encode(data):
        sys.exit(f"{name}: other ids than the tokenizers package gives")
    print(json.dumps({"bytes_per_second": len(data) / min(mine), "over_tokenizers": min(theirs) / min(mine),
                      "worst_over_tokenizers": min(theirs) / max(mine), "tokenizers": tokenizers.__version__}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", required=True)
    parser.add_argument("--fuzz", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip-long", action="store_true", help="no words of a megabyte")
    parser.add_argument("--speed", action="store_true", help="only the speed on one text, as JSON")
    parser.add_argument("model")
    parser.add_argument("texts", nargs="*")
    options = parser.parse_intermixed_args()
    ours = Library(options.library, options.model)
    is_gguf = options.model.endswith(".gguf")
    oracle = oracle_from_gguf(options.model) if is_gguf else Tokenizer.from_file(options.model)
    if options.speed:
        return speed(ours, oracle, options.texts[0])
    print(f"open {ours.open_seconds * 1e3:.1f} ms")
    compare, rng = Comparison(ours, oracle), random.Random(options.seed)
    added = [t.content for t in oracle.get_added_tokens_decoder().values()]
    for piece in PIECES + added:
        compare(piece.encode())
    for piece in BYTES:
        compare(piece)
        compare(b"a" + piece + b"b")
    for _ in range(options.fuzz):
        compare(nasty(added, rng))
    for name in options.texts:
        data = open(name, "rb").read()
        compare(data)
        text = data.decode("utf-8", errors="replace")
        best = min(ours.seconds(data) for _ in range(5))
        theirs = []
        for _ in range(3):
            started = time.perf_counter()
            oracle.encode(text, add_special_tokens=False)
            theirs.append(time.perf_counter() - started)
        print(f"{name}: {len(data) / best / 1e6:.1f} MB/s, tokenizers "
              f"{len(data) / min(theirs) / 1e6:.2f} MB/s, {min(theirs) / best:.1f}x")
    million = 1 << 20
    long = [] if options.skip_long else [
        b"a" * million, b"7" * million, b"!" * million, b" " * million, b"\n" * million,
        bytes(rng.choice(b"etaoinshrdlu") for _ in range(million)), b"'" * million,
        ("\u4e2d" * (million // 3)).encode(), b"\xff" * (million // 8)]
    for data in long:
        compare(data)
        print(f"{data[:6]!r}... {len(data)} bytes: {ours.seconds(data) * 1e3:.0f} ms")
    print(f"{compare.done} strings, {compare.wrong} differ")
    return compare.wrong > 0


if __name__ == "__main__":
    sys.exit(main())
