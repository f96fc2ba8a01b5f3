#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks that the rooms of src/ include only themselves and rooms before them,
that graph, which runs exported programs, is used by hosting alone, and that
base, config and matching know nothing of libtorch, directly or through
include/peft."""

import functools
import pathlib
import re
import sys

ROOMS = ["base", "graph", "config", "matching", "methods", "hosting", "model", "files", "cli"]
WITHOUT_TORCH = ["base", "config", "matching"]
TORCH = ("torch/", "ATen/", "c10/", "caffe2/")

top = pathlib.Path(__file__).resolve().parent.parent


def includes(path):
    """(line number, header) of each #include in a file."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if match := re.match(r'\s*#\s*include\s*[<"]([^>"]+)[>"]', line):
            yield number, match[1]


@functools.cache
def libtorch_in(header):
    """The libtorch header that `header` is or brings in, or None."""
    if header.startswith(TORCH):
        return header
    public = top / "include" / header
    for _, header in includes(public) if public.exists() else []:
        if found := libtorch_in(header):
            return found
    return None


def mistake(room, header):
    """What is wrong when a file of `room` includes `header`, or None."""
    other = header.split("/")[0]
    if other in ROOMS and ROOMS.index(other) > ROOMS.index(room):
        return f"{room}/ may not include {other}/, which comes after it"
    if other == "graph" and room not in ("graph", "hosting"):
        return f"{room}/ may not include graph/; only hosting/ knows what runs programs"
    if room in WITHOUT_TORCH and libtorch_in(header):
        return f"{room}/ must not know libtorch; {header} brings {libtorch_in(header)}"
    return None


mistakes = []
for room in ROOMS:
    folder = top / room if room == "cli" else top / "src" / room
    for path in sorted([*folder.rglob("*.h"), *folder.rglob("*.cpp")]):
        for number, header in includes(path):
            if text := mistake(room, header):
                mistakes.append(f"{path.relative_to(top)}:{number}: {text}")

print("\n".join(mistakes) or "check_layers: every room includes only rooms before it")
sys.exit(bool(mistakes))
