# SPDX-License-Identifier: Apache-2.0
"""Runs Python PEFT beside the library: every method, adapters going both ways.

For each case: PEFT builds a model, injects, randomises and saves; the C++ tool
loads that folder and must give PEFT's outputs and gradients, and the tensors
to the bit. Then the tool injects by the same config, randomises and saves;
PEFT must load that and give the tool's outputs, from the same keys, shapes and
config fields. Last, both train what PEFT saved for 20 steps on the same data:
their losses must agree, and the ranks that AdaLoRA leaves.

usage: adapter_parity.py ADAPTER_TOOL [CASE...]
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
from peft import AdaLoraConfig, IA3Config, LoraConfig, PeftModel, get_peft_model
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


class Tied(nn.Module):
    """What PEFT wants to know of a model with a tied head, as transformers says it."""
    _tied_weights_keys = {"lm_head.weight": "embed_tokens.weight"}
    config = {"model_type": "custom", "tie_word_embeddings": True}

    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(9, 6)
        self.body = nn.Linear(6, 6)
        self.lm_head = nn.Linear(6, 9, bias=False)
        self.lm_head.weight = self.embed_tokens.weight

    def get_input_embeddings(self):
        return self.embed_tokens

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, ids):
        return self.lm_head(torch.tanh(self.body(self.embed_tokens(ids))))

    def example(self):
        return torch.tensor([[3, 1, 8], [1, 0, 7]])


class Mix(nn.Module):
    """One matrix, used as x w."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(6, 5))

    def forward(self, x):
        return x @ self.w


class Parameters(nn.Module):
    """Weights of two and three dimensions, for target_parameters."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(7, 6)
        self.mix = Mix()
        self.conv = nn.Conv1d(5, 4, 3, padding=1)
        self.both = nn.Bilinear(4, 3, 2)

    def forward(self, x):
        x = self.mix(torch.tanh(self.linear(x)))
        x = self.conv(x.transpose(1, 2)).transpose(1, 2).contiguous()
        return self.both(x, x[..., :3].contiguous())

    def example(self):
        return torch.randn(3, 5, 7)


MODELS = {"text": Text, "convolutions": Convolutions, "attention": Attention, "tied": Tied, "parameters": Parameters}
QV = ["query", "value"]
CONVOLUTIONS = ["c1", "c2", "c3"]
STEPS = 20


def lora(**fields):
    return LoraConfig(**{"r": 4, "lora_alpha": 6, **fields})


def ia3(**fields):
    return IA3Config(**{"target_modules": QV, "feedforward_modules": [], **fields})


def adalora(**fields):
    return AdaLoraConfig(**{
        "init_r": 4, "target_r": 2, "lora_alpha": 6, "target_modules": QV, "total_step": STEPS, "tinit": 2, "tfinal": 5,
        "deltaT": 3, **fields})


def tied_lora(grown=None, **fields):
    return ("tied", {"default": lora(**{"r": 2, "target_modules": ["body"], **fields})}, {"tied": True, "grown": grown})


def text_lora(**fields):
    return ("text", {"default": lora(**{"target_modules": QV, **fields})}, {})


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
                      {"order_lost": True, "no_training": "PEFT cannot load its own file"}),
    "excluded": ("text", {"default": lora(target_modules=QV, exclude_modules=["layers.1.query"])}, {}),
    "layers": ("text", {"default": lora(target_modules=QV, layers_to_transform=[0, 2], layers_pattern="layers")}, {}),
    "modules_to_save": ("text", {"default": lora(target_modules=["query"], modules_to_save=["classifier", "norm"])}, {}),
    "bias_lora_only": ("text", {"default": lora(target_modules=QV, bias="lora_only")}, {}),
    "bias_all": ("text", {"default": lora(target_modules=QV, bias="all")}, {}),
    "train_mode": ("text", {"default": lora(target_modules=QV)}, {"train": True}),
    "dropout_eval": ("text", {"default": lora(target_modules=QV, lora_dropout=0.5)}, {"no_training": "random"}),
    "bfloat16": ("text", {"default": lora(target_modules="all-linear")}, {"dtype": "bfloat16"}),
    "bfloat16_throughout": ("text", {"default": lora(
        target_modules=[*QV, "embedding"])}, {"dtype": "bfloat16", "autocast": False}),
    "bfloat16_parts": ("text", {"default": lora(
        target_modules=[*QV, "embedding"], lora_bias=False, bias="all", modules_to_save=["classifier", "norm"])}, {
            "dtype": "bfloat16"}),
    "bfloat16_convolutions": ("convolutions", {"default": lora(
        target_modules=[*CONVOLUTIONS, "c2g"], lora_bias=True)}, {"dtype": "bfloat16"}),
    "bfloat16_attention": ("attention", {"default": lora(target_modules=["mha", "head"])}, {
        "dtype": "bfloat16", "zero_out_proj": True}),
    "float16": ("text", {"default": lora(target_modules="all-linear")}, {"dtype": "float16"}),
    "two_adapters": ("text", {
        "default": lora(target_modules=QV),
        "other": lora(r=2, lora_alpha=3, target_modules=["query", "embedding"])}, {}),
    "convolutions": ("convolutions", {"default": lora(target_modules=["c1", "c2", "c2g", "c3"])}, {}),
    "convolutions_train": ("convolutions", {"default": lora(
        target_modules=["c1", "c2g"], modules_to_save=["bn"])}, {"train": True}),
    "dora": text_lora(use_dora=True, target_modules=[*QV, "embedding"]),
    "dora_train": ("text", {"default": lora(target_modules=QV, use_dora=True)}, {"train": True}),
    "dora_two": ("text", {"default": lora(target_modules=QV, use_dora=True),
                          "other": lora(r=2, target_modules=["query"], use_dora=True)}, {}),
    "dora_convolutions": ("convolutions", {"default": lora(target_modules=CONVOLUTIONS, use_dora=True)}, {}),
    "dora_bfloat16": ("text", {"default": lora(target_modules=QV, use_dora=True)}, {"dtype": "bfloat16"}),
    "dora_bfloat16_throughout": ("text", {"default": lora(
        target_modules=QV, use_dora=True)}, {"dtype": "bfloat16", "autocast": False}),
    "lora_bias": text_lora(lora_bias=True),
    "lora_bias_convolutions": ("convolutions", {"default": lora(
        target_modules=[*CONVOLUTIONS, "c2g"], lora_bias=True)}, {}),
    "lora_bias_and_bias_all": text_lora(lora_bias=True, bias="all"),
    "orthogonal": text_lora(init_lora_weights="orthogonal"),
    "olora": ("text", {"default": lora(target_modules=QV, init_lora_weights="olora")}, {"plain": True}),
    "pissa": ("text", {"default": lora(
        init_lora_weights="pissa", target_modules=[*QV, "embedding"], rank_pattern={"value": 3})}, {"plain": True}),
    "pissa_rslora": ("text", {"default": lora(
        target_modules=QV, init_lora_weights="pissa", use_rslora=True)}, {"plain": True}),
    "pissa_dora": text_lora(init_lora_weights="pissa", use_dora=True),
    "mica": text_lora(init_lora_weights="mica", target_modules=[*QV, "embedding"]),
    "tokens": text_lora(trainable_token_indices={"embedding": [10, 1, 3]}),
    "tokens_bfloat16": ("text", {"default": lora(
        target_modules=QV, trainable_token_indices={"embedding": [1, 2]})}, {"dtype": "bfloat16"}),
    "tokens_adalora": ("text", {"default": adalora(trainable_token_indices={"embedding": [3, 0]})}, {}),
    "tokens_of_tied": tied_lora(trainable_token_indices=[8, 1, 3]),
    "tying_by_embedding": tied_lora(target_modules=["embed_tokens", "body"], ensure_weight_tying=True),
    "tying_by_head": tied_lora(target_modules=["lm_head"], ensure_weight_tying=True),
    "tying_saved": tied_lora(modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    # Trained on a base whose vocabulary was enlarged, loaded on the base as it was.
    "grown": tied_lora(grown=12),
    "grown_embedding": tied_lora(grown=12, target_modules=["embed_tokens"]),
    "grown_head": tied_lora(grown=12, target_modules=["body", "lm_head"]),
    "grown_saved": tied_lora(grown=12, modules_to_save=["embed_tokens", "lm_head"]),
    "other_table": tied_lora(grown=9, target_modules=["embed_tokens"], use_dora=True),
    "parameters": ("parameters", {"default": lora(
        target_parameters=["linear.weight", "mix.w", "conv.weight", "both.weight"], rank_pattern={"conv.weight": 3},
        alpha_pattern={"mix.w": 5})}, {}),
    "parameters_bfloat16": ("parameters", {"default": lora(
        target_parameters=["linear.weight", "w", "conv.weight", "both.weight"])}, {"dtype": "bfloat16"}),
    "alora": ("text", {"default": lora(target_modules=QV, alora_invocation_tokens=[1, 2])},
              {"alora": [3, None], "no_training": "needs offsets"}),
    "alora_bias": ("text", {"default": lora(
        target_modules=QV, alora_invocation_tokens=[1, 2], lora_bias=True)}, {
            "alora": [9, 1], "no_training": "needs offsets"}),
    "ia3": ("text", {"default": ia3()}, {}),
    "ia3_feedforward": ("text", {"default": ia3(feedforward_modules=["value"])}, {}),
    "ia3_pattern": ("text", {"default": ia3(
        target_modules=r".*\.(query|value)", feedforward_modules=r".*\.value")}, {}),
    "ia3_two": ("text", {"default": ia3(feedforward_modules=["value"]), "other": ia3(target_modules=["query"])}, {}),
    "ia3_saved": ("text", {"default": ia3(modules_to_save=["classifier"])}, {}),
    "ia3_random": ("text", {"default": ia3(init_ia3_weights=False)}, {}),
    "ia3_convolutions": ("convolutions", {"default": ia3(
        target_modules=["c2", "c2g", "c3"], feedforward_modules=["c2g"])}, {}),
    "ia3_bfloat16": ("text", {"default": ia3(feedforward_modules=["value"])}, {"dtype": "bfloat16"}),
    "ia3_bfloat16_throughout": ("text", {"default": ia3(
        feedforward_modules=["value"])}, {"dtype": "bfloat16", "autocast": False}),
    "adalora_bfloat16": ("text", {"default": adalora()}, {"dtype": "bfloat16"}),
    "adalora": ("text", {"default": adalora()}, {}),
    "adalora_all_linear": ("text", {"default": adalora(
        target_modules="all-linear", bias="lora_only", modules_to_save=["norm"])}, {}),
    "adalora_convolutions": ("convolutions", {"default": adalora(target_modules=["c2"])}, {"trained_elsewhere": False}),
    "adalora_same_rank": ("text", {"default": adalora(target_r=4)}, {"no_training": "PEFT 0.21.2 crashes"}),
    # PEFT scales by the ranks that are left when it loads this after training.
    "adalora_no_alpha": ("text", {"default": adalora(lora_alpha=0)}, {"trained_elsewhere": False}),
    # PEFT 0.21.2 adds out_proj's product twice in forward, so its outputs are
    # compared with that product at zero; keys, shapes and values as ever.
    "attention": ("attention", {"default": lora(target_modules=["mha", "head"])}, {"zero_out_proj": True, "no_training": "twice there"}),
}


def randomise(model, options):
    generator = torch.Generator().manual_seed(11)
    low, high = options.get("noise", (0, 0.2))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad:
                p.add_(low + torch.rand(p.shape, generator=generator) * (high - low))
            if options.get("zero_out_proj") and "out_proj.lora_B" in name:
                p.zero_()


def peft_model(base, adapters, options):
    """Every adapter injected and active, trainable."""
    names = list(adapters)
    autocast = options.get("autocast", True)
    model = get_peft_model(base, adapters[names[0]], adapter_name=names[0], autocast_adapter_dtype=autocast)
    for name in names[1:]:
        model.add_adapter(name, adapters[name], autocast_adapter_dtype=autocast)
    if len(names) > 1 and not options.get("apart"):
        model.base_model.set_adapter(names)
    model.train(options.get("train", False))
    return model


def forward(model, x, options):
    offsets = options.get("alora")
    return model(x, alora_offsets=offsets) if offsets else model(x)


def run_peft(model, x, direction, options):
    y = forward(model, x, options)
    (y * direction).sum().backward()
    return y.detach()


def file_gradients(model, name):
    """Gradients by file key, through PEFT's own naming of a state dict."""
    from peft import get_peft_model_state_dict

    gradients = {n: p.grad if p.grad is not None else torch.full_like(p, float("nan"))
                 for n, p in model.named_parameters(remove_duplicate=False)}
    for n, b in model.named_buffers():
        gradients[n] = torch.full_like(b, float("nan")) if b.is_floating_point() else b
    state = get_peft_model_state_dict(model, state_dict=gradients, adapter_name=name, save_embedding_layers=False)
    return {k.removeprefix("base_model.model."): v for k, v in state.items()}


def join_tied(gradients):
    """PEFT trains the tied head's factors as parameters of their own in the same memory; here there is one."""
    for of_head, of_table in (("lora_A.weight", "lora_embedding_B"), ("lora_B.weight", "lora_embedding_A")):
        gradient = gradients.pop(f"lm_head.{of_head}", None)
        if gradient is not None:
            gradients[f"embed_tokens.{of_table}"] += gradient.T


def close(a, b, dtype):
    tolerance = {torch.bfloat16: 5e-2, torch.float16: 5e-3}.get(dtype, 1e-4)
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=tolerance, atol=tolerance)


def call(tool, mode, folder):
    done = subprocess.run([tool, mode, folder], capture_output=True, text=True)
    assert done.returncode == 0, f"{mode} failed: {done.stderr}"
    return load_file(os.path.join(folder, "result.safetensors"))


def surplus(key):
    """Second names that PEFT writes for biases of saved modules."""
    return ".original_module." in key or ".modules_to_save." in key


def check_loads_here(tool, folder, model, x, direction, adapters, options, dtype):
    y = run_peft(model, x, direction, options)
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
        gradients = file_gradients(model, name)
        if options.get("tied"):
            join_tied(gradients)
        for key, gradient in gradients.items():
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
    autocast = options.get("autocast", True)
    model = None
    for name in names:
        path = saved if name == "default" else os.path.join(saved, name)
        if model is None:
            model = PeftModel.from_pretrained(base, path, adapter_name=name, autocast_adapter_dtype=autocast)
        else:
            model.load_adapter(path, name, autocast_adapter_dtype=autocast)
        theirs = os.path.join(folder, "adapter", "" if name == "default" else name)
        check_config(os.path.join(path, "adapter_config.json"), os.path.join(theirs, "adapter_config.json"))
        a = load_file(os.path.join(path, "adapter_model.safetensors"))
        b = load_file(os.path.join(theirs, "adapter_model.safetensors"))
        b = {k: v for k, v in b.items() if not surplus(k)}
        assert set(a) == set(b), f"file keys differ: {set(a) ^ set(b)}"
        dtypes = {k: (v.dtype, b[k].dtype) for k, v in a.items() if v.dtype != b[k].dtype}
        assert not dtypes, f"file dtypes differ: {dtypes}"
        if not options.get("order_lost"):
            assert {k: v.shape for k, v in a.items()} == {k: v.shape for k, v in b.items()}, "file shapes differ"
    model.base_model.set_adapter(names)
    model.train(options.get("train", False))
    if options.get("plain"):
        check_plain(folder, fresh_base(folder), x, result["y"])
    if options.get("zero_out_proj"):
        return  # the tool's own random out_proj counts once there, twice here
    with torch.no_grad():
        y = forward(model, x, options)
    assert close(result["y"], y, dtype), f"outputs differ by {(result['y'] - y).abs().max()}"


def check_plain(folder, base, x, y):
    """The same adapter as plain LoRA of twice the rank."""
    path = os.path.join(folder, "plain")
    config = json.load(open(os.path.join(path, "adapter_config.json")))
    assert config["init_lora_weights"] is True and config["r"] == 8, config
    model = PeftModel.from_pretrained(base, path).eval()
    with torch.no_grad():
        assert close(model(x), y, torch.float32), "as plain LoRA outputs differ"


def check_config(ours, theirs, ignore=()):
    ours, theirs = json.load(open(ours)), json.load(open(theirs))
    for config in (ours, theirs):
        for field in ignore:
            config.pop(field, None)
        for field in ("target_modules", "exclude_modules", "modules_to_save", "feedforward_modules"):
            if isinstance(config.get(field), list):
                config[field] = sorted(config[field])
        config["target_parameters"] = config.get("target_parameters") or None  # an empty list says no more
    assert ours == theirs, {k: (ours.get(k), theirs.get(k)) for k in {*ours, *theirs} if ours.get(k) != theirs.get(k)}


def make_case(folder, case):
    architecture, adapters, options = case
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
                   "train": options.get("train", False), "alora": options.get("alora"),
                   "autocast": options.get("autocast", True),
                   "adapters": list(adapters), "operation": options.get("operation")}, f)
    return base, adapters, options, dtype, x


def train(model, x, direction):
    """Losses of STEPS steps, and the ranks that are left."""
    model.train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.05, momentum=0.9)
    is_adalora = model.peft_config["default"].peft_type == "ADALORA"
    losses = []
    for step in range(STEPS):
        loss = (model(x) - direction).square().mean()
        losses.append(loss.item())
        if is_adalora:
            loss = loss + regularization(model, model.peft_config["default"].orth_reg_weight)
        loss.backward()
        optimizer.step()
        if is_adalora:
            model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    if not is_adalora:
        return losses, {}
    return losses, {k.replace(".default", ""): v for k, v in model.peft_config["default"].rank_pattern.items()}


def regularization(model, weight):
    """As AdaLoraModel.forward adds it to a loss of the model's own."""
    terms = []
    for name, p in model.named_parameters():
        if ("lora_A" in name or "lora_B" in name) and "default" in name:
            covariance = p @ p.T if "lora_A" in name else p.T @ p
            terms.append(torch.norm(covariance - torch.eye(*covariance.size()), p="fro"))
    return weight * sum(terms) / len(terms)


def check_training(tool, folder, base, x, direction, options):
    """From what PEFT saved, the same losses and ranks."""
    if options.get("dtype") or options.get("no_training"):
        return
    model = PeftModel.from_pretrained(base, os.path.join(folder, "adapter"), is_trainable=True)
    losses, ranks = train(model, x, direction)
    result = call(tool, "train", folder)
    found = result["losses"]
    difference = (found - torch.tensor(losses)).abs().max()
    assert difference < 1e-4, f"losses of training differ by {difference}: {found.tolist()} against {losses}"
    saved = json.load(open(os.path.join(folder, "trained", "adapter_config.json")))
    if ranks:
        assert saved["rank_pattern"] == ranks, f"ranks differ: {saved['rank_pattern']} against {ranks}"
    # Not where training also moved running statistics of the model itself.
    if ranks and options.get("trained_elsewhere", True):
        again = PeftModel.from_pretrained(fresh_base(folder), os.path.join(folder, "trained"))
        with torch.no_grad():
            y = again(x)
        assert close(result["y"], y, torch.float32), f"after training outputs differ by {(result['y'] - y).abs().max()}"


def check_adoption(tool, folder, adapters, direction):
    """Injected by the state dict alone, what PEFT saved means the same."""
    config = adapters["default"]
    says_more = (config.modules_to_save, getattr(config, "alpha_pattern", None),
                 getattr(config, "trainable_token_indices", None), getattr(config, "ensure_weight_tying", False),
                 getattr(config, "bias", "none") != "none", getattr(config, "target_parameters", None))
    if any(says_more) or len(adapters) > 1:
        return
    whole = call(tool, "load", folder)
    adopted = call(tool, "adopt", folder)
    assert set(whole) == set(adopted), f"adopted keys differ: {set(whole) ^ set(adopted)}"
    for key in whole:
        if "running" not in key:
            assert torch.equal(whole[key], adopted[key]), f"{key} differs when adopted"


def fresh_base(folder):
    model = MODELS[json.load(open(os.path.join(folder, "case.json")))["model"]]()
    model.load_state_dict(load_file(os.path.join(folder, "base.safetensors")))
    return model


def grow(model, rows):
    """`model` with a vocabulary of so many tokens, other values in all of them."""
    model.embed_tokens = nn.Embedding(rows, 6)
    model.lm_head = nn.Linear(6, rows, bias=False)
    model.lm_head.weight = model.embed_tokens.weight
    return model


def run_grown(tool, folder, base, adapters, options, x):
    base = grow(base, options["grown"])
    x[0, 0] = options["grown"] - 1
    with torch.no_grad():
        direction = torch.rand(base(x).shape)
    save_file({"x": x, "direction": direction}, os.path.join(folder, "input.safetensors"))
    model = peft_model(base, adapters, options)
    randomise(model, options)
    model.save_pretrained(os.path.join(folder, "adapter"), save_embedding_layers=True)
    check_loads_here(tool, folder, model, x, direction, adapters, {**options, "tied": False}, torch.float32)


def run(tool, name):
    with tempfile.TemporaryDirectory() as folder:
        base, adapters, options, dtype, x = make_case(folder, CASES[name])
        if options.get("grown"):
            return run_grown(tool, folder, base, adapters, options, x)
        with torch.no_grad():
            direction = torch.rand(base(x).shape).to(dtype)
        save_file({"x": x, "direction": direction}, os.path.join(folder, "input.safetensors"))
        # The direction pass above moved running statistics: start again.
        model = peft_model(fresh_base(folder).to(dtype), adapters, options)
        randomise(model, options)
        model.save_pretrained(os.path.join(folder, "adapter"), save_embedding_layers=False)
        check_loads_here(tool, folder, model, x, direction, adapters, options, dtype)
        check_loads_there(tool, folder, fresh_base(folder).to(dtype), x, adapters, options, dtype)
        check_training(tool, folder, fresh_base(folder), x, direction, options)
        check_adoption(tool, folder, adapters, direction)


def main(run=run, cases=CASES):
    """Runs the cases named on the command line, or all. 1 when one fails."""
    torch.set_num_threads(1)
    tool, names = sys.argv[1], sys.argv[2:] or list(cases)
    failed = 0
    for name in names:
        try:
            run(tool, name)
            print(f"ok      {name}")
        except Exception as error:
            failed += 1
            print(f"FAILED  {name}: {error}")
    print(f"{len(names) - failed} of {len(names)} cases agree with PEFT")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
