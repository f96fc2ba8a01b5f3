# SPDX-License-Identifier: Apache-2.0
"""Every model of exported_parity.py, by name.

Not here, because torch 2.13 does not export them in training mode: BatchNorm
with momentum=None (its factor depends on data), while_loop that carries a
Python number, flex_attention on the CPU (no backward), checkpoint with
use_reentrant=True, torch.func.grad, GPT-2 after run_decompositions() (a view
of a transposed size). Not here, because eval() cannot be what it is in Python:
dropout that is always on, stochastic depth. Packed sequences have no stable
sizes, and associative_scan is unrolled for one length.
"""
from dataclasses import replace

from exported_models_graphs import GRAPHS
from exported_models_layers import LAYERS
from exported_models_media import MEDIA
from exported_models_text import TEXT

MODELS = {**TEXT, **MEDIA, **LAYERS, **GRAPHS}

# Exported in eval mode, where attention may take other paths.
for name in ("bert", "batch_norms", "dropouts", "transformer"):
    MODELS[name + ".eval"] = replace(MODELS[name], training=False)

# Core ATen: functional, buffers change through outputs.
for name in ("bert", "llama", "batch_norms", "lstm_tagger", "attention", "unet", "cond", "counters", "no_grad",
             "mutates_input", "autocast", "sizes"):
    MODELS[name + ".core"] = replace(MODELS[name], core=True)

for name in ("llama", "convnext", "transformer", "mixtral"):
    MODELS[name + ".bfloat16"] = replace(MODELS[name], dtype="bfloat16")

for name in ("tied", "no_grad"):
    MODELS[name + ".strict"] = replace(MODELS[name], strict=True)
