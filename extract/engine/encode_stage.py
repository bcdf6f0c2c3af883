"""Encoding stage of the pipeline: images and windows of many clips in batches, encoded by a pool of threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...data.errors import InputError
from ...data.machine import num_cores
from ..batch import Packer, Values
from ..buffers import Buffers
from ..decode.frames import Pixels
from ..encoders.audio_windows import Window
from ..options import ExtractOptions
from .assemble import Assembly
from .fitting import FittingBatches, default_batch
from .threads import pinned, prepare_encoder_thread

if TYPE_CHECKING:  # it loads torch
    from ..encoders.base import AudioEncoder, Encoder, VisualEncoder

THREADS_ON_GPU = 2  # one prepares a batch while the other waits for its own

Piece = tuple[Assembly, Window]


class EncodeStage:
    """Packs images and windows of many clips into batches and encodes them; results come in order.

    Args:
        visual: encoder of the images; None = there are none.
        audio: encoder of the windows; None = there are none.
        options: batch size and cores.
        buffers: lends the memory of the batches.
    """

    def __init__(
        self, visual: VisualEncoder | None, audio: AudioEncoder | None, options: ExtractOptions, buffers: Buffers
    ) -> None:
        devices = {encoder.device for encoder in (visual, audio) if encoder and encoder.device.type != "cpu"}
        self._num_threads = THREADS_ON_GPU if devices else options.num_cores or num_cores()
        self._pool = ThreadPoolExecutor(self._num_threads, "sage-va-encoder", lambda: prepare_encoder_thread(devices))
        self._lock = threading.Lock()
        self._busy_s = 0.0
        self._audio = audio
        self._buffers = Buffers(pinned) if any(device.type == "cuda" for device in devices) else buffers
        self._fitting: dict[str, FittingBatches] = {}
        self._images: Packer[Assembly] = self._packer(visual, options.batch_size)
        self._windows: Packer[Piece] = self._packer(audio, None)

    @property
    def batch_sizes(self) -> dict[str, int]:
        """Items per batch that were encoded last, by modality; smaller than asked for where memory was exhausted."""
        return {modality: fitting.used for modality, fitting in self._fitting.items() if fitting.used}

    @property
    def busy_s(self) -> float:
        """Seconds of work per thread."""
        return self._busy_s / self._num_threads

    def push_images(self, clip: Assembly, pixels: Pixels) -> Iterator[tuple[Assembly, Values]]:
        """Takes (N, H, W, 3) images of a clip; yields (clip, (n, D) features) of images that are done."""
        return self._images.push(clip, pixels)

    def push_window(self, clip: Assembly, window: Window) -> Iterator[tuple[Piece, Values]]:
        """Takes a window of a clip; yields ((clip, window), (1, T, D) features) for each that is done."""
        assert self._audio is not None, "windows are cut for it"
        if len(window.samples) != self._audio.plan.window:  # a short recording is a batch of its own
            return self._windows.push_alone((clip, window), window.samples)
        return self._windows.push((clip, window), window.samples[None])

    def flush_images(self) -> Iterator[tuple[Assembly, Values]]:
        """Yields the features of all images that are not done yet."""
        return self._images.flush()

    def flush_windows(self) -> Iterator[tuple[Piece, Values]]:
        """Yields the features of all windows that are not done yet."""
        return self._windows.flush()

    def close(self) -> None:
        """Ends the threads; batches that have not started are dropped."""
        self._pool.shutdown(cancel_futures=True)

    def _packer(self, encoder: Encoder | None, batch_size: int | None) -> Packer[Any]:
        if encoder is None:
            return Packer(1, _nothing)
        size = batch_size or default_batch(encoder)
        fitting = self._fitting[encoder.modality] = FittingBatches(encoder, size)
        return Packer(
            size, lambda items: self._encode(fitting, items), self._pool, self._num_threads + 1, self._buffers
        )

    def _encode(self, fitting: FittingBatches, items: NDArray[Any]) -> NDArray[np.float32]:
        start = perf_counter()
        try:
            return fitting.encode(items)
        except RuntimeError as error:
            got = f"{error}".splitlines()[0][:200]
            todo = "Try a smaller --batch-size, or --device cpu."
            place = f"encoder {fitting.encoder.name}"
            raise InputError(place, expected="features", got=got, todo=todo) from error
        finally:
            with self._lock:
                self._busy_s += perf_counter() - start


def _nothing(items: NDArray[Any]) -> NDArray[np.float32]:
    raise AssertionError("there are no items without an encoder")
