# SPDX-License-Identifier: Apache-2.0
"""A model to export: how it is made, called, adapted and exported."""
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.export import Dim
from torch.utils import _pytree as pytree


def call(*args, **kwargs):
    return args, kwargs


def on(*modules, **fields):
    """Fields of a LoraConfig."""
    return {"target_modules": list(modules), **fields}


ALL_LINEAR = {"target_modules": "all-linear"}


@dataclass
class Example:
    make: Callable[[], torch.nn.Module]
    inputs: Callable  # (batch, length) -> call(...)
    adapter: dict = field(default_factory=ALL_LINEAR.copy)  # empty: none
    sizes: tuple = ((2, 7), (3, 10))
    training: bool = True  # exported so
    dtype: str = "float32"
    core: bool = False  # run_decompositions() before saving
    strict: bool = False
    steps: int = 10  # of training
    injects: bool = True  # False: Python has other adapters, as it knows which modules are one object
    merges: bool = True  # False: it computes weights, which no file can hold merged
    extra: bool = False  # much like another: run by name or with --all

    def module(self):
        torch.manual_seed(1)
        return self.make().to(getattr(torch, self.dtype)).train(self.training)

    def calls(self):
        """Arguments of the two sizes: new tensors, the same values."""
        torch.manual_seed(2)
        return pytree.tree_map_only(torch.Tensor, self.cast, [self.inputs(*size) for size in self.sizes])

    def cast(self, tensor):
        return tensor.to(getattr(torch, self.dtype)) if tensor.is_floating_point() else tensor

    def takes_only_tensors(self):
        """False where a number varies, which forward(tensors) cannot say."""
        small, large = ([x for x in pytree.tree_leaves(c) if not isinstance(x, torch.Tensor)] for c in self.calls())
        return small == large


def varying(module, small, large):
    """Dynamic sizes: those in which the two calls differ, by argument name."""
    def sizes(a, b):
        if isinstance(a, torch.Tensor):
            return {i: Dim.AUTO for i in range(a.dim()) if a.shape[i] != b.shape[i]}
        return Dim.DYNAMIC if type(a) is int and a != b else None

    def named(args, kwargs):
        return dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)

    return pytree.tree_map(sizes, named(*small), named(*large))


def export(example):
    module, calls = example.module(), example.calls()
    shapes = varying(module, *calls)
    program = torch.export.export(module, *calls[0], dynamic_shapes=shapes, strict=example.strict)
    return program.run_decompositions() if example.core else program
