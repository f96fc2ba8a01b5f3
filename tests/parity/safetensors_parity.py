#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares the C++ safetensors reader and writer with the Python library.

    safetensors_parity.py TOOL [--files N] [--broken N]

TOOL is the built safetensors_copy. Files of all dtypes and of random tensors,
written by Python, are loaded and saved by C++: the bytes must be equal. Random
damage is done to files: C++ must refuse all that Python refuses, and more only
where the format is stricter than the Python library.
"""

import argparse
import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

DTYPES = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16,
          torch.int32, torch.uint32, torch.int64, torch.uint64, torch.float16,
          torch.bfloat16, torch.float32, torch.float64, torch.complex64,
          torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz,
          torch.float8_e5m2fnuz, torch.float8_e8m0fnu, torch.float4_e2m1fn_x2]
NAMES = ["base_model.model.layers.0.lora_A.weight", "", "a", "B", "a.b", "a b",
         "\"quoted\"", "back\\slash", "sl/ash", "\n\r\t\b\f", "\x00", "\x1f",
         "\x7f", "\u0080", "é", "e\u0301", "层", "\u2028", "\ufeff", "\uffff",
         "😀", "\U0010ffff", "</script>"]
# What the C++ reader refuses and the Python library lets pass, against the
# format: duplicate keys, fields that the format does not know, metadata that
# is null, tensors whose strides overflow.
STRICTER = ["is there twice", "unknown field", "__metadata__ is null",
            "larger than any memory"]


def random_tensor(rng, dtype):
    item = torch.empty(0, dtype=dtype).element_size()
    shape = [rng.randrange(4) for _ in range(rng.randrange(4))]
    if dtype == torch.float4_e2m1fn_x2 and not shape:
        shape = [2]  # one dimension to pack
    size = item * int(torch.tensor(shape, dtype=torch.int64).prod())
    high = 2 if dtype == torch.bool else 256
    data = torch.tensor([rng.randrange(high) for _ in range(size)],
                        dtype=torch.uint8)
    if size == 0:
        return torch.empty(shape, dtype=dtype)
    return data.view(dtype).reshape(shape)


def random_file(rng, path):
    names = NAMES + [str(rng.random()) for _ in range(20)]
    chosen = rng.sample(names, rng.randrange(len(names)))
    tensors = {n: random_tensor(rng, rng.choice(DTYPES)) for n in chosen}
    # With several keys, Python writes them in an order of its own.
    metadata = rng.choice([None, {"format": "pt"}, {rng.choice(NAMES): "é\n"}])
    save_file(tensors, path, metadata=metadata)


def every_dtype(path):
    rng = random.Random(1)
    tensors = {}
    for i, dtype in enumerate(DTYPES):
        for kind in range(4):
            tensors[f"{kind}.{i}"] = random_tensor(rng, dtype)
    save_file(tensors, path, metadata={"format": "pt"})


def damaged(rng, data):
    """`data`, the bytes of a good file, with something changed."""
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = bytearray(data[8:8 + length]), data[8 + length:]
    kind = rng.randrange(6)
    if kind == 0:  # any byte of the file
        data = bytearray(data)
        data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data)
    if kind == 1:  # its end
        return data[:rng.randrange(len(data))] if rng.random() < 0.7 \
            else data + bytes(rng.randrange(1, 9))
    if kind == 2:  # a few bytes of the header
        for _ in range(rng.randrange(1, 4)):
            header[rng.randrange(len(header))] = rng.choice(b'{}[]",:0123 -.eE\\un')
    elif kind == 3:  # bytes left out or doubled
        start = rng.randrange(len(header))
        end = start + rng.randrange(1, 12)
        header[start:end] = b"" if rng.random() < 0.5 else header[start:end] * 2
    else:
        header = damaged_json(rng, json.loads(header)).encode()
    return struct.pack("<Q", len(header)) + bytes(header) + rest


def damaged_json(rng, header):
    entries = [k for k in header if k != "__metadata__"]
    values = [None, True, -1, 0, 1, 2.5, 2**63, 2**64, 2**32, "F32", "F33", [],
              [0], [2**33, 2**33], [0, 0], [0, 4], {}, {"a": "b"}, {"a": 1}]
    if not entries or rng.random() < 0.2:
        header[rng.choice(["__metadata__", "x"])] = rng.choice(values)
        return json.dumps(header)
    entry = header[rng.choice(entries)]
    field = rng.choice(["dtype", "shape", "data_offsets"])
    what = rng.randrange(4)
    if what == 0:
        del entry[field]
    elif what == 1:
        entry[field] = rng.choice(values)
    elif what == 2 and entry["shape"]:
        entry["shape"][rng.randrange(len(entry["shape"]))] = rng.choice(values)
    else:
        entry["data_offsets"][rng.randrange(2)] += rng.randrange(-8, 9)
    return json.dumps(header, ensure_ascii=rng.random() < 0.5)


def python_accepts(path):
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                file.get_tensor(name)
        return True
    except (SafetensorError, RuntimeError, TypeError, ValueError):
        return False


def copy_all(tool, pairs):
    """What TOOL says of each copy."""
    run = subprocess.run([tool], capture_output=True, text=True, check=True,
                         input="".join(f"{a} {b}\n" for a, b in pairs))
    lines = run.stdout.split("\n")[:-1]
    assert len(lines) == len(pairs), f"{len(lines)} answers to {len(pairs)} files"
    return lines


def compare_bytes(tool, folder, count):
    rng = random.Random(0)
    pairs = [(folder / f"{i}.safetensors", folder / f"{i}.copy")
             for i in range(count + 1)]
    every_dtype(pairs[0][0])
    for path, _ in pairs[1:]:
        random_file(rng, path)
    wrong = [(a, said) for (a, b), said in zip(pairs, copy_all(tool, pairs))
             if said != "ok" or a.read_bytes() != b.read_bytes()]
    print(f"{len(pairs) - len(wrong)} of {len(pairs)} files equal byte for byte")
    for path, said in wrong[:3]:
        print(f"  {path.name}: {said}\n  {path.read_bytes()[:300]}")
    return not wrong


def compare_broken(tool, folder, count):
    rng = random.Random(2)
    source = folder / "good.safetensors"
    pairs = []
    for i in range(count):
        random_file(rng, source)
        path = folder / f"{i}.broken"
        path.write_bytes(damaged(rng, source.read_bytes()))
        pairs.append((path, folder / "copy"))
    refused, stricter, wrong = 0, 0, []
    for (path, _), said in zip(pairs, copy_all(tool, pairs)):
        theirs = python_accepts(path)
        refused += not theirs
        if (said == "ok") == theirs:
            continue
        if theirs and any(text in said for text in STRICTER):
            stricter += 1
        else:
            wrong.append((path, said))
    print(f"{count} damaged files: Python refuses {refused}, C++ refuses "
          f"{stricter} more by the format's rules, {len(wrong)} differ otherwise")
    for path, said in wrong[:5]:
        print(f"  {path.name}: {said}\n  {path.read_bytes()[:400]}")
    return not wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tool")
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--broken", type=int, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        good = compare_bytes(args.tool, folder, args.files)
        good &= compare_broken(args.tool, folder, args.broken)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
