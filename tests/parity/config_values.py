# SPDX-License-Identifier: Apache-2.0
"""Arguments of LoraConfig that Python PEFT refuses or accepts, for
config_parity.py, and a model small enough to ask PEFT each time."""

import torch
from peft import LoraConfig, inject_adapter_in_model

# Refused when configured, injected or run, and by check().
BAD = [
    {"r": 0}, {"r": -3}, {"lora_dropout": 1.5},
    {"bias": "some"}, {"task_type": "CHAT"}, {"init_lora_weights": "gausian"},
    {"target_modules": "q", "layers_to_transform": [1]},
    {"target_modules": "q", "layers_pattern": "layers"},
    {"layers_pattern": "layers"}, {"rank_pattern": {"q": 0}},
    {"eva_config": {"rho": 0.5}}, {"eva_config": {"tau": 1.5}}, {"eva_config": {"tau": -0.5}},
    {"alora_invocation_tokens": [1], "use_dora": True},
    {"alora_invocation_tokens": [1], "init_lora_weights": "mica", "r": 2},
    {"use_dora": True, "init_lora_weights": "mica", "r": 2},
    {"lora_bias": True, "use_dora": True}, {"lora_bias": True, "init_lora_weights": "eva"},
    {"trainable_token_indices": []}, {"trainable_token_indices": [-1]},
    {"trainable_token_indices": {"embed_tokens": []}},
    {"trainable_token_indices": {"": [1]}},
    {"trainable_token_indices": {"embed_tokens": [1]}, "modules_to_save": ["embed_tokens"]},
    {"layer_replication": [[0, 1]]}, {"init_lora_weights": "loftq"}]

# Here stricter than PEFT, which takes a negative probability for 0 and
# trains nothing at all with 1; waits for a sequence that cannot come, or
# for none at all; trains one row as two; takes DoRA's side where "MiCA" is
# in capitals; and sees these names only where data prepares the start.
STRICTER = [
    {"lora_dropout": -0.1}, {"lora_dropout": 1.0},
    {"alora_invocation_tokens": [-1]}, {"alora_invocation_tokens": []},
    {"trainable_token_indices": [1, 1]},
    {"use_dora": True, "init_lora_weights": "MiCA", "r": 2},
    {"corda_config": {"corda_method": "imp"}}, {"lora_ga_config": {"direction": "arbr"}},
    {"lora_ga_config": {"scale": "some"}}, {"lora_ga_config": {"stable_gamma": 0}}]

# Accepted by both.
GOOD = [
    {}, {"init_lora_weights": "gaussian"}, {"init_lora_weights": "Gaussian"},
    {"init_lora_weights": False}, {"lora_alpha": 0.5}, {"lora_alpha": -1},
    {"rank_pattern": {"q": 2}, "alpha_pattern": {"q": 0}},
    {"eva_config": {"rho": 2.0}}, {"corda_config": {}}, {"lora_ga_config": {}},
    {"init_lora_weights": "eva"}, {"init_lora_weights": "eva", "eva_config": {"rho": 1, "tau": 0}},
    {"init_lora_weights": "lora_ga"}, {"init_lora_weights": "lora_ga", "lora_ga_config": {"scale": "unit"}},
    {"loftq_config": {"loftq_bits": 4}},  # ignored without init "loftq"
    {"qalora_group_size": 8}, {"megatron_core": "x"}, {"bias": "lora_only"},
    {"alora_invocation_tokens": [1]}, {"alora_invocation_tokens": [1, 1], "task_type": "CAUSAL_LM"},
    {"alora_invocation_tokens": [1], "lora_bias": True},
    {"trainable_token_indices": [3, 1]}, {"trainable_token_indices": {"embed_tokens": [0]}},
    {"trainable_token_indices": {}}, {"ensure_weight_tying": True}, {"layer_replication": []}]


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(5, 4)
        self.q = torch.nn.Linear(4, 4)
        self.head = torch.nn.Linear(4, 5)

    def forward(self, ids):
        return self.head(self.q(self.embed_tokens(ids)))


def python_refuses(arguments):
    try:
        model = inject_adapter_in_model(LoraConfig(**arguments), Small())
        model(torch.tensor([1, 2])).sum().backward()
    except Exception:
        return True
    return False
