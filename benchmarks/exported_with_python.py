# SPDX-License-Identifier: Apache-2.0
"""A MiniLM exported by Python, run and trained here and in Python, in one run:
forwards beside the exported program's own module, a training step beside PEFT
in the eager model. Medians in milliseconds; read the ratios.

usage: exported_with_python.py BENCH_EXPORTED [ROUNDS]
"""
import statistics
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from timing import median, print_ratios, run_program

sys.path.append(str(Path(__file__).parent.parent / "examples" / "finetune_exported"))
from export_encoder import TextClassifier, export  # noqa: E402


def inputs(rows, length):
    ids = torch.randint(1000, 2000, (rows, length))
    return ids, torch.ones_like(ids)


def forward_times(path, times):
    module = torch.export.load(path).module()
    with torch.no_grad():
        for (rows, length), rounds in (((32, 64), 7), ((2, 8), 101)):
            given = inputs(rows, length)
            times[f"forward_{rows}x{length}"] = median(rounds, lambda: module(*given))


def step_time(times):
    config = LoraConfig(r=8, target_modules=["query", "value"], lora_dropout=0.1)
    model = get_peft_model(TextClassifier(), config).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    given = inputs(8, 64)

    def step():
        optimizer.zero_grad()
        model(*given).pow(2).mean().backward()
        optimizer.step()

    times["lora_step_8x64"] = median(7, step)


def main():
    warnings.filterwarnings("ignore")
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    torch.set_num_threads(2)
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        evaluated, trained = (str(Path(folder) / name) for name in ("eval.pt2", "train.pt2"))
        export(TextClassifier().eval(), evaluated)
        export(TextClassifier().train(), trained)
        for _ in range(rounds):  # alternating
            ours.append(run_program(sys.argv[1], evaluated, trained))
            theirs.append({})
            forward_times(evaluated, theirs[-1])
            step_time(theirs[-1])
    medians = [{name: statistics.median(r[name] for r in runs) for name in runs[0]} for runs in (ours, theirs)]
    print_ratios(*medians, "Python")


if __name__ == "__main__":
    main()
