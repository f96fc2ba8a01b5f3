# SPDX-License-Identifier: Apache-2.0
"""Runs exported programs in Python and in the library, adapters going both ways.

For each model of exported_models.py: torch.export.save writes a .pt2; the C++
tool must give the outputs of its module(), in two sizes, and of the Python
model in eval mode, and leave the same buffers. PEFT adapts the Python model
and saves; the tool loads that onto the .pt2 and must give PEFT's outputs,
gradients and losses of ten steps. Then the tool injects by the same config and
saves; PEFT must load that and give the tool's outputs. What the tool saves as
.pt2, merged or not, must open in Python and give the same outputs.

usage: exported_parity.py EXPORTED_TOOL [--all] [MODEL...]
       exported_parity.py --python-only [--all] [MODEL...]   the Python half
"""
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["OMP_NUM_THREADS"] = "1"
warnings.filterwarnings("ignore")

import torch
from transformers.utils import logging

import exported_checks as checks
from exported_case import Case, ToolError
from exported_models import MODELS

logging.set_verbosity_error()


def run_tool(tool, jobs, folder):
    """Every job gets a result, those that kill the tool too."""
    while jobs:
        path = os.path.join(folder, "jobs.json")
        with open(path, "w") as f:
            json.dump(jobs, f)
        done = subprocess.run([tool, path], capture_output=True, text=True)
        jobs = [job for job in jobs if not os.path.exists(job["result"] + ".json")]
        if jobs:
            with open(jobs[0]["result"] + ".json", "w") as f:
                json.dump({"error": f"the tool ended with {done.returncode}: {done.stderr[-500:]}"}, f)
            jobs = jobs[1:]


def attempt(name, action):
    """None, or what went wrong."""
    try:
        action()
    except ToolError as error:
        return f"the tool, {error}"
    except AssertionError as error:
        return f"{name}: {error}"
    except Exception:
        return f"{name}: {traceback.format_exc(limit=-2)}"
    return None


def prepared(names, folder):
    """Cases whose Python half ran, and what went wrong in the others."""
    cases, mistakes = [], {}
    for name in names:
        start = time.time()
        case = Case(name, os.path.join(folder, name))
        mistake = attempt("python", case.prepare)
        if mistake:
            mistakes[name] = [mistake]
        else:
            cases.append(case)
        if "--python-only" in sys.argv:
            print(f"{'FAILED' if mistake else 'ok':8}{name:24}{time.time() - start:5.1f} s", flush=True)
    return cases, mistakes


def main():
    torch.set_num_threads(1)
    options = [a for a in sys.argv[1:] if a.startswith("--")]
    words = [a for a in sys.argv[1:] if not a.startswith("--")]
    tool = None if "--python-only" in options else os.path.abspath(words.pop(0))
    names = words or [n for n, example in MODELS.items() if "--all" in options or not example.extra]
    with tempfile.TemporaryDirectory() as folder:
        cases, mistakes = prepared(names, folder)
        if tool:
            run_tool(tool, [job for case in cases for job in case.jobs()], folder)
            for case in cases:
                found = [attempt(check.__name__, lambda: check(case)) for check in checks.ALL]
                mistakes[case.name] = [m for m in dict.fromkeys(found) if m]
                print(f"{'FAILED' if mistakes[case.name] else 'ok':8}{case.name:24}{case.summary()}")
    for name in mistakes:
        for mistake in mistakes[name]:
            print(f"FAILED  {name}: {mistake}")
    failed = sum(1 for found in mistakes.values() if found)
    print(f"{len(names) - failed} of {len(names)} models agree")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
