# SPDX-License-Identifier: Apache-2.0
"""Adapter configs read and written here against Python PEFT 0.21.2, live.

    python tests/parity/config_parity.py path/to/config_tool

Needs peft==0.21.2. Exits with 1 when anything differs that is not listed in
`as_we_write_it`. The random configs are the same on every run.
"""

import copy
import json
import random
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

from config_values import BAD, GOOD, STRICTER, python_refuses
from peft import LoraConfig, PeftConfig
from peft.tuners.lora.config import (
    ArrowConfig, BdLoraConfig, CordaConfig, EvaConfig, KasaConfig,
    LoraGAConfig, MontecloraConfig, VeloraConfig)

warnings.simplefilter("ignore")
dice = random.Random(20240521)
NAMES = ["q", "v", "layers.0.q", "head", "é", "a\"b\\c", "x\ty", "😀", "mlp.fc1"]
NUMBERS = [1, 3, 8, 16, 0.5, 1e-5, 0.1, 1e-4, 123456.75, 1e16, 2.5e300, 7.0,
           1 / 3, 5e-324]


def some(names, least=0):
    return dice.sample(names, dice.randint(least, len(names)))


def maybe(value, chance=0.5):
    return value if dice.random() < chance else None


def random_arguments():
    """LoraConfig arguments of every kind that Python PEFT accepts."""
    as_list = dice.random() < 0.7
    arguments = {
        "task_type": dice.choice([None, "CAUSAL_LM", "SEQ_CLS", "FEATURE_EXTRACTION"]),
        "base_model_name_or_path": maybe("meta/é-model"),
        "revision": maybe("main"),
        "inference_mode": dice.random() < 0.5,
        "auto_mapping": maybe({"base_model_class": "X", "parent_library": "y"}),
        "r": dice.randint(1, 512),
        "lora_alpha": dice.choice(NUMBERS),
        "lora_dropout": dice.choice([0.0, 0, 0.05, 1e-5, 0.5]),
        "target_modules": some(NAMES) if as_list else dice.choice([None, "all-linear", r".*\.q$"]),
        "exclude_modules": dice.choice([None, [], some(NAMES), r"head\..*"]),
        "modules_to_save": dice.choice([None, [], some(NAMES)]),
        "target_parameters": dice.choice([None, None, [], ["experts.w1", "b"]]),
        "fan_in_fan_out": dice.random() < 0.2,
        "bias": dice.choice(["none", "all", "lora_only"]),
        "use_rslora": dice.random() < 0.5,
        "init_lora_weights": dice.choice([
            True, False, "gaussian", "pissa", "pissa_niter_4", "olora", "eva", "corda", "lora_ga", None]),
        "rank_pattern": {k: dice.randint(1, 64) for k in some(NAMES)},
        "alpha_pattern": {k: dice.choice(NUMBERS) for k in some(NAMES)},
        "qalora_group_size": dice.choice([16, 32]),
    }
    if as_list and dice.random() < 0.5:
        arguments["layers_to_transform"] = dice.choice([0, 5, [], [1, 0, 3]])
        arguments["layers_pattern"] = dice.choice([None, [], "", "layers", ["h", "blocks"]])
    rare = {
        "use_dora": True, "use_qalora": True, "ensure_weight_tying": True,
        "trainable_token_indices": dice.choice([[2, 1], {"emb": [3]}, {"emb": [3, 0], "a.head": [3]}, {}]),
        "layer_replication": [[0, 4], [2, 5]],
        "megatron_config": {"tp": 2.0}, "megatron_core": "other.core",
        "alora_invocation_tokens": dice.choice([[3, 1, 3], [0]]),
        "arrow_config": ArrowConfig(), "use_bdlora": BdLoraConfig(nblocks=2),
        "corda_config": dice.choice([
            CordaConfig(), CordaConfig("c.pt", "é.pt", "kpm", True, True, False)]),
        "eva_config": dice.choice([
            EvaConfig(), EvaConfig(rho=dice.choice([1, 2.5]), tau=dice.choice([0, 1 / 3, 1]), whiten=True,
                                   use_label_mask=False, label_mask_value=0, adjust_scaling_factors=False)]),
        "kasa_config": KasaConfig(),
        "lora_ga_config": dice.choice([
            LoraGAConfig(), LoraGAConfig(direction="random", scale="gd_scale", stable_gamma=64)]),
        "monteclora_config": MontecloraConfig(), "velora_config": VeloraConfig(),
    }
    for name in dice.sample(sorted(rare), dice.choice([0, 0, 1, 3])):
        arguments[name] = rare[name]
    if arguments.get("use_dora"):
        arguments.pop("megatron_config", None)
    return arguments


def whole(number):
    is_whole = isinstance(number, float) and number == int(number) and abs(number) < 2**53
    return int(number) if is_whole else number


def as_we_write_it(saved):
    """PEFT's file with our spelling of the values that mean the same."""
    config = copy.deepcopy(saved)
    for name in ("target_modules", "exclude_modules"):
        if isinstance(config[name], list):  # a set in Python: any order
            config[name] = sorted(config[name])
    for name in ("modules_to_save", "target_parameters"):
        if config[name] == []:  # nothing chosen, as null
            config[name] = None
    if config["layers_pattern"] == "":
        config["layers_pattern"] = None
    if config["init_lora_weights"] is None:  # skips the initialisation, as false
        config["init_lora_weights"] = False
    config["lora_alpha"] = whole(config["lora_alpha"])
    config["lora_dropout"] = float(config["lora_dropout"])
    if config["eva_config"]:
        for name in ("rho", "tau"):
            config["eva_config"][name] = float(config["eva_config"][name])
    config["alpha_pattern"] = {k: whole(v) for k, v in config["alpha_pattern"].items()}
    return config


def python_text(config):
    return json.dumps(config, indent=2, sort_keys=True)


class Checks:
    def __init__(self, tool):
        self.tool = subprocess.Popen([tool], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.folder = Path(tempfile.mkdtemp())
        self.done = 0
        self.failed = 0

    def ask(self, text):
        self.tool.stdin.write(json.dumps(text) + "\n")
        self.tool.stdin.flush()
        return json.loads(self.tool.stdout.readline())

    def expect(self, what, good, *details):
        self.done += 1
        if not good:
            self.failed += 1
            print("DIFFERENT:", what, *details, sep="\n  ")

    def python_load(self, text):
        (self.folder / "adapter_config.json").write_text(text)
        return PeftConfig.from_pretrained(self.folder)

    def python_save(self, config):
        config.save_pretrained(self.folder)
        return (self.folder / "adapter_config.json").read_text()


def check_saved_files(checks, count=400):
    """What PEFT saves is read, written to the byte, and loads in PEFT again."""
    for _ in range(count):
        arguments = random_arguments()
        original = LoraConfig(**arguments)
        saved = checks.python_save(original)
        answer = checks.ask(saved)
        if "error" in answer:
            checks.expect("a file of PEFT is refused", False, arguments, answer)
            continue
        expected = python_text(as_we_write_it(json.loads(saved)))
        checks.expect("to_json(parse(file))", answer["json"] == expected, arguments, answer["json"])
        checks.expect("no warning for PEFT's file", not answer["warnings"], answer["warnings"])
        again = as_we_write_it(json.loads(checks.python_save(checks.python_load(answer["json"]))))
        checks.expect("our file in PEFT", python_text(again) == expected, again)


def check_partial_files(checks, count=200):
    """Files with few fields, nulls and fields of other versions."""
    defaults = json.loads(checks.python_save(LoraConfig()))
    # Where null is no value of its own in PEFT but a crash or a falsy value.
    null_is_default = [
        "r", "lora_alpha", "lora_dropout", "fan_in_fan_out", "bias", "use_rslora", "rank_pattern",
        "alpha_pattern", "lora_bias", "use_dora", "use_qalora", "inference_mode",
        "ensure_weight_tying", "qalora_group_size"]
    for _ in range(count):
        full = json.loads(checks.python_save(LoraConfig(**random_arguments())))
        kept = {name: full[name] for name in some(sorted(full))}
        nulls = {name: None for name in some(null_is_default) if dice.random() < 0.3}
        unknown = {"zeta_new": {"b": [1.0, None], "a": "é"}} if dice.random() < 0.5 else {}
        file = {**kept, **nulls, **unknown, "peft_type": "LORA"}
        if file.get("layers_pattern") and file.get("layers_to_transform") is None:
            del file["layers_pattern"]  # PEFT's own error
        if isinstance(file.get("target_modules"), str):
            file.pop("layers_pattern", None)
            file.pop("layers_to_transform", None)
        answer = checks.ask(json.dumps(file))
        if "error" in answer:
            checks.expect("a partial file is refused", False, file, answer)
            continue
        without_nulls = {k: v for k, v in file.items() if k not in nulls}
        loaded = json.loads(checks.python_save(checks.python_load(json.dumps(without_nulls))))
        expected = {**as_we_write_it(loaded), **unknown}
        for name in nulls:
            expected[name] = defaults[name]
        for name in ("eva_config", "corda_config"):
            if file.get(name) is None:  # PEFT fills in the defaults that null means
                expected[name] = None
        checks.expect("a partial file", answer["json"] == python_text(expected), file, answer["json"])
        checks.expect("one warning for unknown fields", len(answer["warnings"]) == len(unknown))


def check_nested_fields(checks):
    """Fields of a nested config that only a later PEFT knows are kept, and do not hinder PEFT."""
    later = {"rho": 1.5, "later": {"b": [1.0, None]}}
    answer = checks.ask(json.dumps({"peft_type": "LORA", "init_lora_weights": "eva", "eva_config": later}))
    ours = json.loads(answer["json"])
    checks.expect("what was kept", ours["eva_config"]["later"] == later["later"], answer)
    checks.expect("one warning for it", len(answer["warnings"]) == 1, answer)
    checks.expect("PEFT reads the rest", checks.python_load(answer["json"]).eva_config == EvaConfig(rho=1.5))


def check_values(checks):
    """What PEFT refuses, check() names; of the rest only what is listed."""
    for changes, refused_by_peft, refused_here in (
            (BAD, True, True), (STRICTER, False, True), (GOOD, False, False)):
        for change in changes:
            arguments = {"target_modules": ["q"], **change}
            answer = checks.ask(json.dumps({"peft_type": "LORA", **arguments}))
            checks.expect("PEFT refuses or accepts", python_refuses(arguments) == refused_by_peft, change)
            checks.expect("check() does", bool(answer.get("check", True)) == refused_here, change, answer)


def main():
    checks = Checks(sys.argv[1])
    check_saved_files(checks)
    check_partial_files(checks)
    check_nested_fields(checks)
    check_values(checks)
    print(f"config parity: {checks.done} checks, {checks.failed} different")
    sys.exit(1 if checks.failed or not checks.done else 0)


if __name__ == "__main__":
    main()
