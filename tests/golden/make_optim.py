"""Ten steps of torch's optimizers on two small parameters.

    python make_optim.py          writes files/optim.safetensors (torch 2.15.0, safetensors 0.8.0)

`gradients.0` [10, 6, 5] and `gradients.1` [10, 7] are what each step is given, `start.0` and
`start.1` where it starts; `<case>.0` and `<case>.1` hold the values behind every step. The cases are
those of tests/unit/test_optimizer.c.
"""
import math
import pathlib

import torch
from safetensors.torch import save_file

STEPS = 10
SHAPES = [(6, 5), (7,)]

torch.manual_seed(11)
start = [torch.randn(shape) for shape in SHAPES]
gradients = [torch.randn(STEPS, *shape) * torch.logspace(-2, 1, STEPS).view(-1, *[1] * len(shape))
             for shape in SHAPES]


def linear(step, warm_up=3, steps=8, final=0.1):
    if step < warm_up:
        return step / warm_up
    return max(final, final + (1 - final) * (steps - step) / (steps - warm_up))


def cosine(step, warm_up=2, steps=10, final=0.0):
    if step < warm_up:
        return step / warm_up
    way = min(1.0, (step - warm_up) / (steps - warm_up))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * way))


def run(make, clip=0.0, schedule=None):
    params = [torch.nn.Parameter(s.clone()) for s in start]
    optimizer = make(params)
    schedule = schedule and torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    out = [[] for _ in params]
    for step in range(STEPS):
        for p, g in zip(params, gradients):
            p.grad = g[step].clone()
        if clip:
            torch.nn.utils.clip_grad_norm_(params, clip)
        optimizer.step()
        if schedule:
            schedule.step()
        for values, p in zip(out, params):
            values.append(p.detach().clone())
    return [torch.stack(values) for values in out]


adamw, sgd = torch.optim.AdamW, torch.optim.SGD
cases = {
    "adamw": run(lambda p: adamw(p, lr=1e-2, weight_decay=0)),
    "adamw-decay": run(lambda p: adamw(p, lr=3e-2, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)),
    "adamw-clip": run(lambda p: adamw(p, lr=1e-2, weight_decay=0.01), clip=0.5),
    "adamw-cosine": run(lambda p: adamw(p, lr=5e-2, weight_decay=0.1), schedule=cosine),
    "adamw-groups": run(lambda p: adamw([{"params": p[:1], "lr": 1e-3},
                                         {"params": p[1:], "weight_decay": 0.5}],
                                        lr=1e-2, weight_decay=0)),
    "sgd": run(lambda p: sgd(p, lr=1e-2)),
    "sgd-momentum": run(lambda p: sgd(p, lr=1e-2, momentum=0.9, weight_decay=0.1)),
    "sgd-linear-clip": run(lambda p: sgd(p, lr=0.1, momentum=0.5), clip=2.0, schedule=linear),
}
tensors = {f"start.{i}": s for i, s in enumerate(start)}
tensors |= {f"gradients.{i}": g for i, g in enumerate(gradients)}
tensors |= {f"{name}.{i}": v for name, values in cases.items() for i, v in enumerate(values)}
save_file(tensors, pathlib.Path(__file__).parent / "files" / "optim.safetensors")
