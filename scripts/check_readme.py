#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The README's first C++ block must be the marked part of the first example,
which is compiled and run. With --write, puts it there."""
import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parent.parent
readme = root / "README.md"
example = (root / "examples/01_first_adapter.cpp").read_text()
text = readme.read_text()

code = re.search(r"// \[readme\]\n(.*?)// \[/readme\]", example, re.S).group(1).strip()
wanted = re.sub(r"```cpp\n.*?```", lambda _: f"```cpp\n{code}\n```", text, count=1, flags=re.S)
if wanted == text:
    sys.exit(0)
if "--write" in sys.argv:
    readme.write_text(wanted)
    sys.exit(0)
sys.exit("README.md does not show examples/01_first_adapter.cpp: run scripts/check_readme.py --write")
