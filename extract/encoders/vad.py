"""How likely each moment of sound holds a voice: the network of the package silero-vad, for plain torch."""

from __future__ import annotations

import threading
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from ...data.errors import InputError
from ...data.hashing import file_sha256
from ..decode.audio import Samples

VOICE_RATE = 16_000
VOICE_UNIT = "probability"
_CHUNK, _CONTEXT, _REFLECTED = 512, 64, 64
_BATCH = 64 * _CHUNK  # so many samples gather before the network runs, unless an answer is wanted earlier
_lock = threading.Lock()
_networks: dict[Path, _Network] = {}


def voice_weights() -> Path:
    """The weights that come with silero-vad; found without importing it, since that changes torch's threads.

    Raises:
        InputError: if it is not installed, or in a version without them.
    """
    spec = find_spec("silero_vad")
    path = Path(spec.origin).parent / "data/silero_vad_16k.safetensors" if spec and spec.origin else None
    if path is None or not path.is_file():
        todo = 'Install it with: pip install "sage-va[vad]".'
        raise InputError("--vad", expected="the package silero-vad 6.2 or newer", got=_installed(), todo=todo)
    return path


def voice_fingerprint(sampling_rate: int) -> dict[str, str]:
    """What decides the probabilities.

    Raises:
        InputError: if the sound is not at `VOICE_RATE`, or silero-vad is not installed.
    """
    if sampling_rate != VOICE_RATE:
        todo = "Leave out --vad, or use an encoder that hears 16 kHz."
        raise InputError("--vad", expected=f"sound at {VOICE_RATE} Hz", got=f"{sampling_rate} Hz", todo=todo)
    return {"name": "silero-vad", "weights_sha256": file_sha256(voice_weights())}


def _installed() -> str:
    try:
        return version("silero-vad")
    except PackageNotFoundError:
        return "none"


class _Network(nn.Module):
    """Spectrum of 32 ms by a learned transform, four convolutions, one recurrent layer, one probability."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm = nn.LSTM(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    @classmethod
    def loaded(cls, path: Path) -> _Network:
        with torch.random.fork_rng(devices=[]):
            network = cls()
        state = {name: tensor.float() for name, tensor in load_file(path).items()}
        parts = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        state |= {f"lstm.{part}_l0": state.pop(f"lstm_cell.{part}") for part in parts}
        network.load_state_dict(state)
        return network.eval()

    def forward(self, chunks: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(N, 64 + 512) samples, each chunk with the end of the one before -> (N,) probabilities, state."""
        bands = self.stft_conv(functional.pad(chunks, (0, _REFLECTED), mode="reflect")[:, None])
        found = (bands[:, :129].square() + bands[:, 129:].square()).sqrt()
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            found = layer(found).relu()
        heard, after = self.lstm(found.squeeze(-1), state)
        return self.final_conv(heard.relu()[..., None]).sigmoid().reshape(-1), after


class VoiceDetector:
    """Takes the samples of one recording as they come, at `VOICE_RATE`; tells how likely there is a voice at any.

    Raises:
        InputError: if silero-vad is not installed.
    """

    def __init__(self) -> None:
        path = voice_weights()
        with _lock:
            if path not in _networks:
                _networks[path] = _Network.loaded(path)
        self._network = _networks[path]
        self._state: tuple[Tensor, Tensor] | None = None
        self._waiting: list[Samples] = [np.zeros(_CONTEXT, np.float32)]
        self._found: list[NDArray[np.float32]] = []

    def push(self, samples: Samples) -> None:
        """Takes the next samples."""
        self._waiting.append(samples)
        if sum(map(len, self._waiting)) >= _CONTEXT + _BATCH:
            self._run()

    def finish(self) -> None:
        """Says that there are no more; the last chunk is filled up with silence."""
        missing = -(sum(map(len, self._waiting)) - _CONTEXT) % _CHUNK
        self._waiting.append(np.zeros(missing, np.float32))

    def at(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """(N,) places of samples -> (N,) probability of the 32 ms chunk that each lies in."""
        self._run()
        self._found = [np.concatenate([np.zeros(0, np.float32), *self._found])]
        return self._found[0][places // _CHUNK]

    @torch.inference_mode()
    def _run(self) -> None:
        samples = np.concatenate(self._waiting)
        num_chunks = (len(samples) - _CONTEXT) // _CHUNK
        if num_chunks:
            cut = torch.from_numpy(samples).unfold(0, _CONTEXT + _CHUNK, _CHUNK)
            found, self._state = self._network(cut, self._state)
            self._found.append(found.numpy())
        self._waiting = [samples[num_chunks * _CHUNK :]]
