# SPDX-License-Identifier: Apache-2.0
"""The Python half of one model: what exported_tool.cpp is given and what it
must give back."""
import dataclasses
import json
import os

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch.utils import _pytree as pytree

from exported_example import export
from exported_models import MODELS
from adapter_parity import file_gradients, randomise

LEARNING = {"lr": 1e-2, "eps": 1e-4}  # gradients that are rounding noise move nothing


def tensors_of(value):
    return [x for x in pytree.tree_leaves(value) if isinstance(x, torch.Tensor)]


def write(path, tensors):
    if isinstance(tensors, list):
        tensors = {str(i): t for i, t in enumerate(tensors)}
    save_file({k: t.detach().clone().contiguous() for k, t in tensors.items()}, path)


def described(value, numbers=None):
    """As the tool's JSON: tensors by number, dataclasses by field."""
    numbers = iter(range(1000)) if numbers is None else numbers
    if isinstance(value, torch.Tensor):
        return {"tensor": next(numbers)}
    if isinstance(value, (list, tuple)):
        return [described(v, numbers) for v in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, dict):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k: described(v, numbers) for k, v in value.items()}
    if isinstance(value, (int, float, str, type(None))):
        return value
    parts, spec = pytree.tree_flatten(value, is_leaf=lambda x: x is not value)  # such as a cache
    keys = spec.context
    keys = keys[0] if keys and isinstance(keys, list) and isinstance(keys[0], list) else keys
    if isinstance(keys, list) and len(keys) == len(parts):
        return {k: described(v, numbers) for k, v in zip(keys, parts)}
    return [described(v, numbers) for v in parts]


class ToolError(Exception):
    pass


class Case:
    def __init__(self, name, folder):
        self.name, self.folder, self.example = name, folder, MODELS[name]
        self.compared, self.equal, self.largest = 0, 0, 0.0
        os.makedirs(folder)

    def path(self, name):
        return os.path.join(self.folder, name)

    def run(self, model, size=0):
        """Outputs, from seed 0, and the arguments afterwards."""
        args, kwargs = self.example.calls()[size]
        torch.manual_seed(0)
        return model(*args, **kwargs), tensors_of((args, kwargs))

    def prepare(self):
        program = export(self.example)
        torch.export.save(program, self.path("model.pt2"))
        for size, arguments in enumerate(self.example.calls()):
            write(self.path(f"inputs{size}.safetensors"), tensors_of(arguments))
        self.expected = {"train": self.expect(program.module()), "eval": self.expect(self.example.module().eval())}
        self.state_keys = set(program.state_dict)
        self.is_large = len(program.graph.nodes) > 100
        if self.example.adapter:
            self.adapt()

    def expect(self, model):
        """Outputs of both sizes, and what they leave behind."""
        expected = {"output": [], "input": []}
        for size in range(len(self.example.sizes)):
            y, inputs = self.run(model, size)
            expected["output"].append([t.detach().clone() for t in tensors_of(y)])
            expected["input"].append(inputs)
        expected["structure"] = described(y)
        expected["buffer"] = {n: b.clone() for n, b in model.named_buffers()}
        return expected

    def adapt(self):
        config = LoraConfig(r=4, lora_alpha=6, **self.example.adapter)
        model = get_peft_model(self.example.module(), config)
        model.train(self.example.training)
        randomise(model, {"zero_out_proj": self.zero_out_proj()})
        model.save_pretrained(self.path("adapter"), save_embedding_layers=False)
        self.targets = {n for n, m in model.base_model.model.named_modules() if hasattr(m, "base_layer")}
        outputs = tensors_of(self.run(model)[0])
        self.adapted = [y.detach().clone() for y in outputs]
        directions = {str(i): torch.rand(y.shape) for i, y in enumerate(outputs)
                      if y.is_floating_point() and y.requires_grad}
        write(self.path("directions.safetensors"), directions)
        sum((outputs[int(i)].float() * d).sum() for i, d in directions.items()).backward()
        self.gradients = {k: g.clone() for k, g in file_gradients(model, "default").items()}
        self.losses = self.train(model, directions)

    def zero_out_proj(self):
        """PEFT 0.21.2 adds the product of an attention's out_proj twice."""
        return "mha" in self.example.adapter["target_modules"]

    def train(self, model, targets):
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], **LEARNING)
        losses = []
        for _ in range(self.example.steps):
            optimizer.zero_grad()
            outputs = tensors_of(self.run(model)[0])
            loss = sum((outputs[int(i)].float() - t).square().mean() for i, t in targets.items())
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    def jobs(self):
        shared = {"program": self.path("model.pt2"), "only_tensors": self.example.takes_only_tensors(),
                  "inputs": [self.path(f"inputs{i}.safetensors") for i in range(len(self.example.sizes))],
                  "calls": [described_call(c) for c in self.example.calls()],
                  "adapter": self.path("adapter"), "steps": self.example.steps,
                  "directions": self.path("directions.safetensors")}
        jobs = [{"do": "run", "saved": self.path("saved.pt2")}]
        if self.example.adapter:
            merged = {"merged": self.path("merged.pt2")} if self.example.merges else {}
            jobs += [{"do": "load", **merged}]
            jobs += [{"do": "inject", "saved": self.path("injected")}] if self.example.injects else []
        return [{**shared, **job, "result": self.path(job["do"])} for job in jobs]

    def result(self, job):
        """What the tool gave back: (JSON, tensors)."""
        with open(self.path(job + ".json")) as f:
            values = json.load(f)
        if "error" in values:
            raise ToolError(f"{job}: {values['error']}")
        return values, load_file(self.path(job + ".safetensors"))

    def note(self, difference):
        self.compared += 1
        self.equal += difference == 0
        self.largest = max(self.largest, difference)

    def summary(self):
        return f"{self.equal} of {self.compared} outputs to the bit, largest difference {self.largest:.1e}"


def described_call(arguments):
    args, kwargs = arguments
    numbers = iter(range(1000))
    return {"args": described(args, numbers), "kwargs": described(kwargs, numbers)}
