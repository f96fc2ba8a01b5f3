# SPDX-License-Identifier: Apache-2.0
"""What an adapter adds to a frozen linear layer, here and in Python PEFT, in one
run on the same tensors' sizes and threads. Medians; read the ratios.

usage: compare_with_peft.py BENCH_LINEAR [ROUNDS]
"""
import statistics
import subprocess
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

SHAPES = [(n, d, r, p) for n, d in ((8, 768), (1024, 1024), (2048, 384)) for r in (8, 64) for p in (0.0, 0.1)]


def milliseconds(layer, x):
    start = time.perf_counter()
    layer(x).sum().backward()
    return 1000 * (time.perf_counter() - start)


def python_times(n, d, r, p, rounds):
    frozen = nn.Sequential(nn.Linear(d, d)).requires_grad_(False)
    config = LoraConfig(r=r, lora_dropout=p, target_modules=["0"])
    adapted = get_peft_model(nn.Sequential(nn.Linear(d, d)), config).base_model.model
    adapted.train()
    x = torch.randn(n, d, requires_grad=True)
    times = [(milliseconds(frozen, x), milliseconds(adapted, x)) for _ in range(rounds + 3)][3:]
    return [statistics.median(t) for t in zip(*times)]


def main():
    tool, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 31
    torch.set_num_threads(2)
    print(f"{'N':>5} {'d':>5} {'r':>3} {'drop':>5} | {'frozen':>8} {'extra':>8} | {'PEFT extra':>10} | extra/PEFT's")
    for n, d, r, p in SHAPES:
        theirs = python_times(n, d, r, p, rounds)
        printed = subprocess.run([tool, *map(str, (n, d, r, p, rounds))], check=True, capture_output=True, text=True)
        ours = [float(t) for t in printed.stdout.split()]
        extra, peft_extra = ours[1] - ours[0], theirs[1] - theirs[0]
        print(f"{n:5} {d:5} {r:3} {p:5} | {ours[0]:8.3f} {extra:8.3f} | {peft_extra:10.3f} | {extra / peft_extra:.2f}")


if __name__ == "__main__":
    main()
