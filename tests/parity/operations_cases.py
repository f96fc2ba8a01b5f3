# SPDX-License-Identifier: Apache-2.0
"""What operations_parity.py compares: adapters and what is done to them."""
from adapter_parity import CONVOLUTIONS, QV, adalora, ia3, lora

SEED = 5
TEXT = ["embedding", *QV]
NOISE = {"noise": (-0.5, 0.5)}


def pair(targets=TEXT, other=TEXT, **fields):
    return {"default": lora(target_modules=targets, **fields),
            "other": lora(lora_alpha=10, target_modules=other, **fields)}


def three(**fields):
    return {**pair(**fields), "third": lora(lora_alpha=2, target_modules=TEXT, **fields)}


def ranks():
    return {"default": lora(target_modules=TEXT),
            "other": lora(r=2, lora_alpha=3, target_modules=["query", "embedding"]),
            "third": lora(
                r=3, target_modules=["value"], rank_pattern={"layers.1.value": 5}, alpha_pattern={"value": 2})}


def combination(how, adapters=None, weights=(0.7, 0.4, 1.3), model="text", right="peft", **fields):
    """`right`: whose values are right: "peft", its "updates" without its file, or the "sum" of the adapters."""
    adapters = adapters or pair()
    names = list(adapters)
    operation = {"adapters": names, "weights": list(weights[:len(names)]), **fields}
    if how:
        operation["combination_type"] = how
    # PEFT adds out_proj's product twice in forward: here it is zero.
    options = {"operation": operation, "right": right, "zero_out_proj": model == "attention"}
    return "combine", (model, adapters, {**NOISE, **options})


def merging(adapters, model="text", right="peft", **options):
    """`right`: "peft", or "forward": outputs without merging, and no weights."""
    adapters = adapters if isinstance(adapters, dict) else {"default": adapters}
    return "merge", (model, adapters, {**NOISE, "operation": {"adapters": list(adapters)}, "right": right, **options})


def batch(rows, adapters, model="text", **options):
    return "mixed", (model, adapters, {**NOISE, "operation": {"rows": rows}, **options})


def swap(first, second, model="text", right="peft"):
    """`right`: "peft", or "fresh": the second adapter in a model without the first."""
    return "hotswap", (model, {"default": first}, {**NOISE, "next": second, "right": right})


def conversion(config, rank, model="text", right="peft"):
    """`right`: "peft", or the "same" outputs as the adapter that is converted, at a rank that holds them."""
    return "convert", (model, {"default": config}, {**NOISE, "operation": {"rank": rank}, "right": right})


HALF = {"density": 0.5}
MINUS = (0.7, -0.4, 1.3)
FREQUENCY = {"majority_sign_method": "frequency"}


def conv():
    return pair(["c2"], ["c2"])


def all_convolutions():
    return pair(CONVOLUTIONS, ["c1", "c3"])


def grouped():
    return pair(["c2g"], ["c2g"])


# name: operation, (model, adapters {name: config}, options)
CASES = {
    "linear": combination("linear"),
    "linear_negative": combination("linear", three(), MINUS),
    "linear_regex": combination("linear", pair(r".*\.(query|value)", r".*\.query")),
    "linear_one": combination("linear", {"default": lora(target_modules=TEXT)}),
    "linear_convolutions": combination("linear", all_convolutions(), model="convolutions"),
    "cat": combination("cat", ranks(), MINUS),
    "cat_one": combination("cat", {"default": lora(target_modules=TEXT)}),
    "cat_convolutions": combination("cat", all_convolutions(), MINUS, model="convolutions"),
    "svd": combination("svd"),
    "svd_one": combination("svd", {"default": lora(target_modules=TEXT)}),
    "svd_ranks": combination("svd", ranks(), MINUS),
    "svd_rank_2": combination("svd", three(), MINUS, svd_rank=2),
    "svd_rank_6": combination("svd", svd_rank=6),
    "svd_clamp": combination("svd", svd_clamp=0.9),
    "svd_conv2d": combination("svd", conv(), MINUS, model="convolutions"),
    "ties": combination("ties", three(), **HALF),
    "ties_frequency": combination("ties", three(), **HALF, **FREQUENCY),
    "ties_negative": combination("ties", three(), MINUS, **HALF),
    "ties_conv2d": combination("ties", conv(), model="convolutions", **HALF),
    "ties_whole": combination("ties", three(), density=1.0),
    "ties_nothing": combination("ties", three(), density=0.0),
    "ties_svd": combination("ties_svd", three(), **HALF),
    "ties_svd_frequency": combination("ties_svd", three(), MINUS, **HALF, **FREQUENCY),
    "ties_svd_ranks": combination("ties_svd", ranks(), svd_rank=3, **HALF),
    "ties_svd_conv2d": combination("ties_svd", conv(), MINUS, model="convolutions", **HALF),
    "ties_svd_clamp": combination("ties_svd", three(), svd_clamp=0.95, **HALF),
    "magnitude_prune": combination("magnitude_prune", three(), MINUS, **HALF),
    "magnitude_prune_svd": combination("magnitude_prune_svd", ranks(), MINUS, density=0.3),
    "magnitude_prune_svd_conv2d": combination("magnitude_prune_svd", conv(), model="convolutions", **HALF),
    "dare_linear": combination("dare_linear", three(), MINUS, seed=SEED, **HALF),
    "dare_ties": combination("dare_ties", three(), seed=SEED, **HALF),
    "dare_ties_frequency": combination("dare_ties", three(), MINUS, seed=SEED, **HALF, **FREQUENCY),
    "dare_conv2d": combination("dare_linear", conv(), model="convolutions", seed=SEED, **HALF),
    # Not with an embedding: PEFT draws for its update [rows, size], the library
    # for [size, rows], as the factors' product is: other entries are dropped.
    "dare_linear_svd": combination("dare_linear_svd", pair(QV, QV), MINUS, seed=SEED, **HALF),
    "dare_ties_svd": combination("dare_ties_svd", pair(QV, QV), seed=SEED, **HALF),
    "dare_ties_svd_frequency": combination("dare_ties_svd", pair(QV, QV), seed=SEED, **HALF, **FREQUENCY),
    "dare_svd_conv2d": combination("dare_linear_svd", conv(), model="convolutions", seed=SEED, **HALF),
    "linear_attention": combination("linear", pair(["mha", "head"], ["mha"]), MINUS, model="attention"),
    "cat_attention": combination("cat", pair(["mha", "head"], ["mha"]), MINUS, model="attention"),
    "ties_svd_attention": combination(
        "ties_svd", pair(["mha", "head"], ["mha"]), model="attention", svd_rank=2, **HALF),
    # PEFT's config then speaks of more ranks than its tensors have.
    "linear_patterns": combination("linear", pair(rank_pattern={"query": 2}), right="updates"),
    "ties_patterns": combination("ties", pair(rank_pattern={"query": 2}), right="updates", **HALF),
    "magnitude_prune_patterns": combination(
        "magnitude_prune", pair(rank_pattern={"query": 2}), right="updates", **HALF),
    "dare_patterns": combination("dare_linear", pair(rank_pattern={"query": 2}), right="updates", seed=SEED, **HALF),
    # PEFT keeps use_rslora beside alpha = r: its result is sqrt(r) too large.
    "cat_rslora": combination("cat", pair(use_rslora=True), MINUS, right="sum"),
    "svd_rslora": combination("svd", pair(QV, QV, use_rslora=True), MINUS, right="sum", svd_rank=6),
    # Where a layer is smaller, PEFT makes factors of fewer ranks than its config says, and crashes.
    "svd_rank_8": combination("svd", right="sum", svd_rank=8),
    # PEFT keeps the first adapter's choice of layers for the union.
    "cat_layers": combination("cat", {
        "default": lora(target_modules=QV, layers_to_transform=[0], layers_pattern="layers"),
        "other": lora(target_modules=QV, layers_to_transform=[1, 2], layers_pattern="layers")}, MINUS, right="sum"),
    # PEFT forgets biases.
    "cat_lora_bias": combination("cat", pair(["query"], ["query", "classifier"], lora_bias=True), MINUS, right="sum"),
    # PEFT forgets the adapter's own copy of a module.
    "cat_saved": combination("cat", {
        "default": lora(target_modules=QV, modules_to_save=["classifier"]),
        "other": lora(target_modules=QV)}, right="sum"),
    # PEFT puts the groups' rows of A in the order of the adapters.
    "cat_grouped": combination("cat", grouped(), MINUS, model="convolutions", right="sum"),
    "svd_grouped": combination("svd", grouped(), MINUS, model="convolutions", right="sum", svd_rank=8),
    # PEFT takes singular values of each window position.
    "svd_convolutions": combination("svd", all_convolutions(), MINUS, model="convolutions", right="sum", svd_rank=8),
    "ia3": combination(None, {
        "default": ia3(feedforward_modules=["value"]), "other": ia3(feedforward_modules=["value"])}),
    "ia3_negative": combination(None, {
        "default": ia3(), "other": ia3(target_modules=["query"])}, MINUS),
    "ia3_feedforward_of_one": combination(None, {
        "default": ia3(target_modules=["query"]), "other": ia3(feedforward_modules=["value"])}),
    "ia3_regex": combination(None, {
        "default": ia3(target_modules=r".*\.(query|value)", feedforward_modules=r".*\.value"),
        "other": ia3(target_modules=r".*\.1\.value", feedforward_modules=r".*\.value")}),
    "ia3_convolutions": combination(None, {
        "default": ia3(target_modules=["c2", "c3"], feedforward_modules=["c2"]),
        "other": ia3(target_modules=["c2", "c3"], feedforward_modules=["c2"])}, model="convolutions"),
    "ia3_convolutions_of_one": combination(None, {
        "default": ia3(target_modules=["c3"]), "other": ia3(target_modules=["c2"], feedforward_modules=["c2"])},
        model="convolutions"),

    "merge": merging(lora(target_modules=[*TEXT, "classifier"])),
    "merge_two": merging(ranks()),
    "merge_rslora": merging(lora(target_modules=TEXT, use_rslora=True)),
    "merge_lora_bias": merging(lora(target_modules=["query", "classifier"], lora_bias=True)),
    "merge_convolutions": merging(lora(target_modules=CONVOLUTIONS), "convolutions"),
    "merge_two_convolutions": merging(all_convolutions(), "convolutions"),
    "merge_dora": merging(lora(target_modules=TEXT, use_dora=True)),
    "merge_dora_convolutions": merging(lora(target_modules=CONVOLUTIONS, use_dora=True), "convolutions"),
    "merge_two_dora": merging({"default": lora(target_modules=QV, use_dora=True),
                               "other": lora(r=2, target_modules=["query"], use_dora=True)}),
    "merge_dora_and_lora": merging({"default": lora(target_modules=QV, use_dora=True),
                                    "other": lora(target_modules=QV)}),
    "merge_pissa": merging(lora(target_modules=QV, init_lora_weights="pissa")),
    "merge_tokens": merging(lora(target_modules=QV, trainable_token_indices={"embedding": [10, 1, 3]})),
    "merge_tied_tokens": merging(lora(target_modules=["body"], trainable_token_indices=[8, 1, 3]), "tied"),
    # PEFT adds the update to the one weight for the table and for the head.
    "merge_tied": merging(lora(target_modules=["embed_tokens", "body"], ensure_weight_tying=True), "tied", "forward"),
    "merge_adalora": merging(adalora()),
    "merge_adalora_conv2d": merging(adalora(target_modules=["c2"]), "convolutions"),
    "merge_ia3": merging(ia3(feedforward_modules=["value"])),
    "merge_two_ia3": merging({"default": ia3(feedforward_modules=["value"]), "other": ia3(target_modules=["query"])}),
    "merge_ia3_convolutions": merging(ia3(
        target_modules=["c2", "c2g", "c3"], feedforward_modules=["c2g"]), "convolutions"),
    # PEFT merges out_proj's product twice: here it is zero.
    "merge_attention": merging(lora(target_modules=["mha", "head"]), "attention", zero_out_proj=True),
    "merge_two_attention": merging({"default": lora(target_modules=["mha", "head"]),
                                    "other": lora(r=2, target_modules=["mha"])}, "attention", zero_out_proj=True),

    "mixed": batch(["default", "__base__", "other", "default"], pair()),
    "mixed_ranks": batch(["third", "other", "__base__", "default", "third"], ranks()),
    "mixed_one": batch(["other", "other"], pair()),
    "mixed_base": batch(["__base__", "__base__"], pair()),
    "mixed_rslora_bias": batch(["other", "default", "__base__"], {
        "default": lora(target_modules=QV, use_rslora=True, lora_bias=True), "other": lora(r=2, target_modules=QV)}),
    "mixed_convolutions": batch(["default", "__base__", "other"], all_convolutions(), "convolutions"),
    "mixed_grouped": batch(["default", "__base__", "other"], grouped(), "convolutions"),
    "mixed_saved": batch(["default", "__base__", "other"], {
        "default": lora(target_modules=QV, modules_to_save=["classifier"]),
        "other": lora(target_modules=QV, modules_to_save=["classifier"])}, apart=True),

    "swap": swap(lora(target_modules=QV), lora(target_modules=QV)),
    "swap_alpha": swap(lora(target_modules=QV), lora(target_modules=QV, lora_alpha=11)),
    "swap_smaller": swap(lora(target_modules=QV), lora(r=2, lora_alpha=3, target_modules=QV)),
    "swap_larger": swap(lora(target_modules=QV), lora(r=5, lora_alpha=7, target_modules=QV)),
    "swap_rslora": swap(lora(target_modules=QV, use_rslora=True), lora(r=2, target_modules=QV, use_rslora=True)),
    "swap_fewer_layers": swap(lora(target_modules=QV), lora(r=2, target_modules=["query"])),
    "swap_convolutions": swap(lora(target_modules=CONVOLUTIONS), lora(
        lora_alpha=9, target_modules=CONVOLUTIONS), "convolutions"),
    "swap_conv2d_smaller": swap(lora(target_modules=["c2"]), lora(r=2, target_modules=["c2"]), "convolutions"),
    "swap_grouped_smaller": swap(lora(r=8, target_modules=["c2g"]), lora(r=4, target_modules=["c2g"]), "convolutions"),
    # PEFT looks rank_pattern up by a parameter's key, which no pattern matches.
    "swap_rank_pattern": swap(
        lora(target_modules=QV), lora(target_modules=QV, rank_pattern={"query": 2}), right="fresh"),
    # PEFT refuses another alpha_pattern and other kinds of LoRA.
    "swap_alpha_pattern": swap(
        lora(target_modules=QV), lora(target_modules=QV, alpha_pattern={"query": 2}), right="fresh"),
    "swap_kind": swap(
        lora(target_modules=QV), lora(r=2, target_modules=QV, use_rslora=True, use_dora=True), right="fresh"),
    # PEFT crashes at the magnitudes' keys.
    "swap_dora": swap(
        lora(target_modules=QV, use_dora=True), lora(r=2, target_modules=QV, use_dora=True), right="fresh"),
    # PEFT looks for an embedding's scaling in the module around it.
    "swap_embedding": swap(lora(target_modules=TEXT), lora(r=2, lora_alpha=3, target_modules=TEXT), right="fresh"),
    # PEFT cannot fill up factors of three dimensions.
    "swap_convolutions_smaller": swap(lora(target_modules=CONVOLUTIONS), lora(
        r=2, target_modules=CONVOLUTIONS), "convolutions", right="fresh"),

    # PEFT converts LoRA on linear layers, and no other method that is here.
    "convert": conversion(lora(target_modules=QV), 2),
    "convert_energy": conversion(lora(target_modules=QV, rank_pattern={"value": 3}), 0.9),
    "convert_regex": conversion(lora(target_modules=r".*\.(query|value)"), 3),
    "convert_whole": conversion(lora(target_modules=TEXT), 4, right="same"),
    "convert_dora": conversion(lora(target_modules=TEXT, use_dora=True), 1.0, right="same"),
    "convert_lora_bias": conversion(lora(target_modules=["query"], lora_bias=True), 4, right="same"),
    "convert_pissa": conversion(lora(target_modules=QV, init_lora_weights="pissa"), 1.0, right="same"),
    "convert_adalora": conversion(adalora(), 4, right="same"),
    "convert_ia3": conversion(ia3(target_modules=["query"]), 1.0, right="same"),
    "convert_ia3_feedforward": conversion(ia3(feedforward_modules=QV), 1.0, right="same"),
    "convert_convolutions": conversion(lora(target_modules=CONVOLUTIONS), 4, "convolutions", "same"),
    "convert_grouped": conversion(lora(target_modules=["c2g"]), 4, "convolutions", "same"),
}
