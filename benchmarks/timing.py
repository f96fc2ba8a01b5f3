# SPDX-License-Identifier: Apache-2.0
"""Wall-clock times in milliseconds, and those of the C++ programs beside them."""
import statistics
import subprocess
import time


def once(run):
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def median(rounds, run):
    """Of `rounds` runs, after one that is not counted."""
    run()
    return statistics.median(once(run) for _ in range(rounds))


def run_program(*command):
    """What a C++ benchmark prints: a name and milliseconds a line."""
    printed = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
    return {name: float(value) for name, value in (line.split() for line in printed.splitlines())}


def print_ratios(ours, theirs, other):
    width = max(map(len, ours))
    print(f"{'':{width}} | {'here':>10} | {other:>10} | here/{other}")
    for name, value in ours.items():
        if name in theirs:
            print(f"{name:{width}} | {value:10.4f} | {theirs[name]:10.4f} | {value / theirs[name]:.4f}")
        else:
            print(f"{name:{width}} | {value:10.4f} |")
