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
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

CATEGORIES = "computers definitions politics science songs-poems zippy".split()
FORTUNES = pathlib.Path("/usr/share/games/fortunes")
SPACE = " \t\n\v\f\r"
MAX_LENGTH = 64
TEST_BATCH = 50


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


def fnv1a(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def lines_of(path):
    lines = pathlib.Path(path).read_bytes().decode().split("\n")
    return [line.removesuffix("\r") for line in lines]


def split(classes):
    """[(texts, train count, test count)] as two lists of (text, label)."""
    train, test = [], []
    for label, (texts, train_count, test_count) in enumerate(classes):
        texts = sorted(texts, key=fnv1a)
        train += [(text, label) for text in texts[:train_count]]
        test += [(text, label)
                 for text in texts[train_count:train_count + test_count]]
    return train, test


def load_fortunes():
    classes = []
    for category in CATEGORIES:
        entries, entry = [], []
        for line in lines_of(FORTUNES / category) + ["%"]:
            if line != "%":
                entry.append(line)
                continue
            entries.append("\n".join(entry).strip(SPACE))
            entry = []
        classes.append(([e for e in entries if 20 < len(e) < 600], 400, 100))
    return CATEGORIES, *split(classes)


def load_tsv(path):
    texts = {}
    for line in lines_of(path):
        label, tab, text = line.partition("\t")
        if tab:
            texts.setdefault(label.strip(SPACE), []).append(text.strip(SPACE))
    labels = sorted(texts, key=str.encode)
    tests = [max(1, len(texts[label]) // 5) for label in labels]
    return labels, *split([(texts[label], len(texts[label]) - test, test)
                           for label, test in zip(labels, tests)])


def batch(tokenizer, examples):
    encoded = tokenizer(
        [text for text, _ in examples], truncation=True, max_length=MAX_LENGTH,
        padding="longest", return_tensors="pt")
    labels = torch.tensor([label for _, label in examples])
    return encoded["input_ids"], encoded["attention_mask"], labels


@torch.no_grad()
def predict(model, tokenizer, examples):
    model.eval()
    parts = [batch(tokenizer, examples[i:i + TEST_BATCH])[:2]
             for i in range(0, len(examples), TEST_BATCH)]
    return torch.cat([model(*part) for part in parts])


def accuracy(logits, examples):
    labels = torch.tensor([label for _, label in examples])
    return (logits.argmax(1) == labels).double().mean().item()


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
    ours = load_file(args.logits)["logits"]
    theirs = predict(model, tokenizer, test_set)
    if ours.shape != theirs.shape:
        print(f"logits {list(ours.shape)} in C++, {list(theirs.shape)} here")
        return 1
    difference = (ours - theirs).abs().max().item()
    print(f"accuracy {accuracy(ours, test_set):.3f} in C++, "
          f"{accuracy(theirs, test_set):.3f} in Python; "
          f"largest difference of a logit {difference:.1e}")
    return 0 if difference < 1e-4 else 1


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
