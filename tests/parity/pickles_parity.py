#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reads what live Python writes as adapter_model.bin: torch.save of dicts of
tensors and parameters, of PEFT's own state dicts, and of what is no such dict.

usage: pickles_parity.py PICKLES_TOOL
"""
import os
import subprocess
import sys
import tempfile
from collections import OrderedDict

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn

DTYPES = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
          torch.float32, torch.float64, torch.complex64, torch.uint16, torch.uint32, torch.uint64,
          torch.float8_e4m3fn, torch.float8_e5m2]


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(5, 3)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(self.lin(x))


class Subclass(torch.Tensor):
    pass


def values(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + 1))


def peft_state():
    model = get_peft_model(Module(), LoraConfig(target_modules=["lin"], modules_to_save=["norm"], r=2))
    return model.state_dict()


def shared():
    whole = values(4, 6)
    return {"whole": whole, "row": whole[1], "part": whole[1:3, 2:5], "turned": whole.t(), "number": whole[3, 5]}


def good():
    """name: what is saved, and options of torch.save."""
    yield "dict", {"a.lora_A.weight": values(4, 3), "b": values(2)}, {}
    yield "ordered", OrderedDict(a=values(4, 3), b=values(1)), {}
    yield "empty_dict", {}, {}
    yield "dtypes", {str(t): torch.arange(6).reshape(2, 3).to(t) for t in DTYPES}, {}
    yield "parameters", {"p": nn.Parameter(values(3, 2)), "q": nn.Parameter(torch.arange(3), requires_grad=False)}, {}
    marked = nn.Parameter(values(3))
    marked.mark = 1
    yield "marked_parameter", {"p": marked}, {}
    yield "views", shared(), {}
    yield "strided", {"every_second": values(7, 9)[::2, 1::3], "channels": values(2, 3, 4, 5).contiguous(
        memory_format=torch.channels_last)}, {}
    yield "no_elements", {"a": values(0), "b": values(3, 0, 2), "scalar": values()}, {}
    yield "state_dict", Module().state_dict(), {}
    yield "peft_state_dict", peft_state(), {}
    yield "many", {f"layers.{i}.lora_A.weight": values(1, 2) for i in range(700)}, {}
    for protocol in (3, 4, 5):
        yield f"protocol_{protocol}", OrderedDict(a=values(4, 3), b=values(1)), {"pickle_protocol": protocol}


def bad():
    """name: what is saved, options of torch.save, words of the error."""
    yield "a_tensor", values(2), {}, "not a dict"
    yield "nested", {"model": {"a": values(2)}}, {}, "'model' is a dict"
    yield "a_number", {"a": values(2), "step": 3}, {}, "'step' is a number"
    yield "a_module", Module(), {}, "Module"
    yield "a_subclass", {"a": values(2).as_subclass(Subclass)}, {}, "_rebuild_from_type_v2"
    yield "sparse", {"a": values(2, 2).to_sparse()}, {}, "_rebuild_sparse_tensor"
    yield "quantised", {"a": torch.quantize_per_tensor(values(2), 1.0, 0, torch.qint8)}, {}, "_rebuild_qtensor"
    yield "conjugate", {"a": torch.ones(2, dtype=torch.complex64).conj()}, {}, "conjugate"
    yield "expanded", {"a": values(1).expand(9)}, {}, "outside its storage"
    yield "legacy", {"a": values(2)}, {"_use_new_zipfile_serialization": False}, "torch before 1.6"


def main():
    tool = sys.argv[1]
    with tempfile.TemporaryDirectory() as top:
        cases = [(*case, None) for case in good()] + list(bad())
        lines = []
        for name, saved, options, _ in cases:
            folder = os.path.join(top, name)
            os.makedirs(folder)
            torch.save(saved, os.path.join(folder, "adapter_model.bin"), **options)
            lines.append(f"{folder} {folder}/result.safetensors")
        done = subprocess.run([tool], input="\n".join(lines), capture_output=True, text=True, check=True)
        answers = done.stdout.splitlines()
        assert len(answers) == len(cases), done.stderr
        for (name, saved, _, words), answer in zip(cases, answers):
            if words is not None:
                assert words in answer, f"{name}: {answer}"
                continue
            assert answer == "ok", f"{name}: {answer}"
            result = load_file(os.path.join(top, name, "result.safetensors"))
            # What Python itself reads is what was saved.
            theirs = torch.load(os.path.join(top, name, "adapter_model.bin"), weights_only=False)
            assert set(result) == set(theirs) == set(saved), name
            for key, value in theirs.items():
                assert result[key].dtype == value.dtype and result[key].shape == value.shape, f"{name}: {key}"
                same = result[key].contiguous().view(torch.uint8) if value.dim() else result[key].reshape(1)
                other = value.detach().contiguous().view(torch.uint8) if value.dim() else value.detach().reshape(1)
                assert torch.equal(same, other), f"{name}: {key}"
    print(f"pickles_parity: {len(cases)} files agree")


if __name__ == "__main__":
    main()
