# SPDX-License-Identifier: Apache-2.0
"""TorchScript models, scripted and traced, beside Python PEFT.

PEFT adapts the eager model, randomises and saves the adapter; the C++ tool puts
that adapter into the TorchScript file, which has run before, and must give the
same outputs and gradients, biases frozen or trained beside it; and what it
saves merged must give, loaded by Python, the same outputs again.

usage: script_parity.py SCRIPT_TOOL [MODEL...]
"""
import os
import subprocess
import sys
import tempfile
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")

import torch
import transformers as hf
from adapter_parity import file_gradients, randomise
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 24, "max_position_embeddings": 40, "hidden_dropout_prob": 0.0,
         "attention_probs_dropout_prob": 0.0}
IDS = torch.tensor([[1, 2, 3, 4, 5], [9, 8, 7, 6, 5]])


class Logits(nn.Module):
    """A Hugging Face model that returns one tensor."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(ids, return_dict=False)[0]


def bert():
    return Logits(hf.BertForSequenceClassification(hf.BertConfig(**SMALL, attn_implementation="eager")))


def gpt2():
    return Logits(hf.GPT2LMHeadModel(hf.GPT2Config(
        vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=40, use_cache=False, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="eager")))


def feed_forward():
    return nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 6), nn.GELU(), nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6)))


def convolutions():
    return nn.Sequential(nn.Conv2d(2, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 1, groups=4),
                         nn.Flatten(2), nn.Conv1d(8, 4, 3, padding=1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0])


def script(model, x):
    return torch.jit.script(model)


def trace(model, x):
    return torch.jit.trace(model, x)


# model, how, input, target modules
CASES = {
    "bert_traced": (bert, trace, IDS, "all-linear"),
    "gpt2_traced": (gpt2, trace, IDS, ["c_attn", "c_proj"]),
    "feed_forward_scripted": (feed_forward, script, IDS, r"[01]|3\.0"),
    "feed_forward_traced": (feed_forward, trace, IDS, r"[01]|3\.0"),
    "convolutions_scripted": (convolutions, script, torch.randn(3, 2, 9, 9), ["0", "3", "5"]),
    "convolutions_traced": (convolutions, trace, torch.randn(3, 2, 9, 9), ["0", "3", "5"]),
    "recurrent_scripted": (Recurrent, script, torch.randn(2, 5, 8), ["head"]),
}


def expect(found, expected, what):
    scale = expected.abs().max().clamp(min=1e-3)
    difference = ((found - expected).abs().max() / scale).item()
    assert difference < 1e-4, f"{what} differs by {difference:.1e}"


def run(tool, name, folder):
    make, convert, x, targets = CASES[name]
    torch.manual_seed(1)
    model = make().eval()
    file = os.path.join(folder, "model.pt")
    convert(model, x).save(file)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, target_modules=targets), autocast_adapter_dtype=False)
    randomise(adapted, {})
    adapted.save_pretrained(os.path.join(folder, "adapter"), save_embedding_layers=False)
    y = adapted(x)
    direction = torch.rand(y.shape)
    (y * direction).sum().backward()
    save_file({"x": x, "direction": direction}, os.path.join(folder, "input.safetensors"))
    done = subprocess.run([tool, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1500:]
    result = load_file(os.path.join(folder, "result.safetensors"))
    expect(result["y"], y.detach(), "output")
    for key, gradient in file_gradients(adapted, "default").items():
        for run in ("frozen", "trained"):
            assert f"{run}.{key}" in result, f"no gradient for {key}, biases {run}"
            expect(result[f"{run}.{key}"], gradient, f"gradient of {key}, biases {run},")
    if os.path.exists(os.path.join(folder, "merged.pt")):
        merged = torch.jit.load(os.path.join(folder, "merged.pt"))
        expect(merged(x).detach(), y.detach(), "output of merged.pt")
    else:  # a grouped convolution has no merged weight of its own shape
        assert "convolutions" in name, done.stderr


def main():
    tool, names = sys.argv[1], sys.argv[2:] or list(CASES)
    failed = 0
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            try:
                run(tool, name, folder)
                print(f"ok      {name}")
            except AssertionError as error:
                failed += 1
                print(f"FAILED  {name}: {error}")
    print(f"{len(names) - failed} of {len(names)} models agree")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
