"""Audio encoders of transformers: windows of sound in, one embedding per step out (50 Hz for all known ones)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from ...data.errors import InputError
from ...data.machine import find_device
from ..decode.audio import Samples
from ..weights import compute_dtype, fixed_seed, no_hub, weights_sha256
from .audio_windows import WindowPlan
from .base import AudioEncoder, plan_of
from .vad import voice_fingerprint

RAW_MODELS = ("wav2vec2", "hubert", "wavlm")
WHISPER = "whisper"
_CONTEXT_S = 1.0
_MAY_BE_MISSING = ("masked_spec_embed",)  # used in training only


class TransformersEncoder(AudioEncoder):
    """wav2vec2, HuBERT or WavLM on the raw waveform, or the encoder of Whisper on log-mel windows of 30 s.

    Args:
        name: hub id, or a local directory of a transformers model.
        weights: "hub" (the directory's own where `name` is one) or "random" (fixed seed; needs the configuration only).
        layer: "last", or N (an entry of hidden_states, 0 = before the first layer), or "A-B" (mean of that range).
        device: "auto", "cpu", "cuda", "cuda:1", …
        precision: "auto", "float32", "bfloat16" or "float16".
        vad: measure for each step how likely it holds a voice (needs the package silero-vad).

    Raises:
        InputError: if the model, layer, device or precision is unknown, or the weights cannot be had or do not fit.
    """

    kind = "transformers"

    def __init__(
        self,
        name: str,
        *,
        weights: str = "hub",
        layer: str = "last",
        device: str = "auto",
        precision: str = "auto",
        vad: bool = False,
    ) -> None:
        if weights not in ("hub", "random"):
            todo = "To use a file, pass its model directory to --audio."
            raise InputError("--audio-weights", expected="hub or random", got=repr(weights), todo=todo)
        self.name, self.weights = Path(name).resolve().name if Path(name).is_dir() else name, weights
        self.device = find_device(device)
        self.dtype = compute_dtype(precision, self.device)
        local = Path(name).is_dir()
        config = _fetched(name, lambda: transformers.AutoConfig.from_pretrained(name, local_files_only=local))
        self._whisper = config.model_type == WHISPER
        if not self._whisper and config.model_type not in RAW_MODELS:
            got = f"model type {config.model_type!r}"
            todo = "Choose one of these."
            raise InputError(name, expected=f"{', '.join(RAW_MODELS)} or {WHISPER}", got=got, todo=todo)
        num_layers = config.encoder_layers if self._whisper else config.num_hidden_layers
        self.layer, self._layers = str(layer), _layers_of(str(layer), num_layers)
        self._features = _feature_extractor(name, config, random=weights == "random")
        model = _loaded(name, config, random=weights == "random")
        self.weights_sha256 = weights_sha256(model.state_dict())
        self._model = model.to(self.device)
        plan = _whisper_plan(config, self._features) if self._whisper else _raw_plan(config, self._features)
        self.plan = replace(plan, voice=voice_fingerprint(plan.sampling_rate)) if vad else plan
        self.dim = config.d_model if self._whisper else config.hidden_size

    @property
    def alias(self) -> str:
        """What people call the stream; a layer other than the last and random weights say so."""
        parts = [self.name.rpartition("/")[2], "" if self._layers is None else f"layer{self.layer}"]
        return "-".join(part for part in (*parts, "random" if self.weights == "random" else "") if part)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How sound is cut, and what the model's own feature extractor does to it."""
        return {
            **super().preprocessing,
            "normalise": bool(getattr(self._features, "do_normalize", False)),
            "features": "log-mel" if self._whisper else "waveform",
        }

    def embed(self, items: Samples) -> Tensor:
        """(B, N) samples, all of one length -> (B, T, D)."""
        inputs = self._prepared(items)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            found = self._model(inputs, output_hidden_states=self._layers is not None)
        if self._layers is None:
            return found.last_hidden_state
        first, last = self._layers
        return torch.stack([state.float() for state in found.hidden_states[first : last + 1]]).mean(dim=0)

    def _prepared(self, windows: Samples) -> Tensor:
        """One window at a time, so that none depends on its company; the spectra of Whisper on the device."""
        options: dict[str, Any] = {"device": str(self.device)} if self._whisper else {}
        key = "input_features" if self._whisper else "input_values"
        found = [
            self._features(window, sampling_rate=self.sampling_rate, return_tensors="pt", **options)[key][0]
            for window in windows
        ]
        return self.sent(torch.stack(found).numpy())


def _layers_of(layer: str, num_layers: int) -> tuple[int, int] | None:
    """First and last entry of hidden_states, or None for the last hidden state."""
    if layer == "last":
        return None
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", layer)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if not match or first > last or last > num_layers:
        todo = "Choose a layer that the model has."
        expected = f"last, 0 to {num_layers}, or a range such as 0-{num_layers}"
        raise InputError("--layer", expected=expected, got=repr(layer), todo=todo)
    return first, last


def _fetched(name: str, fetch: Callable[[], Any]) -> Any:
    """What transformers loads for a name, its many errors turned into one."""
    try:
        return fetch()
    except InputError:
        raise
    except Exception as error:  # transformers, hub clients and their transports each raise their own
        if not Path(name).is_dir():
            raise no_hub(name, "--audio", error) from error
        got = f"{error}".splitlines()[0][:200] or type(error).__name__
        todo = "Write the directory again with save_pretrained."
        raise InputError(name, expected="a directory of a transformers model", got=got, todo=todo) from error


def _feature_extractor(name: str, config: Any, *, random: bool) -> Any:
    """The model's own preprocessing; the family's default only for random weights that come without one."""
    local = Path(name).is_dir()
    if random and local and not Path(name, "preprocessor_config.json").exists():
        if config.model_type == WHISPER:
            return transformers.WhisperFeatureExtractor(feature_size=config.num_mel_bins)
        return transformers.Wav2Vec2FeatureExtractor()
    return _fetched(name, lambda: transformers.AutoFeatureExtractor.from_pretrained(name, local_files_only=local))


def _loaded(name: str, config: Any, *, random: bool) -> nn.Module:
    if random:
        with fixed_seed():
            model = transformers.AutoModel.from_config(config)
    else:
        local = Path(name).is_dir()
        transformers.utils.logging.disable_progress_bar()  # ours is the only one
        model, report = _fetched(
            name,
            lambda: transformers.AutoModel.from_pretrained(
                name, local_files_only=local, output_loading_info=True, dtype=torch.float32
            ),
        )
        _check_loaded(name, report, encoder_only=config.model_type == WHISPER)
    return (model.get_encoder() if config.model_type == WHISPER else model).eval()


def _check_loaded(name: str, report: dict[str, Any], *, encoder_only: bool) -> None:
    """Transformers fills absent weights with random ones and goes on; we do not."""
    faults = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in report.get(kind) or ())
    faults = [key for key in faults if not key.endswith(_MAY_BE_MISSING) and not (encoder_only and "decoder" in key)]
    if faults:
        got = f"{len(faults)} missing or of another shape (e.g. {faults[0]})"
        todo = "Get the whole checkpoint, or pass --audio-weights random for a trial."
        raise InputError(name, expected="all weights of the model", got=got, todo=todo)


def _raw_plan(config: Any, features: Any) -> WindowPlan:
    hears = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        hears = (hears - 1) * stride + kernel
    return plan_of(int(features.sampling_rate), step=math.prod(config.conv_stride), hears=hears, context_s=_CONTEXT_S)


def _whisper_plan(config: Any, features: Any) -> WindowPlan:
    rate, window_steps = int(features.sampling_rate), int(config.max_source_positions)
    window = int(features.n_samples)
    return WindowPlan(
        sampling_rate=rate,
        window=window,
        step=window // window_steps,
        hears=int(features.n_fft),
        first_centre=0,
        window_steps=window_steps,
        context_steps=round(_CONTEXT_S * rate / (window // window_steps)),
        padded=True,
    )
