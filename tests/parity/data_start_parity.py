# SPDX-License-Identifier: Apache-2.0
"""Runs Python PEFT beside the library for LoRA's starts from data.

For each case PEFT runs its own preprocessing on a small model and injects; the
C++ tool does the same with the same weights and batches. Factors must agree up
to the signs of their rows, ranks and scalings too, the adapted model must start
as the base model, and 20 steps of training must give the same losses. What the
tool saves must give its outputs under PEFT.

usage: data_start_parity.py DATA_START_TOOL [CASE...]
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
from adapter_parity import QV, Text, lora, main
from peft import EvaConfig, LoraGAConfig, PeftModel, get_peft_model, get_peft_model_state_dict, initialize_lora_eva_weights
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.lora.loraga import preprocess_loraga
from safetensors.torch import load_file, save_file

STEPS = 20

# Which sign a singular vector has depends on where the random start was. PEFT
# draws it from torch's own generator; the library from one seeded with 0.
draw_lora_ga = LoraLayer.lora_ga_init


def lora_ga_init(layer, *arguments):
    torch.manual_seed(0)
    draw_lora_ga(layer, *arguments)


LoraLayer.lora_ga_init = lora_ga_init


def corda(**fields):
    return lora(r=2, target_modules=QV, init_lora_weights="corda", corda_config=CordaConfig(**fields))


def lora_ga(r=2, **fields):
    return lora(r=r, target_modules=QV, init_lora_weights="lora_ga", lora_ga_config=LoraGAConfig(**fields))


def eva(r=2, **fields):
    return lora(r=r, target_modules=QV, init_lora_weights="eva", eva_config=EvaConfig(**fields))


CASES = {
    "corda_ipm": corda(),
    "corda_kpm": corda(corda_method="kpm"),
    "lora_ga": lora_ga(),
    "lora_ga_alternating": lora_ga(direction="ArBr"),
    "lora_ga_second_half": lora_ga(direction="A2rBr", scale="gd_scale"),
    "lora_ga_weight_svd": lora_ga(scale="weight_svd"),
    "eva": eva(),
    "eva_no_redistribution": eva(rho=1.0),
    "eva_whiten": eva(whiten=True, rho=1.0),
    "eva_plain_scaling": eva(adjust_scaling_factors=False, tau=0.9),
}


def batches_for(scheme):
    generator = torch.Generator().manual_seed(5)
    if scheme == "corda":  # PEFT's pass takes one row at a time
        return [torch.randint(11, (1, 20), generator=generator) for _ in range(4)]
    return [torch.randint(11, (6, 8), generator=generator) for _ in range(3)]


def start(base, config, batches):
    """The model as PEFT starts it."""
    scheme = config.init_lora_weights
    if scheme == "corda":
        preprocess_corda(base, config, run_model=lambda: [base(ids) for ids in batches])
    elif scheme == "lora_ga":
        preprocess_loraga(base, config, lambda: [base(ids).square().sum().backward() for ids in batches])
    model = get_peft_model(base, config, autocast_adapter_dtype=False)
    if scheme == "eva":
        initialize_lora_eva_weights(model, batches, forward_fn=lambda m, ids: m(ids), prepare_model_inputs_fn=None,
                                    prepare_layer_inputs_fn=None, show_progress_bar=False)
    return model


def train(model, x, direction):
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.02)
    losses = []
    model.train()
    for _ in range(STEPS):
        loss = (model(x) - direction).square().mean()
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.tensor(losses)


def same_up_to_sign(a, b, rows):
    if a.shape != b.shape:
        return False
    if not rows:
        a, b = a.T, b.T
    signs = torch.sign((a * b).sum(1, keepdim=True))
    scale = b.abs().max().clamp_min(1e-6)
    return bool(((a * signs - b).abs() <= 2e-3 * scale + 1e-5).all()) or torch.equal(a, b)


def run(tool, name):
    config = CASES[name]
    torch.manual_seed(1)
    base = Text()
    weights = {k: v.clone() for k, v in base.state_dict().items()}
    batches = batches_for(config.init_lora_weights)
    x = base.example()
    with torch.no_grad():
        before = base(x)
        direction = torch.rand(before.shape)
    with tempfile.TemporaryDirectory() as folder:
        save_file(weights, os.path.join(folder, "base.safetensors"))
        config.save_pretrained(folder)
        save_file({"x": x, "direction": direction, **{f"batch_{i}": b for i, b in enumerate(batches)}},
                  os.path.join(folder, "input.safetensors"))
        model = start(base, config, batches)
        state = {k.removeprefix("base_model.model."): v.clone() for k, v in get_peft_model_state_dict(model).items()}
        done = subprocess.run([tool, folder], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        result = load_file(os.path.join(folder, "result.safetensors"))
        assert torch.allclose(result["y"], before, rtol=1e-4, atol=1e-4), "does not start as the base model"
        ours = {k.removeprefix("value."): v for k, v in result.items() if k.startswith("value.")}
        assert set(ours) == set(state), f"keys differ: {set(ours) ^ set(state)}"
        for key, value in state.items():
            assert same_up_to_sign(ours[key], value, rows="lora_A" in key), f"{key} differs: {ours[key]} against {value}"
        for key in state:
            if "lora_A" in key:
                path = key.removesuffix(".lora_A.weight")
                theirs = model.base_model.model.get_submodule(path).scaling["default"]
                assert abs(theirs - result[f"scaling.{path}"].item()) < 1e-6, f"scaling of {path} differs"
        difference = (train(model, x, direction) - result["losses"]).abs().max()
        assert difference < 1e-4, f"losses of training differ by {difference}"
        fresh = Text()
        fresh.load_state_dict(weights)
        again = PeftModel.from_pretrained(fresh, os.path.join(folder, "saved")).eval()
        with torch.no_grad():
            y = again(x)
        assert torch.allclose(result["trained"], y, rtol=1e-4, atol=1e-4), "what was saved differs under PEFT"


if __name__ == "__main__":
    sys.exit(main(run, CASES))
