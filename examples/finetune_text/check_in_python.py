#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The demo's job in Python, with transformers and PEFT.

    check_in_python.py --adapter DIR --logits FILE [--model DIR] [--data FILE]
        loads what finetune_text --output DIR --logits FILE wrote, tokenises
        the test texts anew, and fails unless the logits are the same.
    check_in_python.py --train [--epochs N ...] [--output DIR]
        the same training, texts in the same order, for comparison.

--model is the folder of the encoder; by default what PEFT_DEMO_MODEL names.
"""

import argparse
import math
import os
import pathlib
import sys
import time

import peft
import torch
import transformers
from torch.nn.functional import cross_entropy

sys.path.append(str(pathlib.Path(__file__).parent.parent / "text"))
from text_data import (  # noqa: E402
    accuracy, batch, compare_logits, load_fortunes, load_tsv, predict)


class TextClassifier(torch.nn.Module):
    """The C++ TextClassifier: same module paths, same result."""

    def __init__(self, model, labels):
        super().__init__()
        self.bert = transformers.AutoModel.from_pretrained(
            model, add_pooling_layer=False)
        self.classifier = torch.nn.Linear(self.bert.config.hidden_size, labels)

    def forward(self, input_ids, attention_mask):
        hidden = self.bert(input_ids, attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return self.classifier((hidden * mask).sum(1) / mask.sum(1))


def train(args, tokenizer, labels, train_set, test_set):
    model = TextClassifier(args.model, len(labels))
    torch.manual_seed(args.seed)
    model.classifier.reset_parameters()
    model = peft.get_peft_model(model, peft.LoraConfig(
        r=args.r, lora_alpha=16, lora_dropout=0.1,
        target_modules=["query", "value"], modules_to_save=["classifier"]))
    model.print_trainable_parameters()
    before = accuracy(predict(model, tokenizer, test_set), test_set)

    order = torch.Generator().manual_seed(args.seed)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], args.lr)
    steps = args.epochs * math.ceil(len(train_set) / args.batch_size)
    done, start = 0, time.perf_counter()
    model.train()
    for _ in range(args.epochs):
        numbers = torch.randperm(len(train_set), generator=order)
        for part in numbers.split(args.batch_size):
            ids, mask, wanted = batch(tokenizer, [train_set[i] for i in part])
            optimizer.zero_grad()
            loss = cross_entropy(model(ids, mask), wanted)
            loss.backward()
            optimizer.step()
            done += 1
            if done == 1 or done * 10 // steps != (done - 1) * 10 // steps:
                print(f"{done}/{steps}  loss {loss.item():.3f}", flush=True)
    seconds = time.perf_counter() - start
    after = accuracy(predict(model, tokenizer, test_set), test_set)
    print(f"{done} steps in {seconds:.1f} s: {seconds / done:.3f} s/step\n"
          f"accuracy {before:.3f} before, {after:.3f} after")
    if args.output:
        model.save_pretrained(args.output)
    return 0


def check(args, tokenizer, labels, _, test_set):
    model = peft.PeftModel.from_pretrained(
        TextClassifier(args.model, len(labels)), args.adapter)
    return compare_logits(model, tokenizer, args.logits, test_set)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=os.environ.get("PEFT_DEMO_MODEL"))
    parser.add_argument("--data", help="a file of label<TAB>text lines")
    parser.add_argument("--adapter", help="what finetune_text --output wrote")
    parser.add_argument("--logits", help="what finetune_text --logits wrote")
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--r", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", help="with --train: save the adapter here")
    args = parser.parse_args()
    if not args.model:
        parser.error("--model is missing, and PEFT_DEMO_MODEL is not set")
    if not args.train and not (args.adapter and args.logits):
        parser.error("give --adapter and --logits, or --train")
    if args.threads:
        torch.set_num_threads(args.threads)

    transformers.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    data = load_tsv(args.data) if args.data else load_fortunes()
    return (train if args.train else check)(args, tokenizer, *data)


if __name__ == "__main__":
    sys.exit(main())
