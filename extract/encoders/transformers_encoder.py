"""Audio encoders of transformers: windows of audio in, one embedding per step out (50 Hz for all known ones)."""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from ...data.errors import InputError
from ...data.hub import hub_error, offline_if_unreachable, reason_of
from ...data.machine import find_device
from ..decode.audio import Samples
from .arithmetic import cast_once, check_convolutions
from .audio_windows import WindowPlan
from .base import AudioEncoder, plan_of
from .vad import voice_fingerprint
from .weights import compute_dtype, fixed_seed, weights_sha256

WAVEFORM_MODELS = ("wav2vec2", "hubert", "wavlm")
WHISPER = "whisper"
_CONTEXT_S = 1.0
_PROBE_S = 1.0
_MAY_BE_MISSING = ("masked_spec_embed",)  # used in training only


class TransformersEncoder(AudioEncoder):
    """Embeds audio with wav2vec2, HuBERT or WavLM on the waveform, or Whisper's encoder on log-mel windows of 30 s.

    Args:
        name: hub id, or a local directory of a transformers model.
        weights: "hub" (or the directory's own), or "random" (fixed seed; needs only the configuration).
        layer: "last", or N (an entry of hidden_states, 0 = before the first layer), or "A-B" (mean of that range).
        device: "auto", "cpu", "cuda", "cuda:1", …
        precision: "auto", "float32", "bfloat16" or "float16".
        vad: measure the probability of a voice at each step (needs the package silero-vad).

    Raises:
        InputError: if the model, layer, device or precision is unknown, or the weights are not available or do not fit.
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
            raise InputError("audio_weights", expected="hub or random", got=repr(weights), todo=todo)
        self.name, self.weights = Path(name).resolve().name if Path(name).is_dir() else name, weights
        self.device = find_device(device)
        self.dtype = compute_dtype(precision, self.device)
        config = _load_config(name)
        self._whisper = config.model_type == WHISPER
        self.layer, self._layers = str(layer), _layers_of(str(layer), config)
        self.dim = config.d_model if self._whisper else config.hidden_size
        self._features = _feature_extractor(name, config, random=weights == "random")
        plan = _whisper_plan(config, self._features) if self._whisper else _waveform_plan(config, self._features)
        self.plan = replace(plan, voice=voice_fingerprint(plan.sampling_rate)) if vad else plan
        model = _load_model(name, config, random=weights == "random")
        self.weights_sha256 = weights_sha256(model.state_dict())
        self._model = model.to(self.device)
        check_convolutions(self._model, self.dtype, self._probe, name)
        cast_once(self._model, self.dtype, self._probe)

    @property
    def alias(self) -> str:
        """Alias of the stream: the model, then a layer other than the last, then "random" for random weights."""
        parts = [self.name.rpartition("/")[2], "" if self._layers is None else f"layer{self.layer}"]
        return "-".join(part for part in (*parts, "random" if self.weights == "random" else "") if part)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Windows, resampling, and the model's own feature extractor."""
        return {
            **super().preprocessing,
            "normalise": bool(getattr(self._features, "do_normalize", False)),
            "features": "log-mel" if self._whisper else "waveform",
        }

    def embed(self, items: Samples) -> Tensor:
        """Embeds (B, N) samples, all of one length -> (B, T, D)."""
        return self._hidden(self._prepared(items))

    def _hidden(self, inputs: Tensor) -> Tensor:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            output = self._model(inputs, output_hidden_states=self._layers is not None)
        if self._layers is None:
            return output.last_hidden_state
        first, last = self._layers
        return torch.stack([state.float() for state in output.hidden_states[first : last + 1]]).mean(dim=0)

    @torch.inference_mode()
    def _probe(self) -> Tensor:
        num_samples = self.plan.window if self._whisper else round(_PROBE_S * self.sampling_rate)
        return self.embed(np.random.default_rng(0).uniform(-0.5, 0.5, (1, num_samples)).astype(np.float32))

    def _prepared(self, windows: Samples) -> Tensor:
        """Extracts features window by window, so that none depends on the batch; Whisper's spectra on the device."""
        options: dict[str, Any] = {"device": str(self.device)} if self._whisper else {}
        key = "input_features" if self._whisper else "input_values"
        inputs = [
            self._features(window, sampling_rate=self.sampling_rate, return_tensors="pt", **options)[key][0]
            for window in windows
        ]
        return self.sent(torch.stack(inputs).numpy())


def _load_config(name: str) -> Any:
    local = Path(name).is_dir()
    config = _loaded(name, transformers.AutoConfig, local_files_only=local)
    if config.model_type not in (*WAVEFORM_MODELS, WHISPER):
        expected = f"{', '.join(WAVEFORM_MODELS)} or {WHISPER}"
        got = f"model type {config.model_type!r}"
        raise InputError(name, expected=expected, got=got, todo="Choose one of these.")
    return config


def _layers_of(layer: str, config: Any) -> tuple[int, int] | None:
    """Returns first and last entry of hidden_states, or None for the last hidden state."""
    if layer == "last":
        return None
    num_layers = config.encoder_layers if config.model_type == WHISPER else config.num_hidden_layers
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", layer)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if not match or first > last or last > num_layers:
        todo = "Choose a layer that the model has."
        expected = f"last, 0 to {num_layers}, or a range such as 0-{num_layers}"
        raise InputError("layer", expected=expected, got=repr(layer), todo=todo)
    return first, last


def _loaded(name: str, loader: Any, **options: Any) -> Any:
    """Calls a loader of transformers and turns its many exceptions into one InputError. No code of a model is run."""
    try:
        with contextlib.nullcontext() if Path(name).is_dir() else offline_if_unreachable():
            # Users choose the model, and no revision: the hash of what was loaded is part of the stream's name.
            return loader.from_pretrained(name, trust_remote_code=False, **options)
    except Exception as error:  # transformers, hub clients and their transports each raise their own
        if not Path(name).is_dir():
            raise hub_error(name, "--audio", error) from error
        got = reason_of(error)
        todo = "Write the directory again with save_pretrained."
        raise InputError(name, expected="a directory of a transformers model", got=got, todo=todo) from error


def _feature_extractor(name: str, config: Any, *, random: bool) -> Any:
    """Loads the model's own preprocessing; the family's default only for random weights that come without one."""
    local = Path(name).is_dir()
    if random and local and not Path(name, "preprocessor_config.json").exists():
        if config.model_type == WHISPER:
            return transformers.WhisperFeatureExtractor(feature_size=config.num_mel_bins)
        return transformers.Wav2Vec2FeatureExtractor()
    return _loaded(name, transformers.AutoFeatureExtractor, local_files_only=local)


def _load_model(name: str, config: Any, *, random: bool) -> nn.Module:
    if random:
        with fixed_seed():
            model = transformers.AutoModel.from_config(config)
    else:
        transformers.utils.logging.disable_progress_bar()  # ours is the only one
        options = {"local_files_only": Path(name).is_dir(), "dtype": torch.float32}
        model, report = _loaded(name, transformers.AutoModel, output_loading_info=True, **options)
        _check_loaded(name, report, encoder_only=config.model_type == WHISPER)
    return (model.get_encoder() if config.model_type == WHISPER else model).eval()


def _check_loaded(name: str, report: dict[str, Any], *, encoder_only: bool) -> None:
    """Refuses incomplete weights: transformers only warns, and fills the gaps with random ones."""
    faults = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in report.get(kind) or ())
    faults = [key for key in faults if not key.endswith(_MAY_BE_MISSING) and not (encoder_only and "decoder" in key)]
    if faults:
        got = f"{len(faults)} missing or of another shape (e.g. {faults[0]})"
        todo = "Get the whole checkpoint, or pass --audio-weights random for a trial."
        raise InputError(name, expected="all weights of the model", got=got, todo=todo)


def _waveform_plan(config: Any, features: Any) -> WindowPlan:
    field = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        field = (field - 1) * stride + kernel
    step = math.prod(config.conv_stride)
    return plan_of(int(features.sampling_rate), step=step, receptive_field=field, context_s=_CONTEXT_S)


def _whisper_plan(config: Any, features: Any) -> WindowPlan:
    rate, window_steps = int(features.sampling_rate), int(config.max_source_positions)
    window = int(features.n_samples)
    return WindowPlan(
        sampling_rate=rate,
        window=window,
        step=window // window_steps,
        receptive_field=int(features.n_fft),
        first_centre=0,
        window_steps=window_steps,
        context_steps=round(_CONTEXT_S * rate / (window // window_steps)),
        padded=True,
    )
