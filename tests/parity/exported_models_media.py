# SPDX-License-Identifier: Apache-2.0
"""Tiny vision and audio models of transformers, without dropout."""
import torch
import transformers as hf

from exported_example import Example, call, on

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
IMAGES = ((2, 32), (3, 64))
FIXED_IMAGES = ((2, 16), (3, 16))
SOUNDS = ((2, 120), (3, 200))


def images(batch, size):
    return call(torch.randn(batch, 3, size, size))


def images_and_text(batch, length):
    return call(input_ids=torch.randint(3, 32, (batch, length)), pixel_values=torch.randn(batch, 3, 16, 16),
                attention_mask=torch.ones(batch, length, dtype=torch.int64))


def sound(batch, length):
    return call(torch.randn(batch, length))


def spectrogram(batch, length):
    return call(input_features=torch.randn(batch, 8, 40), decoder_input_ids=torch.randint(3, 32, (batch, length)))


def bit():
    """Its convolutions standardise their weights."""
    return hf.BitForImageClassification(hf.BitConfig(
        num_channels=3, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_groups=2, global_padding="same"))


def vit():
    return hf.ViTForImageClassification(hf.ViTConfig(**TOWER, **NO_DROPOUT, image_size=16, patch_size=4))


def clip():
    text = {**TOWER, "vocab_size": 32, "max_position_embeddings": 20, "bos_token_id": 1, "eos_token_id": 2}
    return hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config={**TOWER, "image_size": 16, "patch_size": 8},
                                      projection_dim=8))


def convnext():
    return hf.ConvNextForImageClassification(hf.ConvNextConfig(
        hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32))


def resnet():
    return hf.ResNetForImageClassification(hf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"))


def swin():
    return hf.SwinForImageClassification(hf.SwinConfig(
        **NO_DROPOUT, image_size=16, patch_size=2, embed_dim=8, depths=[2, 1], num_heads=[2, 2], window_size=2,
        drop_path_rate=0.0))


def segformer():
    return hf.SegformerForSemanticSegmentation(hf.SegformerConfig(
        **NO_DROPOUT, num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16], patch_sizes=[3, 3],
        strides=[2, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=8,
        classifier_dropout_prob=0.0, drop_path_rate=0.0))


def whisper():
    return hf.WhisperForConditionalGeneration(hf.WhisperConfig(
        vocab_size=32, num_mel_bins=8, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_source_positions=20,
        max_target_positions=20, dropout=0.0, use_cache=False, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1))


def wav2vec2(**fields):
    return hf.Wav2Vec2ForCTC(hf.Wav2Vec2Config(
        **TOWER, vocab_size=32, hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
        feat_proj_dropout=0.0, final_dropout=0.0, layerdrop=0.0, conv_dim=(8, 8), conv_stride=(5, 2),
        conv_kernel=(10, 3), num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, apply_spec_augment=False,
        **fields))


MEDIA = {
    "vit": Example(vit, images, sizes=FIXED_IMAGES),
    "clip": Example(clip, images_and_text),
    "convnext": Example(convnext, images, on("pwconv1", "patch_embeddings"), sizes=IMAGES),
    "bit": Example(bit, images, {}, sizes=FIXED_IMAGES),  # PEFT's factors standardise themselves too
    "resnet": Example(resnet, images, on("convolution", "classifier.1"), sizes=IMAGES),
    "swin": Example(swin, images, sizes=FIXED_IMAGES),
    "segformer": Example(segformer, images, sizes=IMAGES, extra=True),
    "whisper": Example(whisper, spectrogram, on("q_proj", "v_proj")),
    "wav2vec2": Example(wav2vec2, sound, sizes=SOUNDS),
    # Its convolution of positions has a weight norm.
    "wav2vec2_positions": Example(wav2vec2, sound, on("pos_conv_embed.conv", "v_proj"), sizes=SOUNDS, merges=False),
    "wav2vec2_layer_norm": Example(lambda: wav2vec2(feat_extract_norm="layer", do_stable_layer_norm=True), sound,
                                   sizes=SOUNDS, extra=True),
}
