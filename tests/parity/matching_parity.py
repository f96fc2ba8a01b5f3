# SPDX-License-Identifier: Apache-2.0
"""Which modules a config selects, against Python PEFT 0.21.2, live.

    python tests/parity/matching_parity.py path/to/matching_tool

Needs peft==0.21.2. Every random model is injected in Python and described to
the tool; the selected modules, the rank and alpha of each, and the kind of
error must agree, except where `exact_all_linear`, `root_layer_paths` and
`check_names` say why not.
Exits with 1 when anything else differs. The same cases on every run.
"""

import json
import random
import re
import subprocess
import sys
import warnings

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel

warnings.simplefilter("ignore")
dice = random.Random(20240521)
LEAVES = ["q", "k", "v", "fc1", "fc2", "head", "emb", "norm", "q_proj", "out_proj"]
GROUPS = ["attn", "mlp", "block", "encoder", "decoder", "layers", "h", "experts"]
KINDS = [
    lambda: torch.nn.Linear(4, 4), lambda: torch.nn.Linear(4, 4), lambda: torch.nn.Linear(4, 4),
    lambda: torch.nn.Embedding(5, 4), lambda: torch.nn.Conv1d(4, 4, 1), lambda: torch.nn.LayerNorm(4)]
SUPPORTED = (torch.nn.Linear, torch.nn.Embedding, torch.nn.Conv1d)


def random_module(depth):
    if depth == 0 or dice.random() < 0.15:
        return dice.choice(KINDS)()
    if dice.random() < 0.35:
        return torch.nn.ModuleList(random_module(depth - 1) for _ in range(dice.randint(1, 3)))
    names = dice.sample(GROUPS + LEAVES, dice.randint(1, 4))
    # Groups hold groups more often than not, so that paths get long.
    return torch.nn.ModuleDict(
        {name: random_module(depth - 1 if name in GROUPS else 0) for name in names})


def random_model():
    names = dice.sample(GROUPS + LEAVES, dice.randint(1, 4))
    return torch.nn.ModuleDict({name: random_module(dice.randint(0, 4)) for name in names})


def some(names, least=0, most=4):
    return dice.sample(names, min(len(names), dice.randint(least, most)))


def endings(paths):
    found = set()
    for path in paths:
        parts = path.split(".")
        found.update(".".join(parts[i:]) for i in range(len(parts)))
    return sorted(found)


def random_names(model, least=0):
    paths = [path for path, _ in model.named_modules() if path]
    leaves = [p for p, m in model.named_modules() if isinstance(m, SUPPORTED)]
    pool = dice.choice([endings(leaves) or LEAVES, leaves or LEAVES, LEAVES + GROUPS, endings(paths)])
    return some(pool, least)


def random_pattern(model):
    paths = [path for path, _ in model.named_modules() if path]
    leaf = dice.choice(LEAVES)
    return dice.choice([
        leaf, rf".*\.{leaf}", rf"(.*\.)?({leaf}|{dice.choice(LEAVES)})", rf".*\.(q|k|v)\Z", "",
        rf".*\d{{,2}}\.{leaf}", r".*(q|fc[12]|_proj)$", r"(?P<top>\w+)\..*\b(q|v)", dice.choice(paths),
        "all-linear", "All-Linear", rf"[^.]*\.\d+\..*{leaf}", r"(?i).*Q(_PROJ)?", "dummy-target-modules"])


def random_keys(model, value):
    paths = [path for path, _ in model.named_modules() if path]
    pool = endings(paths) + ["q", "^q", "fc[12]", r".*\.\d\.q", "h|v", r"experts\.\d+\.fc1", "nothing"]
    return {key: value() for key in some(pool, 0, 3)}


def random_arguments(model):
    arguments = {"target_modules": random_names(model) if dice.random() < 0.65 else random_pattern(model)}
    if dice.random() < 0.3:
        arguments["exclude_modules"] = dice.choice([random_names(model), random_pattern(model)])
    if dice.random() < 0.25:
        arguments["modules_to_save"] = random_names(model, 1)
    if isinstance(arguments["target_modules"], list) and dice.random() < 0.5:
        arguments["layers_to_transform"] = dice.choice([0, 1, [0], [0, 2], [1, 2], [7], []])
        arguments["layers_pattern"] = dice.choice([None, None, "layers", ["h", "experts"], r"\w+", "h|layers"])
    if dice.random() < 0.5:
        arguments["rank_pattern"] = random_keys(model, lambda: dice.randint(1, 7))
        arguments["alpha_pattern"] = random_keys(model, lambda: dice.choice([1, 2.5, 9]))
    if dice.random() < 0.05:
        arguments["target_modules"] = []
    return arguments


def exact_all_linear(model, arguments):
    """PEFT turns "all-linear" into a list of paths, and then adapts (or refuses)
    also what merely ends like one of them: with a linear "q" the embedding
    "emb.q". Here it selects the linear layers, so a pattern stands for it."""
    target = arguments["target_modules"]
    if not isinstance(target, str) or target.lower() != "all-linear":
        return arguments
    paths = [re.escape(p) for p, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    return {**arguments, "target_modules": "|".join(paths)} if paths else arguments


def python_outcome(model, arguments):
    """({path: (r, alpha)}, None), or (None, PEFT's error)."""
    config = LoraConfig(**exact_all_linear(model, arguments))
    # Saving is another subject, and PEFT's has a defect: it wraps by endswith
    # without a dot boundary. Matching only needs the exclusion.
    import peft.tuners.tuners_utils as tuners_utils
    keep = tuners_utils.set_additional_trainable_modules
    tuners_utils.set_additional_trainable_modules = lambda **_: None
    try:
        tuner = LoraModel(model, {"default": config}, "default")
    except Exception as error:
        return None, error
    finally:
        tuners_utils.set_additional_trainable_modules = keep
    layers = {path: tuner.model.get_submodule(path) for path in tuner.targeted_module_names}
    return {p: (m.r["default"], m.lora_alpha["default"]) for p, m in layers.items()}, None


def describe(model):
    return [{"path": path, "type": type(module).__name__, "supported": isinstance(module, SUPPORTED),
             "linear": isinstance(module, torch.nn.Linear)} for path, module in model.named_modules()]


def root_layer_paths(modules, arguments):
    """What PEFT's default rule for layers_to_transform leaves out, a container
    at the root: "layers.1.q". Here it counts, when PEFT's rule finds no index."""
    wanted = arguments.get("layers_to_transform")
    wanted = [wanted] if isinstance(wanted, int) else wanted
    if not wanted or arguments.get("layers_pattern"):
        return set()
    paths = set()
    for module in modules:
        path = module["path"]
        root = re.match(r"[^.]*\.(\d+)\.", path)
        if root and not re.match(r".*?\.[^.]*\.(\d+)\.", path) and int(root[1]) in wanted:
            without_layers = LoraConfig(**{**arguments, "layers_to_transform": None})
            from peft.tuners.tuners_utils import check_target_module_exists
            if check_target_module_exists(without_layers, path):
                paths.add(path)
    return paths


def same_error(error, text):
    """Whether our text is for the same reason as PEFT's exception."""
    message = str(error)
    reasons = {
        "All modules were excluded": ["all modules were excluded"],
        "No `target_modules` passed": ["no target_modules are given", "'all-linear' not found"],
        "not found in the base model": ["not found among"],
        "No modules were targeted": ["no modules were targeted"],
        "is not supported": ["cannot adapt"],
    }
    for peft, ours in reasons.items():
        if peft in message:
            return any(reason in text for reason in ours)
    return False


class Tool:
    def __init__(self, path):
        self.tool = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, request):
        self.tool.stdin.write(json.dumps(request) + "\n")
        self.tool.stdin.flush()
        return json.loads(self.tool.stdout.readline())


class Tally:
    def __init__(self):
        self.counts = {}
        self.failed = 0

    def add(self, what, good, *details):
        self.counts[what] = self.counts.get(what, 0) + 1
        if not good:
            self.failed += 1
            print("DIFFERENT:", what, *details, sep="\n  ")


def check_model(tool, tally):
    model = random_model()
    arguments = random_arguments(model)
    modules = describe(model)
    answer = tool.ask({"config": json.dumps({"peft_type": "LORA", **arguments}), "modules": modules})
    extra = root_layer_paths(modules, arguments)
    outcome, error = python_outcome(model, arguments)
    check_names(tally, arguments, answer, [m["path"] for m in modules if m["path"]])
    details = (arguments, [m["path"] for m in modules], answer, outcome, repr(error))
    if extra:
        # PEFT's set, or none, and the modules in a container at the root.
        supported = {m["path"] for m in modules if m["supported"]}
        if "error" in answer:
            tally.add("root container, unsupported", "cannot adapt" in answer["error"], *details)
        else:
            expected = set(outcome or {}) | extra
            tally.add("root container", set(answer["adapted"]) == expected and expected <= supported, *details)
        return
    if error is not None:
        tally.add("error: " + str(error)[:14], same_error(error, answer.get("error", "")), *details)
        return
    if "error" in answer:
        tally.add("matched", False, *details)
        return
    found = {
        path: (rank or 8, 8 if alpha is None else alpha)
        for path, rank, alpha in zip(answer["adapted"], answer["ranks"], answer["alphas"])}
    tally.add("matched" if found else "matched nothing", found == outcome, *details)
    check_unmatched_keys(tally, arguments, answer, outcome, details)


def check_names(tally, arguments, answer, paths):
    """What the reports say of the lists: entries that meet no module, which
    PEFT passes over in silence, and what modules_to_save keeps, where PEFT
    compares endings without a dot ("q" would keep "my_q")."""
    if "error" in answer:
        return

    def meets(entry, path):
        return path == entry or path.endswith("." + entry)

    for field in ("target_modules", "exclude_modules", "modules_to_save"):
        names = arguments.get(field)
        if isinstance(names, list):
            unmet = [name for name in names if not any(meets(name, path) for path in paths)]
            tally.add("unmatched names", answer["unmatched"][field] == unmet, arguments, answer, paths)
    entries = arguments.get("modules_to_save", [])
    saved = [path for path in paths if any(meets(entry, path) for entry in entries)]
    tally.add("modules_to_save", answer["saved"] == saved, arguments, answer, paths)


def check_unmatched_keys(tally, arguments, answer, outcome, details):
    for field in ("rank_pattern", "alpha_pattern"):
        keys = [key for key in arguments.get(field, {})
                if not any(re.match(rf"(.*\.)?({key})$", path) for path in outcome)]
        tally.add("unmatched keys", answer["unmatched"][field] == keys, *details)


ATOMS = ["q", "\\.", ".", "\\d", "\\w", "[^.]", "[qk1]", "[[:digit:]]", "[]q]", "(?:q|k)", "(q|\\d+)", "\\bq\\b",
         "{", "{q}", "(?P<a>\\w)", "\\u0071", "\\x71", "(?#[note)", "[\\d_]", "\\-", "^q", "(?<=\\.)q", "(?!k)"]
REPEATS = ["", "", "", "*", "+", "?", "{2}", "{,2}", "{1,}", "{,}", "*?", "+?", "{1,2}?", "*+"]
TEXTS = ["q", "qq", "q.k", "layers.0.q", "layers.12.q_proj", "1", "a.1.q", "{q}", "{", "q{2}", "é.q", "", "q\n",
         "[q]", ":", "]q", "k1", "...", "q-q", "Q", "٣.q"]


def check_regex(tool, tally):
    regex = "".join(dice.choice(ATOMS) + dice.choice(REPEATS) for _ in range(dice.randint(1, 4)))
    regex = dice.choice(["", "", "(?i)", ".*", ".*\\."]) + regex + dice.choice(["", "", "$", "\\Z"])
    try:
        pattern = re.compile(regex)
    except re.error:
        return  # what Python refuses, PCRE2 may accept
    answer = tool.ask({"regex": regex, "texts": TEXTS})
    if "error" in answer:
        tally.add("regex", False, regex, answer)
        return
    whole = [pattern.fullmatch(text) is not None for text in TEXTS]
    prefix = [match and match[0] for match in map(pattern.match, TEXTS)]
    tally.add("regex", answer["whole"] == whole and answer["prefix"] == prefix, regex, answer, whole, prefix)


def main():
    tool = Tool(sys.argv[1])
    tally = Tally()
    for _ in range(800):
        check_model(tool, tally)
    for _ in range(1500):
        check_regex(tool, tally)
    for what, count in sorted(tally.counts.items()):
        print(f"{count:5} {what}")
    print(f"matching parity: {sum(tally.counts.values())} checks, {tally.failed} different")
    sys.exit(1 if tally.failed or not tally.counts.get("matched") else 0)


if __name__ == "__main__":
    main()
