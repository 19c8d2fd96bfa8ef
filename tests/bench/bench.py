#!/usr/bin/env python3
"""Speed against the machine's own limit and against peers, all in one run.

Each round measures, one after the other: SGEMM, `lowrank eval`, transformers F32 on the same
windows (where --peers names a Python that has it), batched sampling; then tokenizing, one thread,
beside the tokenizers package. The fastest of the rounds
counts, the spread is kept beside it. Perplexities must agree to four digits. Prints the figures
and appends them as one line to results.jsonl. The formulas stand in README.md beside this file.
"""

import argparse
import csv
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def run(*words, **more):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **more)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}: {done.stderr.strip()}")
    return done.stdout.strip()


def sgemm(args):
    return float(run(Path(args.build) / "sgemm", args.threads))


def evaluate(args):
    out = run(args.command, "eval", args.model, "--text", args.text, "--window", args.window,
              "--windows", args.windows, "--threads", args.threads, "--json", "--quiet")  # fmt: skip
    return json.loads(out.splitlines()[-1])


def evaluate_peer(args):
    out = run(args.peers, HERE.parent / "golden/check_model.py", "ppl", args.model, args.text,
              "--window", args.window, "--windows", args.windows, "--threads", args.threads)  # fmt: skip
    found = json.loads(out)
    return found["results"][0] | {k: found[k] for k in ("torch", "transformers")}


def tokenize(args):
    """Our tokenizer and the tokenizers package on the text, one thread each, same ids."""
    out = run(args.peers, HERE.parent / "golden/check_tokenizer.py", "--speed", "--library",
              HERE.parent.parent / "lib/liblowrank.so", args.model, args.text)  # fmt: skip
    return json.loads(out.splitlines()[-1])


def compress(args):
    """Seconds of collecting and factorising by `lowrank compress` and by a plain script."""
    sizes = ["--samples", 32, "--window", args.window, "--keep", 0.8, "--threads", args.threads]
    with tempfile.TemporaryDirectory() as folder:
        out = run(args.command, "compress", args.model, "--out", Path(folder) / "out", "--text",
                  args.text, "--self-text", 0, "--storage", "two-factor", *sizes, "--json", "--quiet")  # fmt: skip
    seconds = json.loads(out.splitlines()[-1])["seconds"]
    theirs = json.loads(run(args.peers, HERE / "compress_peer.py", args.model, args.text, *sizes))
    ours = {stage: seconds[stage] for stage in ("collect", "factorise")}
    return {"ours": ours, "torch": theirs,
            "over_torch": sum(theirs.values()) / sum(ours.values())}  # fmt: skip


FACTORS = ["--train", "*.left.weight", "--train", "*.right.weight"]
TRAININGS = {  # name: whether factors alone, our options, the peer's
    "all, kept": (False, ["--keep-activations"], []),
    "all, again": (False, [], ["--checkpoint"]),
    "factors, kept": (True, ["--keep-activations", *FACTORS], ["--factors"]),
    "factors, again": (True, FACTORS, ["--factors", "--checkpoint"]),
}


def train(args):
    """AdamW, 2 x 256 tokens a step, beside PyTorch: all parameters of the model, and the factors
    alone of one at keep 0.8, with activations kept and computed again. The fastest step of two
    rounds counts, for each side, as the fastest product does for the SGEMM around them."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        small = Path(scratch) / "small"
        run(args.command, "compress", args.model, "--out", small, "--method", "svd", "--keep", 0.8,
            "--storage", "two-factor", "--self-text", 0, "--dtype", "f32", "--quiet")  # fmt: skip
        for name, (is_small, ours, theirs) in TRAININGS.items():
            model = small if is_small else args.model
            rounds = [train_model(args, model, ours, theirs) for _ in range(2)]
            mine = max((found["ours"] for found in rounds), key=lambda r: r["tokens_per_second"])
            peer = max((found["torch"] for found in rounds), key=lambda r: r["tokens_per_second"])
            info = describe(args, model)
            flops = training_flops_per_token(info, 256, is_small)
            again = 0 if "--keep-activations" in ours else blocks_flops_per_token(info, 256)
            rate = mine["tokens_per_second"] / mine["sgemm_flops"]
            found[name] = {"ours": mine, "torch": peer,
                           "over_torch": mine["tokens_per_second"] / peer["tokens_per_second"],
                           "share_of_sgemm": flops * rate,
                           "share_with_repeats": (flops + again) * rate}  # fmt: skip
    return found


def step_rate(table, tokens):
    """Tokens per second of the fastest step but the first, whose memory is new; as the peer."""
    with open(table, newline="") as rows:
        seconds = [float(row["seconds"]) for row in csv.DictReader(rows)]
    return tokens / min(seconds[1:])


def train_model(args, model, ours, theirs):
    sizes = ["--steps", 6, "--batch", 2, "--window", 256, "--threads", args.threads]
    before = sgemm(args)
    with tempfile.TemporaryDirectory() as folder:
        out = json.loads(run(args.command, "train", model, "--out", Path(folder) / "out", "--text",
                             args.text, *sizes, "--lr", 1e-5, "--eval-windows", 1, *ours, "--json",
                             "--quiet").splitlines()[-1])  # fmt: skip
        rate = step_rate(Path(folder) / "out/losses.csv", 2 * 256)
    mine = {"tokens_per_second": rate, "peak_bytes": out["peak_bytes"],
            "sgemm_flops": max(before, sgemm(args))}  # fmt: skip
    peer = json.loads(run(args.peers, HERE / "train_peer.py", model, args.text, *sizes, *theirs))
    peer.pop("losses")
    return {"ours": mine, "torch": peer}


def decode(args):
    """One stream beside the rate at which the same file can be read, dense and factorised."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for dtype in ("f32", "bf16", "q8_0"):
            folder = Path(scratch) / dtype
            run(args.command, "convert", args.model, "--out", folder, "--dtype", dtype, "--quiet")
            found[dtype] = decode_folder(args, folder)
        for dtype in ("f32", "bf16", "q8_0"):
            small = Path(scratch) / f"small-{dtype}"
            run(args.command, "compress", args.model, "--out", small, "--method", "svd", "--keep",
                0.8, "--self-text", 0, "--dtype", dtype, "--quiet")  # fmt: skip
            found[f"{dtype}, keep 0.8"] = decode_folder(args, small)
    return found


def decode_folder(args, folder):
    weights = folder / "model.safetensors"
    rates, limits = [], []
    for _ in range(args.rounds):
        limits.append(float(run(Path(args.build) / "read", weights, args.threads)))
        out = run(Path(args.build) / "sampling", folder, args.threads, 1, 128)
        rates.append(json.loads(out)["tokens_per_second"])
    return {"tokens_per_second": fastest(rates), "read_bytes_per_second": fastest(limits),
            "share_of_read": max(rates) * weights.stat().st_size / max(limits)}  # fmt: skip


def kernel(args):
    """The kernel of decoding beside SGEMM on the same shapes, one thread, by rows."""
    found = {}
    for rows in (16, 32, 64):
        rounds = [json.loads(run(Path(args.build) / "kernel", rows)) for _ in range(args.rounds)]
        best = {name: max(each[name] for each in rounds) for name in rounds[0]}
        found[rows] = best | {"share": best["flops"] / best["sgemm_flops"]}
    return found


def blocks_flops_per_token(info, window):
    """Of the linears and causal attention, forward only."""
    pairs = (window + 1) / 2  # keys a token sees, on average
    attention = 2 * info["layers"] * info["attention_heads"] * info["head_size"] * pairs
    return 2 * (info["linear_parameters"] + attention)


def head_flops_per_token(info, window):
    return 2 * info["vocabulary_size"] * info["hidden_size"] * (window - 1) / window


def flops_per_token(info, window):
    return blocks_flops_per_token(info, window) + head_flops_per_token(info, window)


def training_flops_per_token(info, window, head_is_frozen):
    """A forward and a backward of twice its work; a frozen head has no derivative by its weight."""
    head = head_flops_per_token(info, window)
    return 3 * flops_per_token(info, window) - (head if head_is_frozen else 0)


def describe(args, model):
    return json.loads(run(args.command, "info", model, "--json").splitlines()[-1])


def commit():
    words = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    found = subprocess.run(words, capture_output=True, text=True)
    return found.stdout.strip() or "no repository"


def cpu():
    with open("/proc/cpuinfo") as lines:
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def fastest(values):
    return {"best": max(values), "worst": min(values), "rounds": len(values)}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("command", "build", "model", "text"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--peers", help="a Python with torch, transformers and gguf")
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure, by commas")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=32)
    args = parser.parse_args()
    args.parts = args.parts.split(",")
    if not args.model or not args.text:
        parser.error("say what to measure: make bench MODEL=model TEXT=file")
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no part {', '.join(unknown)}, expected some of {', '.join(PARTS)}")
    return args


def measure(args):
    """Rounds of what the other parts are held against, one after the other."""
    found = {name: [] for name in ("sgemm", "eval", "transformers", "sampling")}
    for _ in range(args.rounds):
        found["sgemm"].append(sgemm(args))
        if "eval" in args.parts:
            found["eval"].append(evaluate(args))
            if args.peers:
                found["transformers"].append(evaluate_peer(args))
        if "sampling" in args.parts:
            out = run(Path(args.build) / "sampling", args.model, args.threads, args.rows, 64)
            found["sampling"].append(json.loads(out))
    return found


# Each part prints its lines and says what of it is kept.


def report_eval(args, found):
    rates = [result["tokens_per_second"] for result in found["eval"]]
    sgemm = max(found["sgemm"])
    share = max(rates) * flops_per_token(describe(args, args.model), args.window) / sgemm
    print(f"eval                  {max(rates):8.1f} tokens/s, {share:.0%} of SGEMM")
    kept = {key: found["eval"][0][key] for key in ("windows", "perplexity")}
    kept |= {"eval_tokens_per_second": fastest(rates), "eval_share_of_sgemm": share}
    if not args.peers:
        print("transformers F32       skipped: no PEERS=python given")
        return kept
    peers = found["transformers"]
    theirs = [result["tokens_per_second"] for result in peers]
    over = max(rates) / max(theirs)
    print(f"transformers F32      {max(theirs):8.1f} tokens/s, we are {over:.2f}x")
    if abs(peers[0]["perplexity"] / kept["perplexity"] - 1) > 1e-4:
        sys.exit(f"perplexity {kept['perplexity']}, transformers {peers[0]['perplexity']}")
    return kept | {"transformers_f32_tokens_per_second": fastest(theirs),
                   "eval_over_transformers": over,
                   "peers": {k: peers[0][k] for k in ("torch", "transformers")}}  # fmt: skip


def report_sampling(args, found):
    sampled = [result["tokens_per_second"] for result in found["sampling"]]
    print(f"sampling, {args.rows:3} rows    {max(sampled):8.1f} tokens/s")
    return {"sampling_rows": args.rows, "sampling_tokens_per_second": fastest(sampled)}


def report_kernel(args, _):
    shares = kernel(args)
    for rows, work in shares.items():
        print(f"kernel, {rows} rows       {work['flops'] / 1e9:8.1f} GFLOP/s on one thread, "
              f"{work['share']:.0%} of SGEMM on the same shapes")  # fmt: skip
    return {"kernel": shares}


def report_decode(args, _):
    rates = decode(args)
    for name, work in rates.items():
        print(f"decode {name:14} {work['tokens_per_second']['best']:8.1f} tokens/s, "
              f"{work['share_of_read']:.0%} of reading the file")
    return {"decode": rates}


def report_tokenize(args, _):
    words = tokenize(args)
    print(f"tokenize, 1 thread    {words['bytes_per_second'] / 1e6:8.1f} MB/s, "
          f"{words['over_tokenizers']:.1f}x tokenizers {words['tokenizers']}")  # fmt: skip
    return {"tokenize": words}


def report_compress(args, _):
    work = compress(args)
    print(f"compress              {sum(work['ours'].values()):8.1f} s, "
          f"{work['over_torch']:.2f}x as fast as plain PyTorch")  # fmt: skip
    return {"compress": work}


def report_train(args, _):
    trained = train(args)
    for name, work in trained.items():
        ours, theirs = work["ours"], work["torch"]
        print(f"train {name:15} {ours['tokens_per_second']:8.1f} tokens/s, "
              f"{work['share_of_sgemm']:.0%} of SGEMM ({work['share_with_repeats']:.0%} with "
              f"what is computed again), {ours['peak_bytes'] / 1e9:.2f} GB; "
              f"PyTorch {theirs['tokens_per_second']:.1f}, {theirs['peak_bytes'] / 1e9:.2f} GB")
    return {"train": trained}


PARTS = {  # name: what measures it, whether it is nothing without a peer
    "eval": (report_eval, False),
    "sampling": (report_sampling, False),
    "kernel": (report_kernel, False),
    "decode": (report_decode, False),
    "tokenize": (report_tokenize, True),
    "compress": (report_compress, True),
    "train": (report_train, True),
}


def main():
    args = parse_arguments()
    found = measure(args)
    build = json.loads(run(Path(args.build) / "sampling", args.model, args.threads, 1, 1))["build"]
    record = {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "threads": args.threads,
        "build": build,
        "model": Path(args.model).name,
        "text": Path(args.text).name,
        "window": args.window,
        "sgemm_flops": fastest(found["sgemm"]),
    }
    print(f"SGEMM 4096^3          {max(found['sgemm']) / 1e9:8.1f} GFLOP/s on {args.threads} threads")
    for part in args.parts:
        report, needs_peers = PARTS[part]
        if args.peers or not needs_peers:
            record |= report(args, found)
        else:
            print(f"{part:22} skipped: no PEERS=python given")
    with open(HERE / "results.jsonl", "a") as history:
        history.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
