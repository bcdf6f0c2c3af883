"""Probability of a voice at each moment of the audio: the model of the package silero-vad, as the package ships it."""

from __future__ import annotations

import threading
import warnings
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data.errors import InputError
from ...data.hashing import file_sha256
from ..decode.audio import Samples

VOICE_RATE = 16_000
VOICE_UNIT = "probability"
_CHUNK = 512  # samples that the model takes at a time: 32 ms
_MODEL = "silero_vad.jit"  # of the package's models the one that its `load_silero_vad` loads, and that needs torch only
_lock = threading.Lock()
_idle_models: list[Any] = []  # a model holds the state of one recording, so each recording borrows one


def voice_model_path() -> Path:
    """Returns the model file of silero-vad, without importing the package.

    Raises:
        InputError: if the package is not installed, or has no such file.
    """
    spec = find_spec("silero_vad")
    path = Path(spec.origin).parent / "data" / _MODEL if spec and spec.origin else None
    if path is None or not path.is_file():
        todo = 'Install it with: pip install "sage-va[vad]".'
        problem = f"measuring the voice needs the package silero-vad 6.2 or newer; installed is {_installed()}"
        raise InputError("vad", problem, todo=todo)
    return path


def voice_fingerprint(sampling_rate: int) -> dict[str, str]:
    """Returns what decides the probabilities, for the fingerprint of a stream.

    Args:
        sampling_rate: of the encoder's audio in Hz.

    Raises:
        InputError: if the audio is not at `VOICE_RATE`, or silero-vad is not installed.
    """
    if sampling_rate != VOICE_RATE:
        todo = "Leave out --vad, or use an encoder that takes audio at 16 kHz."
        problem = f"silero-vad takes audio at {VOICE_RATE} Hz, and the encoder takes {sampling_rate} Hz"
        raise InputError("vad", problem, todo=todo)
    return {"name": "silero-vad", "model": _MODEL, "weights_sha256": file_sha256(voice_model_path())}


def _installed() -> str:
    try:
        return version("silero-vad")
    except PackageNotFoundError:
        return "none"


class VoiceDetector:
    """Takes the samples of one recording in order, at `VOICE_RATE`; returns the probability of a voice at any of them.

    Each chunk of 32 ms has one probability, which depends on all audio before it and not on the blocks that come in.

    Raises:
        InputError: if silero-vad is not installed.
    """

    def __init__(self) -> None:
        self._model: Any = _borrow_model()
        self._rest: Samples = np.zeros(0, np.float32)
        self._probabilities: list[float] = []

    def push(self, samples: Samples) -> None:
        """Takes the next samples (N,)."""
        import torch

        waiting = np.concatenate([self._rest, samples])
        end = len(waiting) - len(waiting) % _CHUNK
        with torch.inference_mode():
            for chunk in torch.from_numpy(waiting[:end]).reshape(-1, _CHUNK):
                self._probabilities.append(self._model(chunk, VOICE_RATE).item())
        self._rest = waiting[end:]

    def finish(self) -> None:
        """Ends the recording; silence fills the last chunk."""
        if len(self._rest):
            self.push(np.zeros(_CHUNK - len(self._rest), np.float32))
        with _lock:
            _idle_models.append(self._model)
        self._model = None

    def at(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Returns the (N,) probabilities of the chunks that hold the samples at (N,) places."""
        return np.array([self._probabilities[chunk] for chunk in places // _CHUNK], np.float32)


def _borrow_model() -> Any:
    voice_model_path()
    with _lock:
        model = _idle_models.pop() if _idle_models else _load_model()
    model.reset_states()
    return model


def _load_model() -> Any:
    import torch

    num_threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit.load is deprecated
        from silero_vad import load_silero_vad  # sets the number of threads

        model = load_silero_vad()
    torch.set_num_threads(num_threads)
    return model
