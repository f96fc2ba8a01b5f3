# SPDX-License-Identifier: Apache-2.0
"""Models that put into the graph what layers do not: control flow, sizes,
blocks of no_grad and autocast, nested arguments, buffers that change."""
import collections
from dataclasses import dataclass

import torch
from torch import nn
from torch._higher_order_ops import map as map_rows
from torch._higher_order_ops import scan, while_loop
from torch._higher_order_ops.associative_scan import associative_scan
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from exported_example import Example, call

Pair = collections.namedtuple("Pair", ["first", "second"])
pytree._register_namedtuple(Pair, serialized_type_name="exported_models.Pair")


@dataclass
class Scores:
    logits: torch.Tensor
    hidden: list
    nothing: object = None


torch.export.register_dataclass(Scores, serialized_type_name="exported_models.Scores")


def features(batch, length):
    return call(torch.randn(batch, length, 8))


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(8, 8)
        self.two = nn.Linear(8, 8)


class Cond(Layers):
    def forward(self, x):
        length = x.shape[1]
        y = torch.cond(x.sum() > 0, lambda x: self.one(x) / length,
                       lambda x: torch.cond(x[0, 0, 0] > 0, self.one, self.two, (x,)), (x,))
        y, z = torch.cond(length > 8, lambda y: (y + 1, y.sum()), lambda y: (y - 1, y.mean()), (y,))
        return self.two(y), z


class WhileLoop(Layers):
    def forward(self, x):
        def body(i, y):
            return i + 1, torch.tanh(self.one(y))

        count, y = while_loop(lambda i, y: i < 3, body, (torch.zeros((), dtype=torch.int64), x.clone()))
        return self.two(y), count


class Scan(Layers):
    def forward(self, x):
        def step(state, row):
            state = torch.tanh(self.one(row) + self.two(state))
            return state, (state * 2, row.sum() / x.shape[1])

        return scan(step, torch.zeros(x.shape[0], 8), x, dim=1, reverse=True)


class Map(Layers):
    def forward(self, x):
        return map_rows(lambda row, y: self.one(row) + y, x, torch.ones(8))


class NoGrad(Layers):
    def forward(self, x):
        with torch.no_grad():
            frozen = self.one(x)
            with torch.enable_grad():
                live = self.two(frozen)
            frozen = frozen * 2  # Python cannot load what ends with an empty block
        return self.one(x) + frozen, live


class Autocast(Layers):
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.one(x)
            with torch.autocast("cpu", enabled=False):
                z = self.two(y.float())
        return self.two(x), y, z


class Complex(Layers):
    def forward(self, x):
        spectrum = torch.fft.rfft(self.one(x), dim=-1) * torch.polar(x[..., :5].abs(), x[..., :5])
        y = torch.fft.irfft(spectrum, n=8, dim=-1)
        return self.two(y), torch.view_as_real(spectrum), spectrum.abs() + (spectrum * 2j).real


class Counters(Layers):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("history", torch.zeros(4, 8))
        self.register_buffer("last", torch.zeros(8), persistent=False)

    def forward(self, x):
        self.calls += 1
        y = self.one(x)
        with torch.no_grad():
            self.mean.lerp_(y.mean((0, 1)), 0.1)
            self.history[1:3] = y[0, :2]
            self.history.index_copy_(0, torch.tensor([3]), y[1, :1])
            self.last = y[0, 0] * 2
        return self.two(y - self.mean), self.calls * 2


class Outputs(Layers):
    def forward(self, x):
        y, z = self.one(x), self.two(x)
        return {"pair": Pair(y, [z, (y + z,)]), "scores": Scores(y * z, [y, z]), "number": 3, "half": 0.5,
                "yes": True, "none": None, "ordered": collections.OrderedDict(b=y - z, a=z - y), "input": x}


class Arguments(Layers):
    def forward(self, x, scale=1.0, *rest, flag=None, pair=(), table=None, mode="sum"):
        y = self.one(x) * scale + rest[0]
        if flag is None and mode == "mean":
            y = y + pair[0] - pair[1] * table["b"]
        return self.two(y * table["a"])


def arguments(batch, length):
    x = torch.randn(batch, length, 8)
    return call(x, 2.0, x + 1, flag=None, pair=(x * 2, x * 3), table={"b": x[0] * 1, "a": x.mean()}, mode="mean")


class Sizes(Layers):
    def forward(self, x):
        b, t, d = x.shape
        y = self.one(x.reshape(b * t, -1)).view(b, t, d)
        y = y.repeat(1, 2, 1)[:, : (3 * t) // 2]
        half = t // 2 + t % 2
        y = torch.cat([y[:, :half], y[:, -half:], torch.zeros(b, max(t, 2), d)], dim=1)
        y = y * (t ** 0.5) / (b + t) + torch.arange(y.shape[1]).unsqueeze(-1)
        return self.two(y), torch.full((b, t + 1), t / 2), y.shape[1], b * t


class Numbers(Layers):
    def forward(self, x, count, scale):
        y = self.one(x).expand(count, -1, -1, -1) * scale
        return self.two(y).sum(0), count + 1


class DataDependent(Layers):
    def forward(self, x):
        chosen = x[x[..., 0] > 0]
        torch._check(chosen.shape[0] > 0)
        count = (x[..., 1] > 0).sum().item()
        torch._check(count >= 0)
        torch._check(count <= x.shape[0] * x.shape[1])
        return self.one(chosen), self.two(x).flatten(0, 1)[:count], chosen.shape[0], torch.nonzero(x > 1)


class Inplace(Layers):
    def forward(self, x):
        y = self.one(x).clone()
        y[:, 0] = 0
        y[y > 1] = 1
        y.transpose(1, 2).mul_(2)
        y += x
        values, order = torch.topk(y, 3, dim=-1)
        parts = torch.split(self.two(y), [3, 5], dim=-1)
        return F.relu(parts[0]), parts[1], values, order, *torch.unbind(y, -1)[:2], torch.chunk(y, 2, 1)[0]


class MutatesInput(Layers):
    def forward(self, x, cache):
        cache.add_(self.one(x).detach())
        return self.two(x + cache)


class Constants(Layers):
    def __init__(self):
        super().__init__()
        self.plain = torch.arange(8.0)

    def forward(self, x):
        table = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        y = self.one(x * self.plain)[..., torch.tensor([3, 1])] @ table
        return y, self.two(x).to(torch.float64), torch.ones(x.shape[1], dtype=torch.int32)


class Random(Layers):
    def forward(self, x):
        y = self.one(x)
        noise = torch.randn_like(y) + torch.rand(y.shape) * torch.bernoulli(torch.full_like(y, 0.5))
        return self.two(y + noise), torch.randperm(x.shape[1])


class Vmap(Layers):
    """Adapted layers in one level and in two, with an input that every row has alike."""

    def forward(self, x):
        y = torch.vmap(lambda row: torch.tanh(self.one(row)) + 1)(x)
        return torch.vmap(torch.vmap(lambda a, b: (self.two(a) * b).sum(), in_dims=(0, None)), in_dims=(1, 0))(y, x[0])


class VmapMask(Layers):
    """As transformers makes the masks of attention where it is given a function."""

    def forward(self, x):
        places = torch.arange(x.shape[1])

        def sees(query, key):
            return (query >= key) & (key % 3 != 2)

        mask = torch.vmap(torch.vmap(sees, in_dims=(None, 0)), in_dims=(0, None))(places, places)
        q = self.one(x).unsqueeze(1)
        return F.scaled_dot_product_attention(q, q, self.two(x).unsqueeze(1), attn_mask=mask).squeeze(1)


class VmapWeights(Layers):
    """An ensemble: the level is over weights, and noise that is each row's own."""

    def __init__(self):
        super().__init__()
        self.members = nn.Parameter(torch.randn(3, 8, 5))

    def forward(self, x):
        y = torch.vmap(lambda w: self.one(x) @ w)(self.members)
        z = torch.vmap(lambda row: row + torch.rand(8), randomness="same")(self.two(x))
        return y, z, torch.vmap(self.one, chunk_size=2, in_dims=1)(z)


class AssociativeScan(Layers):
    def forward(self, x):
        def combine(a, b):
            return a[0] * b[0], a[1] * b[0] + b[1]

        gates, states = associative_scan(combine, (torch.sigmoid(self.one(x)), self.two(x)), dim=1,
                                         combine_mode="generic")
        return gates, self.two(states)


def with_numbers(batch, length):
    return call(torch.randn(batch, length, 8), batch, 0.5)


def with_cache(batch, length):
    return call(torch.randn(batch, length, 8), torch.zeros(batch, length, 8))


# In Python, control flow compiles its branches at every call.
GRAPHS = {
    "cond": Example(Cond, features, steps=2),
    # Python's while_loop drops a part of the gradient, so it is run only.
    "while_loop": Example(WhileLoop, features, adapter={}),
    "scan": Example(Scan, features, steps=2),
    "map": Example(Map, features, steps=2),
    "no_grad": Example(NoGrad, features),
    "autocast": Example(Autocast, features),
    "complex": Example(Complex, features),
    "counters": Example(Counters, features),
    "outputs": Example(Outputs, features),
    "arguments": Example(Arguments, arguments),
    "sizes": Example(Sizes, features),
    "numbers": Example(Numbers, with_numbers),
    "data_dependent": Example(DataDependent, features),
    "inplace": Example(Inplace, features),
    "mutates_input": Example(MutatesInput, with_cache),
    "constants": Example(Constants, features),
    "random": Example(Random, features),
    "vmap": Example(Vmap, features),
    "vmap_mask": Example(VmapMask, features),
    # Exported for one size: torch.vmap's chunks, and the scan, which is unrolled into torch.vmap.
    "vmap_weights": Example(VmapWeights, features, sizes=((4, 6), (4, 6))),
    "associative_scan": Example(AssociativeScan, features, sizes=((2, 7), (2, 7))),
}
