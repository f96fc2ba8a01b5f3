# SPDX-License-Identifier: Apache-2.0
"""What operating adapters costs, here and in Python PEFT, in one run. Medians in
milliseconds; read the ratios.

usage: operations_with_peft.py BENCH_OPERATIONS
"""
import sys
import time
import warnings

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.utils.hotswap import hotswap_adapter_from_state_dict
from peft.utils.save_and_load import _insert_adapter_name_into_state_dict
from torch import nn

from timing import median, once, print_ratios, run_program

LAYERS, WIDTH = 224, 256


def lora(r=8, targets="all-linear"):
    return LoraConfig(r=r, target_modules=targets, init_lora_weights=False)


def layers(count, width):
    return nn.Sequential(*[nn.Linear(width, width) for _ in range(count)])


def names_of(model):
    return [name for name, _ in model.named_modules() if name]


def many_adapters(times):
    base = layers(LAYERS, WIDTH)
    config = LoraConfig(r=8, target_modules=names_of(base))
    start = time.perf_counter()
    model = get_peft_model(base, config, "1", low_cpu_mem_usage=True)
    times["attach_1"] = 1000 * (time.perf_counter() - start)
    for i in range(2, 61):
        took = once(lambda: model.add_adapter(str(i), config, low_cpu_mem_usage=True))
        if i in (10, 30, 60):
            times[f"attach_{i}"] = took
    turn = iter(range(10**6))
    times["set_adapter"] = median(11, lambda: model.set_adapter(str(1 + next(turn) % 2)))

    def disable():
        with model.disable_adapter():
            pass

    times["disable_scope"] = median(11, disable)


def swapping(times):
    base = layers(LAYERS, WIDTH)
    config = LoraConfig(r=8, target_modules=names_of(base), init_lora_weights=False)
    model = get_peft_model(base, config)
    state = {k: v.clone() for k, v in get_peft_model_state_dict(model).items()}
    state = _insert_adapter_name_into_state_dict(state, "default", "lora_")
    times["hotswap"] = median(11, lambda: hotswap_adapter_from_state_dict(model, state, "default", config))

    def merge():
        model.merge_adapter()
        model.unmerge_adapter()

    times["merge_unmerge"] = median(5, merge)


def combining(times, size):
    model = get_peft_model(layers(1, size), lora(16, ["0"]), "a")
    for name in "bc":
        model.add_adapter(name, lora(16, ["0"]))

    def combine():
        model.add_weighted_adapter(["a", "b", "c"], [0.5, 0.3, 0.2], "sum", combination_type="svd")
        model.delete_adapter("sum")

    times[f"combine_svd_{size}"] = median(3, combine)


def mixing(times, positions):
    base = layers(4, 1024)
    names = [f"adapter_{i}" for i in range(16)]
    config = LoraConfig(r=8, target_modules=names_of(base), init_lora_weights=False)
    model = get_peft_model(base, config, names[0]).eval()
    for name in names[1:]:
        model.add_adapter(name, config)
    x = torch.randn(16, positions, 1024)
    times[f"batch_mixed_{positions}"] = median(15, lambda: model(x, adapter_names=names))
    model.disable_adapter_layers()
    times[f"batch_base_{positions}"] = median(15, lambda: model(x))


def main():
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    ours = run_program(sys.argv[1])
    theirs = {}
    with torch.no_grad():
        many_adapters(theirs)
        swapping(theirs)
        for size in (1024, 2048):
            combining(theirs, size)
        for positions in (1, 64):
            mixing(theirs, positions)
    print_ratios(ours, theirs, "PEFT")


if __name__ == "__main__":
    main()
