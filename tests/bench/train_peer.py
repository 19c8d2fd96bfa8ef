#!/usr/bin/env python3
"""Training as a plain PyTorch script does it: the peer of `lowrank train`.

    python train_peer.py MODEL TEXT --steps N --batch N --window N [--factors] [--checkpoint]
        [--threads N]

AdamW over all parameters, or the factors alone, in F32 by the loss of the next token, gradients
clipped at 1, on consecutive windows; with --checkpoint each block is computed again in the backward
pass. Prints tokens per second of the fastest step but the first, the losses, and the peak of
memory, as JSON.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "golden"))
from check_model import load_model, read_tokens  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("text")
    for name, default in (("steps", 4), ("batch", 2), ("window", 256), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--factors", action="store_true")
    parser.add_argument("--checkpoint", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, tokens = load_model(args.model), read_tokens(args.model, args.text)
    model.float().train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not args.factors or ".left." in name or ".right." in name)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if args.checkpoint:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0)
    ids = torch.tensor(tokens[: args.steps * args.batch * args.window])
    losses, seconds = [], []
    for batch in ids.view(args.steps, args.batch, args.window):
        start = time.perf_counter()
        logits = model(batch, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
        losses.append(loss.item())
    rate = args.batch * args.window / min(seconds[1:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"tokens_per_second": rate, "peak_bytes": peak, "losses": losses}))


if __name__ == "__main__":
    main()
