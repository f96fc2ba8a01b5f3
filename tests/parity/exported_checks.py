# SPDX-License-Identifier: Apache-2.0
"""What must agree between a Case and what exported_tool.cpp gave back."""
import os
import warnings

import torch
from peft import PeftModel
from safetensors.torch import load_file

from exported_case import tensors_of
from adapter_parity import check_config, surplus


FLOOR = 0.1  # below this magnitude, adapters' rounding errors are absolute


def difference(ours, theirs, floor=1e-30):
    """Relative to the largest magnitude, or to the floor."""
    assert ours.dtype == theirs.dtype, f"{ours.dtype}, not {theirs.dtype}"
    assert ours.shape == theirs.shape, f"{list(ours.shape)}, not {list(theirs.shape)}"
    if torch.equal(ours, theirs) or ours.numel() == 0:
        return 0.0
    assert torch.equal(ours.isnan(), theirs.isnan()), "NaN elsewhere"
    wide = torch.complex128 if theirs.is_complex() else torch.float64
    ours, theirs = ours.to(wide).nan_to_num(), theirs.to(wide).nan_to_num()
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=floor)).item()


def expect(ours, theirs, what, tolerance, floor=1e-30):
    try:
        found = difference(ours, theirs, floor)
    except AssertionError as error:
        raise AssertionError(f"{what} is {error}") from None
    assert found <= tolerance, f"{what} differs by {found:.1e}"
    return found


def listed(tensors, prefix):
    found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return [found[str(i)] for i in range(len(found))]


def expect_all(ours, theirs, what, tolerance, floor=1e-30):
    assert len(ours) == len(theirs), f"{len(ours)} of {what}, not {len(theirs)}"
    return [expect(a, b, f"{what} {i}", tolerance, floor) for i, (a, b) in enumerate(zip(ours, theirs))]


def expect_run(case, tensors, mode, tolerance):
    expected = case.expected[mode]
    for size, outputs in enumerate(expected["output"]):
        for found in expect_all(listed(tensors, f"{mode}.output.{size}."), outputs, f"size {size}, output", tolerance):
            case.note(found)
    for name, theirs in expected["buffer"].items():
        if mode == "train" or "num_batches_tracked" not in name:
            expect(tensors[f"{mode}.buffer.{name}"], theirs, f"buffer {name}", tolerance)


def without_none(value):
    """A dict may leave its Nones out."""
    if isinstance(value, dict):
        return {k: without_none(v) for k, v in value.items() if v is not None}
    return [without_none(v) for v in value] if isinstance(value, list) else value


def run(case):
    values, tensors = case.result("run")
    expect_run(case, tensors, "train", 1e-6)
    for size, inputs in enumerate(case.expected["train"]["input"]):
        expect_all(listed(tensors, f"train.input.{size}."), inputs, f"size {size}, input", 1e-6)


def run_in_eval_mode(case):
    values, tensors = case.result("run")
    expect_run(case, tensors, "eval", 1e-5)
    ours, theirs = without_none(values["structure"]), without_none(case.expected["eval"]["structure"])
    assert ours == theirs, f"call gives {ours}, not {theirs}"


def names(case):
    values, _ = case.result("run")
    module = case.example.module()
    shapes = {n: list(p.shape) for n, p in module.named_parameters(remove_duplicate=False)}
    once = {n for n, _ in module.named_parameters()}
    ours = values["parameters"]
    # Tied parameters: under every name, as in Python's ExportedProgram, or once.
    assert set(ours) in (set(shapes), once), f"parameters differ: {set(ours) ^ set(shapes)}"
    assert all(ours[n] == shapes[n] for n in ours), "shapes of parameters differ"
    shapes = {n: list(b.shape) for n, b in module.named_buffers()}
    assert values["buffers"] == shapes, f"buffers differ: {values['buffers'].items() ^ shapes.items()}"


def all_linear(case):
    """The same modules, but for output embeddings, which PEFT leaves out."""
    if case.example.adapter.get("target_modules") != "all-linear":
        return
    values, _ = case.result("run")
    module = case.example.module()
    embeddings = module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
    left_out = {n for n, m in module.named_modules() if m is embeddings}
    assert set(values["all_linear"]) - left_out == case.targets, set(values["all_linear"]) ^ case.targets


def tolerance_of(case):
    return 5e-2 if any(y.dtype == torch.bfloat16 for y in case.adapted) else 1e-4


def loaded_adapter(case):
    if not case.example.adapter:
        return
    values, tensors = case.result("load")
    tolerance = tolerance_of(case)
    expect_all(listed(tensors, "output."), case.adapted, "output", tolerance, FLOOR)
    saved = load_file(case.path("adapter/adapter_model.safetensors"))
    saved = {k.removeprefix("base_model.model."): v for k, v in saved.items() if not surplus(k)}
    ours = {k.removeprefix("value."): v for k, v in tensors.items() if k.startswith("value.")}
    assert set(saved) == set(ours), f"keys differ: {set(saved) ^ set(ours)}"
    for key, theirs in case.gradients.items():
        if surplus(key) or not theirs.is_floating_point() or theirs.isnan().any():
            continue
        found = tensors.get("grad." + key)
        if found is None:
            assert theirs.abs().max() == 0, f"no gradient for {key}"
        else:
            expect(found, theirs, f"gradient of {key}", tolerance, FLOOR)
    if case.zero_out_proj():
        return
    for step, (a, b) in enumerate(zip(values["losses"], case.losses, strict=True)):
        assert abs(a - b) <= tolerance * abs(case.losses[0]), f"loss of step {step} is {a}, not {b}"


def injected_adapter(case):
    if not case.example.adapter or not case.example.injects:
        return
    _, tensors = case.result("inject")
    folder, theirs = case.path("injected"), case.path("adapter")
    check_config(os.path.join(folder, "adapter_config.json"), os.path.join(theirs, "adapter_config.json"))
    a = load_file(os.path.join(folder, "adapter_model.safetensors"))
    b = load_file(os.path.join(theirs, "adapter_model.safetensors"))
    b = {k: v for k, v in b.items() if not surplus(k)}
    assert set(a) == set(b), f"file keys differ: {set(a) ^ set(b)}"
    assert {k: v.shape for k, v in a.items()} == {k: v.shape for k, v in b.items()}, "file shapes differ"
    if case.zero_out_proj():
        return
    model = PeftModel.from_pretrained(case.example.module(), folder)
    model.train(case.example.training)
    outputs = [y.detach() for y in tensors_of(case.run(model)[0])]
    expect_all(listed(tensors, "output."), outputs, "output", tolerance_of(case), FLOOR)


def opened(case, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(case.path(name))
    assert set(program.state_dict) == case.state_keys, f"weights differ: {set(program.state_dict) ^ case.state_keys}"
    return [y.detach() for y in tensors_of(case.run(program.module())[0])]


def saved_program(case):
    """Where that is quick, or merged_program opens none."""
    if case.is_large and case.example.adapter:
        return
    case.result("run")
    expect_all(opened(case, "saved.pt2"), case.expected["train"]["output"][0], "output", 1e-6)


def merged_program(case):
    if case.example.adapter and case.example.merges:
        case.result("load")
        expect_all(opened(case, "merged.pt2"), case.adapted, "output", tolerance_of(case), FLOOR)


ALL = [run, run_in_eval_mode, names, all_linear, loaded_adapter, injected_adapter, saved_program, merged_program]
