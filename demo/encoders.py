"""The encoders of the demo: pretrained ones where their packages are installed, else small untrained ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from .pretrained import FACE, IMAGE_SIZE, VISUAL, VOICE, write_face_encoder, write_voice_encoder

UNTRAINED_VISUAL = "test_resnet.r160_in1k"
CONFIG = {
    "architectures": ["WhisperModel"], "model_type": "whisper", "d_model": 96, "encoder_layers": 1,
    "encoder_attention_heads": 4, "encoder_ffn_dim": 192, "decoder_layers": 1, "decoder_attention_heads": 4,
    "decoder_ffn_dim": 64, "num_mel_bins": 80, "vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1, "init_std": 0.05,
}  # fmt: skip
FEATURES = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80, "sampling_rate": 16000,
            "hop_length": 160, "chunk_length": 30, "n_fft": 400, "return_attention_mask": False}  # fmt: skip


@dataclass(frozen=True)
class DemoEncoders:
    """A pair of encoders. options: name them for `sage-va extract`; about: lines for readers; random: untrained."""

    options: list[str]
    about: list[str]
    random: bool


def pretrained_encoders(folder: Path) -> DemoEncoders:
    """Writes the pretrained encoders into a folder, or keeps those that are there.

    Raises:
        InputError: if a package holds another weights file than the known one.
    """
    face, voice = FACE.place(), VOICE.place()
    assert face is not None, f"{FACE.package} is installed"
    assert voice is not None, f"{VOICE.package} is installed"
    visual, audio = folder / "efficientnet_lite0.safetensors", folder / "whisper-tiny-en"
    if not visual.exists():
        write_face_encoder(face, visual)
    if not (audio / "config.json").exists():  # written last
        write_voice_encoder(voice, audio)
    options = [
        "--visual",
        VISUAL,
        "--visual-weights",
        str(visual),
        "--image-size",
        str(IMAGE_SIZE),
        "--audio",
        str(audio),
    ]
    about = ["Pretrained encoders; neither was trained on affect:", *(f"  {one.describe()}" for one in (FACE, VOICE))]
    return DemoEncoders(options, about, random=False)


def untrained_encoders(folder: Path) -> DemoEncoders:
    """Writes the settings of a small audio encoder; its weights, and those of the visual one, are random."""
    audio = folder / "tiny-whisper"
    audio.mkdir(parents=True, exist_ok=True)
    (audio / "config.json").write_text(json.dumps(CONFIG, indent=2), encoding="utf-8")
    (audio / "preprocessor_config.json").write_text(json.dumps(FEATURES, indent=2), encoding="utf-8")
    weights = ["--visual-weights", "random", "--audio-weights", "random"]
    about = [
        "Untrained encoders (random weights): the demo shows that the parts work together, not how well they estimate.",
        f'Pretrained ones ({(FACE.num_bytes + VOICE.num_bytes) / 1e6:.0f} MB): pip install "sage-va[demo]"',
    ]
    return DemoEncoders(["--visual", UNTRAINED_VISUAL, "--audio", str(audio), *weights], about, random=True)
