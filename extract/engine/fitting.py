"""Batches that fit into the memory of a device: halved when it is exhausted."""

from __future__ import annotations

import threading
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...data.machine import is_out_of_memory

if TYPE_CHECKING:  # it loads torch
    from ..encoders.base import Encoder

BATCH_ON_CPU, BATCH_ON_GPU = 32, 128  # images; a GPU would start more kernels than it computes with 32
AUDIO_BATCH_ON_GPU = 8  # windows; on a CPU one at a time is the fastest


def default_batch(encoder: Encoder) -> int:
    """Returns the items per batch that suit an encoder's modality and device."""
    if encoder.modality == "audio":
        return AUDIO_BATCH_ON_GPU if encoder.device.type == "cuda" else 1
    return BATCH_ON_GPU if encoder.device.type == "cuda" else BATCH_ON_CPU


class FittingBatches:
    """Encodes batches in pieces of one size, which is halved when the device's memory is exhausted; used by threads.

    Args:
        encoder: that encodes.
        size: items per piece at first; batches have as many, or one.

    Attributes:
        used: size of the last piece that was encoded; 0 = none yet.
    """

    def __init__(self, encoder: Encoder, size: int) -> None:
        self.encoder, self.used = encoder, 0
        self._size, self._lock = size, threading.Lock()

    def encode(self, items: NDArray[Any]) -> NDArray[np.float32]:
        """Encodes a batch.

        Raises:
            RuntimeError: if the encoder fails, or the memory is too small for one item.
        """
        import torch

        size = min(self._size, len(items))
        try:
            return self._in_pieces(items, size)
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        self._halve(size)
        torch.cuda.empty_cache()
        return self.encode(items)

    def _in_pieces(self, items: NDArray[Any], size: int) -> NDArray[np.float32]:
        if size == len(items):
            values = self.encoder.encode(items)
        else:
            pieces = [items[first : first + size] for first in range(0, len(items), size)]
            values = np.concatenate([self.encoder.encode(_filled(piece, size)) for piece in pieces])[: len(items)]
        self.used = size if len(items) > 1 or not self.used else self.used
        return values

    def _halve(self, size: int) -> None:
        """Halves the size, unless another thread has done so meanwhile."""
        with self._lock:
            if self._size != size:
                return
            self._size = (size + 1) // 2
        text = f"{self.encoder.name}: out of memory on {self.encoder.device} with batches of {size}"
        warnings.warn(f"{text}; continuing with {self._size}", stacklevel=2)


def _filled(piece: NDArray[Any], size: int) -> NDArray[Any]:
    """Fills the last piece up with repeats, so that the encoder gets one shape."""
    return piece if len(piece) == size else np.concatenate([piece, piece[-1:].repeat(size - len(piece), 0)])
