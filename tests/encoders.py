"""Tiny encoders for tests: random weights, built in a second, saved where a test can load them."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

TINY_VIT = "test_vit.r160_in1k"
TINY_CONVNET = "test_resnet.r160_in1k"


def write_wav2vec2(
    folder: Path, *, norm: str = "group", weights: bool = False, kind: str = "Wav2Vec2", **changes
) -> Path:
    """A wav2vec2-like model directory with the real strides and kernels; group norm as wav2vec2-base has it."""
    config = getattr(transformers, f"{kind}Config")(
        **{
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "conv_dim": (8,) * 7,
            "num_conv_pos_embeddings": 8,
            "num_conv_pos_embedding_groups": 2,
            "feat_extract_norm": norm,
            "do_stable_layer_norm": norm == "layer",
            **changes,
        }
    )
    return _write(folder, config, transformers.Wav2Vec2FeatureExtractor(), weights=weights)


def write_whisper(folder: Path, *, weights: bool = False) -> Path:
    """A Whisper model directory with the real 30 s windows."""
    config = transformers.WhisperConfig(
        vocab_size=64,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_mel_bins=80,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
    )
    return _write(folder, config, transformers.WhisperFeatureExtractor(feature_size=80), weights=weights)


def _write(folder: Path, config, features, *, weights: bool) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    features.save_pretrained(folder)
    if weights:
        with torch.random.fork_rng():
            torch.manual_seed(7)
            transformers.AutoModel.from_config(config).save_pretrained(folder)
    return folder
