# SPDX-License-Identifier: Apache-2.0
"""Tiny text models of transformers, without dropout unless it is tested."""
import torch
import transformers as hf
from transformers.masking_utils import create_causal_mask

from exported_example import Example, call, on

VOCABULARY = 32
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4,
         "intermediate_size": 24, "max_position_embeddings": 40}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
ENCODER = {**SMALL, **NO_DROPOUT}
DECODER = {**SMALL, "num_key_value_heads": 2, "use_cache": False, "attention_dropout": 0.0,
           "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TWO_LAYERS = {**DECODER, "num_hidden_layers": 2}


def ids(batch, length):
    return torch.randint(3, VOCABULARY, (batch, length))


def plain(batch, length):
    return call(ids(batch, length))


def padded(batch, length):
    """A mask hides the end of the last row."""
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[-1, length // 2:] = 0
    return call(ids(batch, length), attention_mask=mask)


def with_decoder(batch, length):
    return call(input_ids=ids(batch, length), decoder_input_ids=ids(batch, length - 2))


def bert(**fields):
    return hf.BertForSequenceClassification(hf.BertConfig(**{**ENCODER, "num_labels": 3, **fields}))


def roberta():
    return hf.RobertaForMaskedLM(hf.RobertaConfig(**ENCODER, pad_token_id=1))


def distilbert():
    return hf.DistilBertForTokenClassification(hf.DistilBertConfig(
        vocab_size=VOCABULARY, dim=16, hidden_dim=24, n_layers=2, n_heads=2, max_position_embeddings=40, dropout=0.0,
        attention_dropout=0.0, seq_classif_dropout=0.0))


def electra():
    return hf.ElectraForPreTraining(hf.ElectraConfig(**ENCODER, embedding_size=8))


def deberta():
    return hf.DebertaV2Model(hf.DebertaV2Config(
        **ENCODER, relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=8))


def albert():
    return hf.AlbertModel(hf.AlbertConfig(**{**ENCODER, "num_hidden_layers": 2}, embedding_size=8, inner_group_num=1))


def modernbert():
    return hf.ModernBertForMaskedLM(hf.ModernBertConfig(
        **{**SMALL, "num_hidden_layers": 2}, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1,
        sep_token_id=2, local_attention=4, global_attn_every_n_layers=2))


def xlnet():
    return hf.XLNetModel(hf.XLNetConfig(
        vocab_size=VOCABULARY, d_model=16, n_layer=1, n_head=2, d_inner=24, dropout=0.0, use_mems_train=False))


def gpt2():
    return hf.GPT2LMHeadModel(hf.GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=40, use_cache=False, bos_token_id=1,
        eos_token_id=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))


def bloom():
    return hf.BloomForCausalLM(hf.BloomConfig(
        vocab_size=VOCABULARY, hidden_size=16, n_layer=1, n_head=4, use_cache=False, hidden_dropout=0.0,
        attention_dropout=0.0))


def opt():
    return hf.OPTForCausalLM(hf.OPTConfig(
        vocab_size=VOCABULARY, hidden_size=16, ffn_dim=24, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=40, word_embed_proj_dim=16, dropout=0.0, layerdrop=0.0, use_cache=False))


def gpt_neox():
    return hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(
        **SMALL, use_cache=False, hidden_dropout=0.0, attention_dropout=0.0))


def llama(**fields):
    return hf.LlamaForCausalLM(hf.LlamaConfig(**{**TWO_LAYERS, **fields}))


def llama_with_cache():
    from transformers.integrations.executorch import register_dynamic_cache_export_support

    register_dynamic_cache_export_support()
    return llama(use_cache=True, num_hidden_layers=1)


def gemma2():
    return hf.Gemma2ForCausalLM(hf.Gemma2Config(
        **TWO_LAYERS, head_dim=4, sliding_window=6, final_logit_softcapping=30.0))


class Sparse(hf.LlamaForCausalLM):
    """Its mask comes from a function, on which transformers uses torch.vmap."""

    def forward(self, input_ids):
        x = self.model.embed_tokens(input_ids)
        mask = create_causal_mask(self.config, x, None, None,
                                  and_mask_function=lambda batch, head, query, key: (key % 3 != 2) | (query == key))
        return super().forward(inputs_embeds=x, attention_mask=mask)


def mixtral(**fields):
    return hf.MixtralForCausalLM(hf.MixtralConfig(**DECODER, num_local_experts=4, num_experts_per_tok=2, **fields))


def mamba(of, config, **fields):
    return of(config(vocab_size=VOCABULARY, hidden_size=16, state_size=4, num_hidden_layers=1, expand=2,
                     use_cache=False, **fields))


def t5():
    return hf.T5ForConditionalGeneration(hf.T5Config(
        vocab_size=VOCABULARY, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=4, dropout_rate=0.0,
        relative_attention_num_buckets=8, relative_attention_max_distance=16, use_cache=False,
        feed_forward_proj="gated-gelu", decoder_start_token_id=0))


def bart():
    return hf.BartForConditionalGeneration(hf.BartConfig(
        vocab_size=VOCABULARY, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=40, dropout=0.0,
        use_cache=False))


FIXED_LENGTH = ((2, 7), (3, 7))
TEXT = {
    "bert": Example(lambda: bert(num_hidden_layers=2), padded, on(
        "query", "value", "word_embeddings", modules_to_save=["classifier"])),
    "bert_dropout": Example(lambda: bert(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.2), padded),
    "bert_eager_attention": Example(lambda: bert(attn_implementation="eager"), padded, extra=True),
    "roberta": Example(roberta, padded),
    "distilbert": Example(distilbert, padded, on("q_lin", "v_lin", bias="lora_only")),
    "electra": Example(electra, padded, extra=True),
    "deberta": Example(deberta, padded),
    "albert": Example(albert, padded, on("query", "ffn")),
    "modernbert": Example(modernbert, padded, extra=True),
    "xlnet": Example(xlnet, padded, on("layer_1"), extra=True),
    "gpt2": Example(gpt2, plain, on("c_attn", "c_proj", "c_fc", rank_pattern={"c_fc": 2})),
    "bloom": Example(bloom, padded, on("query_key_value", use_rslora=True)),
    "opt": Example(opt, padded, extra=True),
    "gpt_neox": Example(gpt_neox, plain, extra=True),
    "llama": Example(llama, padded, on("q_proj", "v_proj")),
    "llama_with_cache": Example(llama_with_cache, plain, {}),
    "qwen2": Example(lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**DECODER)), plain, extra=True),
    "qwen3": Example(lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**DECODER, head_dim=4)), padded),
    "mistral": Example(lambda: hf.MistralForCausalLM(hf.MistralConfig(**DECODER, sliding_window=6)), plain),
    "gemma2": Example(gemma2, plain),
    "sparse_mask": Example(lambda: Sparse(hf.LlamaConfig(**DECODER)), plain),
    "phi3": Example(lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**DECODER, resid_pdrop=0.0, embd_pdrop=0.0)), plain,
                    on("qkv_proj", "gate_up_proj")),
    # Routes tokens by an operator that transformers writes in Python.
    "mixtral": Example(mixtral, plain, on("q_proj", "v_proj")),
    "mixtral_batched": Example(lambda: mixtral(experts_implementation="batched_mm"), plain, on("q_proj", "v_proj")),
    # Its scan over time steps is unrolled.
    "mamba": Example(lambda: mamba(hf.MambaForCausalLM, hf.MambaConfig, time_step_rank=4), plain,
                     on("in_proj", "x_proj"), sizes=FIXED_LENGTH),
    "mamba2": Example(lambda: mamba(hf.Mamba2ForCausalLM, hf.Mamba2Config, head_dim=8, num_heads=4, n_groups=1,
                                    chunk_size=4), plain, on("in_proj"), extra=True),
    "t5": Example(t5, with_decoder, on("q", "v", "wi_0")),
    "bart": Example(bart, with_decoder, extra=True),
}
