# SPDX-License-Identifier: Apache-2.0
"""Runs Python PEFT beside the library, adapters going both ways.

For each case: PEFT builds a model, injects, randomises and saves; the C++ tool
loads that folder and must give PEFT's outputs and gradients, and the tensors
to the bit. Then the tool injects by the same config, randomises and saves;
PEFT must load that and give the tool's outputs, from the same keys, shapes and
config fields.

usage: lora_parity.py LORA_TOOL [CASE...]
"""
import json
import os
import subprocess
import sys
import tempfile
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.layers = nn.ModuleList()
        for _ in range(3):
            layer = nn.Sequential()
            layer.add_module("query", nn.Linear(8, 6))
            layer.add_module("act", nn.Tanh())
            layer.add_module("value", nn.Linear(6, 8, bias=False))
            self.layers.append(layer)
        self.norm = nn.LayerNorm(8)
        self.classifier = nn.Linear(8, 3)

    def forward(self, ids):
        x = self.embedding(ids)
        for layer in self.layers:
            x = x + layer(x)
        return self.classifier(self.norm(x))

    def example(self):
        return torch.tensor([[1, 2, 3, 4], [10, 0, 1, 1]])


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv1d(4, 8, 3, padding=1)
        self.c2 = nn.Conv2d(1, 4, (3, 2), stride=2)
        self.c2g = nn.Conv2d(4, 8, 1, groups=4, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.c3 = nn.Conv3d(1, 2, 2)

    def forward(self, x):
        x = self.c1(x).unsqueeze(1)
        x = self.bn(self.c2g(torch.tanh(self.c2(x))))
        return self.c3(x.unsqueeze(1))

    def example(self):
        return torch.randn(3, 4, 9)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.mha = nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.mha(x, x, x)[0])

    def example(self):
        return torch.randn(5, 3, 8)


MODELS = {"text": Text, "convolutions": Convolutions, "attention": Attention}
QV = ["query", "value"]


def lora(**fields):
    return LoraConfig(**{"r": 4, "lora_alpha": 6, **fields})


# name: model, adapters {name: config}, options
CASES = {
    "linear": ("text", {"default": lora(target_modules=QV)}, {}),
    "all_linear": ("text", {"default": lora(target_modules="all-linear")}, {}),
    "regex": ("text", {"default": lora(target_modules=r".*\.[02]\.(query|value)")}, {}),
    "embedding": ("text", {"default": lora(target_modules=["embedding", "query"])}, {}),
    "rslora": ("text", {"default": lora(target_modules=QV, use_rslora=True)}, {}),
    "float_alpha": ("text", {"default": lora(target_modules=QV, lora_alpha=2.5)}, {}),
    "no_init": ("text", {"default": lora(target_modules=["embedding", *QV], init_lora_weights=False)}, {}),
    "gaussian": ("text", {"default": lora(target_modules=QV, init_lora_weights="gaussian")}, {}),
    "patterns": ("text", {"default": lora(
        target_modules=[*QV, "embedding"], rank_pattern={"1.query": 2, "^layers.2.value": 7, "embedding": 3},
        alpha_pattern={"value": 5, r"layers\.[01]\.query": 9})}, {}),
    # PEFT trains rank 3 here, and writes a config that says 5: json sorts keys.
    "pattern_order": ("text", {"default": lora(target_modules=QV, rank_pattern={"query": 3, "layers.0.query": 5})},
                      {"order_lost": True}),
    "excluded": ("text", {"default": lora(target_modules=QV, exclude_modules=["layers.1.query"])}, {}),
    "layers": ("text", {"default": lora(target_modules=QV, layers_to_transform=[0, 2], layers_pattern="layers")}, {}),
    "modules_to_save": ("text", {"default": lora(target_modules=["query"], modules_to_save=["classifier", "norm"])}, {}),
    "bias_lora_only": ("text", {"default": lora(target_modules=QV, bias="lora_only")}, {}),
    "bias_all": ("text", {"default": lora(target_modules=QV, bias="all")}, {}),
    "train_mode": ("text", {"default": lora(target_modules=QV)}, {"train": True}),
    "dropout_eval": ("text", {"default": lora(target_modules=QV, lora_dropout=0.5)}, {}),
    "bfloat16": ("text", {"default": lora(target_modules="all-linear")}, {"dtype": "bfloat16"}),
    "two_adapters": ("text", {
        "default": lora(target_modules=QV),
        "other": lora(r=2, lora_alpha=3, target_modules=["query", "embedding"])}, {}),
    "convolutions": ("convolutions", {"default": lora(target_modules=["c1", "c2", "c2g", "c3"])}, {}),
    "convolutions_train": ("convolutions", {"default": lora(
        target_modules=["c1", "c2g"], modules_to_save=["bn"])}, {"train": True}),
    # PEFT 0.21.2 adds out_proj's product twice in forward, so its outputs are
    # compared with that product at zero; keys, shapes and values as ever.
    "attention": ("attention", {"default": lora(target_modules=["mha", "head"])}, {"zero_out_proj": True}),
}


def randomise(model, options):
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad:
                p.add_(torch.rand(p.shape, generator=generator) * 0.2)
            if options.get("zero_out_proj") and "out_proj.lora_B" in name:
                p.zero_()


def peft_model(base, adapters, options):
    """Every adapter injected and active, trainable."""
    names = list(adapters)
    model = get_peft_model(base, adapters[names[0]], adapter_name=names[0], autocast_adapter_dtype=False)
    for name in names[1:]:
        model.add_adapter(name, adapters[name], autocast_adapter_dtype=False)
    if len(names) > 1:
        model.base_model.set_adapter(names)
    model.train(options.get("train", False))
    return model


def run_peft(model, x, direction):
    y = model(x)
    (y * direction).sum().backward()
    return y.detach()


def file_gradients(model, name):
    """Gradients by file key, through PEFT's own naming of a state dict."""
    from peft import get_peft_model_state_dict

    gradients = {n: p.grad if p.grad is not None else torch.full_like(p, float("nan"))
                 for n, p in model.named_parameters()}
    for n, b in model.named_buffers():
        gradients[n] = torch.full_like(b, float("nan")) if b.is_floating_point() else b
    state = get_peft_model_state_dict(model, state_dict=gradients, adapter_name=name, save_embedding_layers=False)
    return {k.removeprefix("base_model.model."): v for k, v in state.items()}


def close(a, b, dtype):
    tolerance = 5e-2 if dtype == torch.bfloat16 else 1e-4
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=tolerance, atol=tolerance)


def call(tool, mode, folder):
    done = subprocess.run([tool, mode, folder], capture_output=True, text=True)
    assert done.returncode == 0, f"{mode} failed: {done.stderr}"
    return load_file(os.path.join(folder, "result.safetensors"))


def surplus(key):
    """Second names that PEFT writes for biases of saved modules."""
    return ".original_module." in key or ".modules_to_save." in key


def check_loads_here(tool, folder, model, x, direction, adapters, dtype):
    y = run_peft(model, x, direction)
    result = call(tool, "load", folder)
    assert close(result["y"], y, dtype), f"outputs differ by {(result['y'] - y).abs().max()}"
    for name in adapters:
        path = os.path.join(folder, "adapter", "" if name == "default" else name, "adapter_model.safetensors")
        saved = {k.removeprefix("base_model.model."): v for k, v in load_file(path).items() if not surplus(k)}
        ours = {k.split("|", 1)[1]: v for k, v in result.items() if k.startswith(f"value.{name}|")}
        assert set(saved) == set(ours), f"keys differ: {set(saved) ^ set(ours)}"
        for key in saved:
            if "running" not in key and "num_batches" not in key:
                assert torch.equal(saved[key], ours[key]), f"{key} is not equal to the bit"
        for key, gradient in file_gradients(model, name).items():
            if surplus(key) or not gradient.is_floating_point() or gradient.isnan().any():
                continue
            found = result.get(f"grad.{name}|{key}")
            if found is None:
                assert gradient.abs().max() == 0, f"no gradient here for {key}"
            else:
                assert close(found, gradient, dtype), f"gradient of {key} differs"


def check_loads_there(tool, folder, base, x, adapters, options, dtype):
    result = call(tool, "save", folder)
    saved = os.path.join(folder, "saved")
    names = list(adapters)
    model = None
    for name in names:
        path = saved if name == "default" else os.path.join(saved, name)
        if model is None:
            model = PeftModel.from_pretrained(base, path, adapter_name=name, autocast_adapter_dtype=False)
        else:
            model.load_adapter(path, name, autocast_adapter_dtype=False)
        theirs = os.path.join(folder, "adapter", "" if name == "default" else name)
        check_config(os.path.join(path, "adapter_config.json"), os.path.join(theirs, "adapter_config.json"))
        a = load_file(os.path.join(path, "adapter_model.safetensors"))
        b = load_file(os.path.join(theirs, "adapter_model.safetensors"))
        b = {k: v for k, v in b.items() if not surplus(k)}
        assert set(a) == set(b), f"file keys differ: {set(a) ^ set(b)}"
        if not options.get("order_lost"):
            assert {k: v.shape for k, v in a.items()} == {k: v.shape for k, v in b.items()}, "file shapes differ"
    model.base_model.set_adapter(names)
    model.train(options.get("train", False))
    if options.get("zero_out_proj"):
        return  # the tool's own random out_proj counts once there, twice here
    with torch.no_grad():
        y = model(x)
    assert close(result["y"], y, dtype), f"outputs differ by {(result['y'] - y).abs().max()}"


def check_config(ours, theirs):
    ours, theirs = json.load(open(ours)), json.load(open(theirs))
    for config in (ours, theirs):
        for field in ("target_modules", "exclude_modules", "modules_to_save"):
            if isinstance(config[field], list):
                config[field] = sorted(config[field])
        config["target_parameters"] = config["target_parameters"] or None  # an empty list says no more
    assert ours == theirs, {k: (ours.get(k), theirs.get(k)) for k in {*ours, *theirs} if ours.get(k) != theirs.get(k)}


def make_case(folder, name):
    architecture, adapters, options = CASES[name]
    torch.manual_seed(1)
    base = MODELS[architecture]()
    dtype = getattr(torch, options.get("dtype", "float32"))
    x = base.example()
    save_file({k: v.clone() for k, v in base.state_dict().items()}, os.path.join(folder, "base.safetensors"))
    base.to(dtype)
    if x.is_floating_point():
        x = x.to(dtype)
    with open(os.path.join(folder, "case.json"), "w") as f:
        json.dump({"model": architecture, "dtype": options.get("dtype", "float32"),
                   "train": options.get("train", False), "adapters": list(adapters)}, f)
    return base, adapters, options, dtype, x


def run(tool, name):
    with tempfile.TemporaryDirectory() as folder:
        base, adapters, options, dtype, x = make_case(folder, name)
        with torch.no_grad():
            direction = torch.rand(base(x).shape).to(dtype)
        save_file({"x": x, "direction": direction}, os.path.join(folder, "input.safetensors"))
        # The direction pass above moved running statistics: start again.
        fresh = MODELS[CASES[name][0]]()
        fresh.load_state_dict(load_file(os.path.join(folder, "base.safetensors")))
        model = peft_model(fresh.to(dtype), adapters, options)
        randomise(model, options)
        model.save_pretrained(os.path.join(folder, "adapter"), save_embedding_layers=False)
        check_loads_here(tool, folder, model, x, direction, adapters, dtype)
        again = MODELS[CASES[name][0]]()
        again.load_state_dict(load_file(os.path.join(folder, "base.safetensors")))
        check_loads_there(tool, folder, again.to(dtype), x, adapters, options, dtype)


def main():
    torch.set_num_threads(1)
    tool, names = sys.argv[1], sys.argv[2:] or list(CASES)
    failed = 0
    for name in names:
        try:
            run(tool, name)
            print(f"ok      {name}")
        except AssertionError as error:
            failed += 1
            print(f"FAILED  {name}: {error}")
    print(f"{len(names) - failed} of {len(names)} cases agree with PEFT")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
