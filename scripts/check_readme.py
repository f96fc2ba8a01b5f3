#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""C++ blocks of the documents must be the marked parts of the examples, which
are compiled and run. With --write, puts them there."""
import pathlib
import re
import sys
import textwrap

root = pathlib.Path(__file__).resolve().parent.parent

# Of each document, the marks of its first C++ blocks.
shown = {
    "README.md": ("examples/01_first_adapter.cpp", ["readme"]),
    "docs/methods/lora.md": ("examples/02_methods.cpp", ["lora", "from_data", "tokens", "alora", "state_dict", "recurrent"]),
    "docs/methods/dora.md": ("examples/02_methods.cpp", ["dora"]),
    "docs/methods/adalora.md": ("examples/02_methods.cpp", ["adalora"]),
    "docs/methods/ia3.md": ("examples/02_methods.cpp", ["ia3"]),
}


def marked(example, mark):
    text = (root / example).read_text()
    part = re.search(rf"^ *// \[{mark}\]\n(.*?)^ *// \[/{mark}\]", text, re.S | re.M).group(1)
    return textwrap.dedent(part).strip()


wrong = []
for name, (example, marks) in shown.items():
    document = root / name
    text = document.read_text()
    codes = iter([marked(example, mark) for mark in marks])
    wanted = re.sub(r"```cpp\n.*?```", lambda _: f"```cpp\n{next(codes)}\n```", text, count=len(marks), flags=re.S)
    if wanted != text and "--write" in sys.argv:
        document.write_text(wanted)
    elif wanted != text:
        wrong.append(f"{name} does not show {example}")
if wrong:
    sys.exit("\n".join([*wrong, "run scripts/check_readme.py --write"]))
