# SPDX-License-Identifier: Apache-2.0
"""text_data.cpp and training.cpp in Python: the same texts in the same order,
the same batches to predict, and the logits that C++ wrote beside those of a
model here."""

import pathlib

import torch
from safetensors.torch import load_file

CATEGORIES = "computers definitions politics science songs-poems zippy".split()
FORTUNES = pathlib.Path("/usr/share/games/fortunes")
SPACE = " \t\n\v\f\r"
MAX_LENGTH = 64
TEST_BATCH = 50


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


def compare_logits(model, tokenizer, logits_file, examples):
    """Prints both accuracies; 0 if the logits are the same, 1 if not."""
    ours = load_file(logits_file)["logits"]
    theirs = predict(model, tokenizer, examples)
    if ours.shape != theirs.shape:
        print(f"logits {list(ours.shape)} in C++, {list(theirs.shape)} here")
        return 1
    difference = (ours - theirs).abs().max().item()
    print(f"accuracy {accuracy(ours, examples):.3f} in C++, "
          f"{accuracy(theirs, examples):.3f} in Python; "
          f"largest difference of a logit {difference:.1e}")
    return 0 if difference < 1e-4 else 1
