#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares the C++ WordPiece tokenizer with Hugging Face's, number by number.

    word_piece_parity.py TOOL MODEL [--fortunes DIR] [--strings N]

TOOL is the built word_piece_tool, MODEL a folder with a BERT's vocab.txt. The
texts: every fortune of the demo's six categories, every code point of Unicode
between letters and alone, and N random strings.
"""

import argparse
import pathlib
import random
import subprocess
import sys

import transformers

CATEGORIES = "computers definitions politics science songs-poems zippy".split()
SPECIAL = ["[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]", "[mask]", "[[", "[MA"]
# Where random code points come from: Latin, Greek, Cyrillic, Hebrew, Arabic,
# Indic, Thai, Hangul, kana, ideographs, marks, symbols, emoji, and anything.
BLOCKS = [
    (0x1, 0x7F), (0x80, 0x24F), (0x250, 0x36F), (0x370, 0x3FF),
    (0x400, 0x52F), (0x590, 0x5FF), (0x600, 0x6FF), (0x900, 0xDFF),
    (0xE00, 0xE7F), (0x1100, 0x11FF), (0x1E00, 0x1FFF), (0x2000, 0x2BFF),
    (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFFFD),
    (0x1D000, 0x1D7FF), (0x1F300, 0x1FAFF), (0x1, 0xD7FF), (0xE000, 0x10FFFF),
]


def fortunes(folder):
    for category in CATEGORIES:
        text = (pathlib.Path(folder) / category).read_text("utf-8")
        yield from text.split("\n%\n")


def every_code_point():
    codes = [c for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000]
    for start in range(0, len(codes), 64):
        chars = [chr(c) for c in codes[start:start + 64]]
        yield " ".join(f"a{c}b {c}" for c in chars)


def random_string(rng, words):
    parts = []
    for _ in range(rng.randrange(1, 40)):
        kind = rng.random()
        if kind < 0.35:
            word = rng.choice(words).removeprefix("##")
            parts.append(rng.choice([word, word.upper(), word.title()]))
        elif kind < 0.40:
            parts.append(rng.choice(SPECIAL))
        elif kind < 0.55:
            parts.append(rng.choice(" \t\n\r\u00a0\u3000 -'.,!"))
        elif kind < 0.57:
            parts.append(rng.choice("aé한") * rng.randrange(95, 105))
        else:
            low, high = rng.choice(BLOCKS)
            parts += [chr(rng.randint(low, high))
                      for _ in range(rng.randrange(1, 6))]
    return "".join(parts)


def ours(tool, vocabulary, texts, max_length):
    run = subprocess.run(
        [tool, vocabulary, str(max_length)], check=True, capture_output=True,
        input="".join(t + "\0" for t in texts).encode())
    return [[int(i) for i in line.split()]
            for line in run.stdout.decode().splitlines()]


def compare(name, texts, tool, model, theirs, max_length):
    got = ours(tool, str(model / "vocab.txt"), texts, max_length)
    want = theirs(texts, truncation=True, max_length=max_length)["input_ids"]
    wrong = [i for i in range(len(texts)) if i >= len(got) or got[i] != want[i]]
    print(f"{name}: {len(texts) - len(wrong)} of {len(texts)} texts equal, "
          f"{sum(map(len, want))} tokens, at most {max_length} a text")
    for i in wrong[:3]:
        print(f"  text {texts[i]!r}\n  want {want[i]}\n"
              f"  got  {got[i] if i < len(got) else None}")
    return len(got) == len(texts) and not wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tool")
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--fortunes", default="/usr/share/games/fortunes")
    parser.add_argument("--strings", type=int, default=20000)
    args = parser.parse_args()

    theirs = transformers.AutoTokenizer.from_pretrained(args.model)
    words = (args.model / "vocab.txt").read_text("utf-8").splitlines()
    rng = random.Random(0)
    texts = {
        "fortunes": list(fortunes(args.fortunes)),
        "code points": list(every_code_point()),
        "random": [random_string(rng, words) for _ in range(args.strings)],
    }
    good = True
    for name, group in texts.items():
        for max_length in (512, 64, 2):
            good &= compare(name, group, args.tool, args.model, theirs,
                            max_length)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
