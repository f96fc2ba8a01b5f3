# SPDX-License-Identifier: Apache-2.0
"""Runs Python PEFT beside the library for what is done to adapters.

combine: add_weighted_adapter. Updates of every layer, outputs, keys, shapes and
config must be PEFT's, factors too where no singular vectors are in them; and
what the tool saves must do the same under PEFT.
merge: the model's weights after merge_and_unload. mixed: batches in which each
row names its adapter. hotswap: outputs after a swap. convert: convert_to_lora.

Where PEFT 0.21.2 is wrong, the case says how, and what is right comes from PEFT
by another way: adapters that are active together, or loaded afresh.

usage: operations_parity.py OPERATIONS_TOOL [CASE...]
"""
import json
import os
import sys
import tempfile
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")

import torch
from adapter_parity import call, check_config, close, fresh_base, main, make_case, peft_model, randomise
from operations_cases import CASES, SEED
from peft import PeftModel, save_as_lora
from peft.tuners.lora import model as lora_model
from peft.tuners.lora.layer import LoraLayer
from peft.utils.hotswap import hotswap_adapter
from safetensors.torch import load_file, save_file

# PEFT draws the new adapter's first values from the generator that then prunes.
freeze_adapter = lora_model._freeze_adapter


def freeze_and_seed(*arguments):
    freeze_adapter(*arguments)
    torch.manual_seed(SEED)


lora_model._freeze_adapter = freeze_and_seed


def assert_close(found, expected, what):
    assert found.shape == expected.shape, f"shape of {what} differs: {found.shape} against {expected.shape}"
    assert close(found, expected, torch.float32), f"{what} differs by {(found - expected).abs().max()}"


def outputs(model, x, **arguments):
    with torch.no_grad():
        return model.eval()(x, **arguments)


def lora_layers(model, name):
    """Layers with the adapter, by their path in the model without adapters."""
    found = {}
    for path, layer in model.base_model.model.named_modules():
        if isinstance(layer, LoraLayer) and name in {*layer.lora_A, *layer.lora_embedding_A}:
            found[path.replace(".base_layer", "")] = layer
    return found


def updates(model, name):
    """B A scaling for each layer; not for kernels in groups, whose updates PEFT has no form for."""
    found = {}
    for path, layer in lora_layers(model, name).items():
        base = layer.get_base_layer()
        weight = "in_proj_weight" if isinstance(base, torch.nn.MultiheadAttention) else "weight"
        if getattr(base, "groups", 1) == 1:
            found[f"{path}.{weight}"] = layer.get_delta_weight(name).detach()
    return found


def saved_file(folder):
    tensors = load_file(os.path.join(folder, "adapter_model.safetensors"))
    return {k.removeprefix("base_model.model."): v for k, v in tensors.items()}


def combined_by_peft(model, x, operation, folder):
    """Outputs, updates and file of PEFT's own combination."""
    arguments = {k: v for k, v in operation.items() if k != "seed"}
    model.base_model.add_weighted_adapter(adapter_name="new", **arguments)
    model.base_model.set_adapter("new")
    model.save_pretrained(folder, selected_adapters=["new"], save_embedding_layers=False)
    y = outputs(model, x)
    return y, updates(model, "new"), saved_file(os.path.join(folder, "new"))


def summed_by_peft(model, x, operation):
    """Outputs and updates of the adapters together, each as much as its weight says."""
    total = {}
    for name, weight in zip(operation["adapters"], operation["weights"]):
        for path, update in updates(model, name).items():
            total[path] = total.get(path, 0) + weight * update
        for layer in lora_layers(model, name).values():
            layer.scaling[name] *= weight
    model.base_model.set_adapter(operation["adapters"])
    return outputs(model, x), total


def check_combined_config(folder):
    path = [os.path.join(folder, of, "adapter_config.json") for of in ("saved", "theirs/new")]
    check_config(*path, ignore=("target_modules", "exclude_modules", "inference_mode", "feedforward_modules"))


def combine(tool, folder, model, x, options):
    operation = options["operation"]
    if options["right"] != "sum":
        y, expected, file = combined_by_peft(model, x, operation, os.path.join(folder, "theirs"))
    else:
        y, expected = summed_by_peft(model, x, operation)
    result = call(tool, "combine", folder)
    assert_close(result["y"], y, "output")
    for key, update in expected.items():
        assert_close(result.pop(f"delta.{key}"), update, f"update of {key}")
    ours = saved_file(os.path.join(folder, "saved"))  # copies of modules among them
    for key, update in result.items():
        if expected and key.startswith("delta.") and key.endswith("weight") and key[6:] not in ours:
            assert not update.any(), f"{key} is not nothing"
    if options["right"] == "peft":
        assert set(ours) == set(file), f"file keys differ: {set(ours) ^ set(file)}"
        for key, tensor in file.items():
            assert ours[key].shape == tensor.shape, f"shape of {key} differs: {ours[key].shape} against {tensor.shape}"
            if not operation.get("combination_type", "").endswith("svd"):
                assert_close(ours[key], tensor, key)
        check_combined_config(folder)
    again = PeftModel.from_pretrained(fresh_base(folder), os.path.join(folder, "saved"), adapter_name="new")
    assert_close(outputs(again, x), y, "output of what was saved, under PEFT,")
    loaded = updates(again, "new")
    assert set(loaded) == set(expected), f"the config selects other layers: {set(loaded) ^ set(expected)}"


def merge(tool, folder, model, x, options):
    y = outputs(model, x)
    result = call(tool, "merge", folder)
    assert_close(result["y"], y, "output")
    if options["right"] == "forward":
        return
    merged = model.merge_and_unload(adapter_names=options["operation"]["adapters"])
    state = {f"merged.{k}": v for k, v in merged.state_dict().items()}
    assert set(state) == set(result) - {"y"}, f"keys differ: {set(state) ^ set(result)}"
    for key, value in state.items():
        assert_close(result[key], value, key)


def mixed(tool, folder, model, x, options):
    y = outputs(model, x, adapter_names=options["operation"]["rows"])
    assert_close(call(tool, "mixed", folder)["y"], y, "output")


def hotswap(tool, folder, model, x, options):
    following = os.path.join(folder, "next")
    other = peft_model(fresh_base(folder), {"default": options["next"]}, {})
    randomise(other, {"noise": (-0.7, 0.4)})
    other.save_pretrained(following, save_embedding_layers=False)
    before = outputs(model, x)
    if options["right"] == "peft":
        hotswap_adapter(model, following, "default", torch_device="cpu")
    else:
        model = other
    y = outputs(model, x)
    assert not close(before, y, torch.float32), "the swap changes nothing"
    result = call(tool, "hotswap", folder)
    assert_close(result["y"], y, "output")
    swapped = {k.removeprefix("value."): v for k, v in result.items() if k.startswith("value.")}
    for key, tensor in saved_file(following).items():
        assert torch.equal(swapped[key], tensor), f"{key} is not equal to the bit"
    again = PeftModel.from_pretrained(fresh_base(folder), os.path.join(folder, "saved"))
    assert_close(outputs(again, x), y, "output of what was saved, under PEFT,")


def convert(tool, folder, model, x, options):
    before = outputs(model, x)
    result = call(tool, "convert", folder)
    assert_close(result["y"], before, "output before")
    ours = os.path.join(folder, "saved")
    again = PeftModel.from_pretrained(fresh_base(folder), ours)
    if options["right"] == "same":
        assert_close(outputs(again, x), before, "output of what was saved, under PEFT,")
        return
    theirs = os.path.join(folder, "theirs")
    save_as_lora(theirs, model, options["operation"]["rank"])
    expected = PeftModel.from_pretrained(fresh_base(folder), theirs)
    a, b = saved_file(ours), saved_file(theirs)
    assert {k: v.shape for k, v in a.items()} == {k: v.shape for k, v in b.items()}, "file keys or shapes differ"
    for key, update in updates(expected, "default").items():
        assert_close(updates(again, "default")[key], update, f"update of {key}")
    assert_close(outputs(again, x), outputs(expected, x), "output")


CHECKS = {"combine": combine, "merge": merge, "mixed": mixed, "hotswap": hotswap, "convert": convert}


def run(tool, name):
    operation, case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        _, adapters, options, _, x = make_case(folder, case)
        rows = (options.get("operation") or {}).get("rows")
        if rows and len(rows) != len(x):
            x = torch.stack([x[i % len(x)].roll(i) for i in range(len(rows))])
        save_file({"x": x}, os.path.join(folder, "input.safetensors"))
        model = peft_model(fresh_base(folder), adapters, options)
        if options.get("apart"):  # PEFT does not let them be active together
            for adapter in adapters:
                model.set_adapter(adapter)
                randomise(model, options)
        else:
            randomise(model, options)
        model.save_pretrained(os.path.join(folder, "adapter"), save_embedding_layers=False)
        CHECKS[operation](tool, folder, model.eval(), x, options)


if __name__ == "__main__":
    sys.exit(main(run, CASES))
