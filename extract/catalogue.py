"""Encoders to start from: those on the model hub that this project knows, and those without weights.

Dimensions and parameters were read off the networks (megabytes: four bytes a parameter, float32); licences are those on
the cards, or of timm's `pretrained_cfg` for its models, read in November 2026.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

HUB_URL = "https://huggingface.co/"


@dataclass(frozen=True)
class StartingModel:
    """A model to start from.

    Args:
        name: as the option `use` takes it.
        use: where it goes: `--visual`, `--audio`, or `predict` for a trained model.
        dimensions: of a step; None for a trained model.
        megabytes: to download; 0 = nothing.
        licence: of the weights.
        trained_on: the data.
        affect: True if its training had labels of affect.
        source: "hub", "package NAME", or "sage-va".
        card: address, or place, of what its authors say about it.
        here: True if it can be used without a network.
    """

    name: str
    use: str
    dimensions: int | None
    megabytes: float
    licence: str
    trained_on: str
    affect: bool
    source: str
    card: str
    here: bool

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return asdict(self)


_TIMM = (  # name; dimensions, megabytes, licence, trained on
    ("vit_small_patch14_dinov2.lvd142m", 384, 88, "Apache-2.0", "LVD-142M, self-supervised"),
    ("vit_base_patch14_dinov2.lvd142m", 768, 346, "Apache-2.0", "LVD-142M, self-supervised"),
    ("vit_base_patch16_clip_224.openai", 768, 345, "Apache-2.0", "WIT-400M, images with captions"),
    ("vit_small_plus_patch16_dinov3.lvd1689m", 384, 115, "DINOv3 licence (own terms)", "LVD-1689M, self-supervised"),
    ("tf_efficientnet_b0.in1k", 1280, 21, "Apache-2.0", "ImageNet-1k classes"),
    ("tf_efficientnet_lite0.in1k", 1280, 19, "Apache-2.0", "ImageNet-1k classes"),
    ("resnet18.a3_in1k", 512, 47, "Apache-2.0", "ImageNet-1k classes"),
)
_EMOTION = "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim"
_TRANSFORMERS = (
    (_EMOTION, 1024, 661, "CC BY-NC-SA 4.0", "wav2vec2-large-robust, then arousal, dominance, valence of MSP-Podcast"),
    ("microsoft/wavlm-base-plus", 768, 378, "MIT (its authors; no field on the card)", "94,000 h of speech"),
    ("facebook/hubert-base-ls960", 768, 378, "Apache-2.0", "LibriSpeech, 960 h"),
    ("facebook/wav2vec2-base", 768, 378, "Apache-2.0", "LibriSpeech, 960 h"),
    ("openai/whisper-small", 768, 967, "Apache-2.0", "680,000 h of speech with transcripts"),
)
_WITHOUT_WEIGHTS = (("logmel", 64, "log power in mel bands"), ("prosody", 30, "MFCC, energy, flux and pitch"))


def known_encoders() -> Iterator[StartingModel]:
    """Yields the encoders on the hub, then the audio features without weights. Asks no server."""
    for name, dimensions, megabytes, licence, data in _TIMM:
        repository = f"timm/{name}"
        card, here = HUB_URL + repository, is_cached(repository)
        yield StartingModel(name, "--visual", dimensions, megabytes, licence, data, False, "hub", card, here)
    for name, dimensions, megabytes, licence, data in _TRANSFORMERS:
        about = (licence, data, name == _EMOTION, "hub", HUB_URL + name, is_cached(name))
        yield StartingModel(name, "--audio", dimensions, megabytes, *about)
    for name, dimensions, means in _WITHOUT_WEIGHTS:
        about = ("Apache-2.0", f"nothing: {means}", False, "sage-va", "docs/encoders.md", True)
        yield StartingModel(name, "--audio", dimensions, 0, *about)


def is_cached(repository: str) -> bool:
    """Returns True if the weights of a repository of the hub lie in the hub's cache on this machine."""
    from huggingface_hub import try_to_load_from_cache

    files = ("model.safetensors", "pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(repository, file), str) for file in files)
