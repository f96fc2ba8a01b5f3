# SPDX-License-Identifier: Apache-2.0
"""Every model of exported_parity.py, by name.

Not here, because torch 2.13 does not export them in training mode: BatchNorm
with momentum=None (its factor depends on data), while_loop that carries a
Python number, flex_attention on the CPU (no backward), checkpoint with
use_reentrant=True, torch.func.grad, GPT-2 after run_decompositions() (a view
of a transposed size). A string among outputs is saved, but torch.export.load
refuses it. Not here, because eval() cannot be what it is in Python:
dropout that is always on, stochastic depth. Packed sequences have no stable
sizes.
"""
from dataclasses import replace

from exported_models_graphs import GRAPHS
from exported_models_layers import LAYERS
from exported_models_media import MEDIA
from exported_models_text import TEXT

MODELS = {**TEXT, **MEDIA, **LAYERS, **GRAPHS}


def add(suffix, names, **fields):
    for name in names:
        MODELS[f"{name}.{suffix}"] = replace(MODELS[name], **fields)


# Attention may take other paths in eval mode.
add("eval", ["bert", "batch_norms", "dropouts"], training=False)
add("eval", ["transformer"], training=False, extra=True)
# Core ATen: functional, buffers change through outputs.
add("core", ["bert", "attention", "unet", "autocast", "sizes"], core=True)
# Decomposed, these lose no_grad and detach, or train in Python no more.
add("core", ["batch_norms", "counters", "no_grad", "mutates_input"], core=True, adapter={})
add("core", ["llama", "lstm_tagger", "cond"], core=True, extra=True)
add("bfloat16", ["llama", "convnext"], dtype="bfloat16")
add("bfloat16", ["transformer", "mixtral"], dtype="bfloat16", extra=True)
add("strict", ["tied", "no_grad"], strict=True)
