"""Base classes of all encoders, built-in and plug-in: batches of images or windows of audio in, embeddings out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...data.errors import InputError
from ...data.store.fingerprint import SCHEMA_VERSION
from ..decode.audio import MIX, RESAMPLER, Samples
from ..decode.frames import FIT, INTERPOLATION, Letterbox, Pixels
from ..faces.align import FaceCropper, FaceOf
from .arithmetic import plain_float32
from .audio_windows import WindowPlan
from .weights import dtype_name, weights_sha256

NO_WEIGHTS = weights_sha256({})
Embedded = Tensor | NDArray[np.floating[Any]]


class Encoder(ABC):
    """Embeds batches. Derive from `VisualEncoder` or `AudioEncoder`, set the attributes below, write `embed`.

    Set in the class or in `__init__`:
        dim: length of an embedding.
        weights: "random" for untrained weights, "none" where there are none, else where they came from.
        weights_sha256: hash of the weights, see `weights.weights_sha256`.
        layer: the output that it returns, in words.
        device, dtype: the device and the number format that it computes in.
        name: name of the encoder; for a plug-in that of its entry point.
    """

    modality: ClassVar[str]
    kind: ClassVar[str] = "plug-in"
    name: str = ""
    dim: int
    weights: str = "none"
    weights_sha256: str = NO_WEIGHTS
    layer: str = "output"
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    compile_s: float = 0.0  # seconds that compiling took
    origin: dict[str, str] | None = None  # of a plug-in: its package, and the hash of its code

    @abstractmethod
    def embed(self, items: Any) -> Embedded:
        """Embeds a batch: a float tensor on any device, or an array, unchecked; `encode` checks it.

        An item's embedding must not depend on the others in the batch. Several threads may call this at once.
        """

    @abstractmethod
    def expected_shape(self, items: Any) -> tuple[int, ...]:
        """Returns the shape of the embeddings of a batch."""

    @property
    @abstractmethod
    def preprocessing(self) -> dict[str, Any]:
        """Preprocessing before `embed`, as far as it decides the features; plain JSON."""

    @property
    def alias(self) -> str:
        """Alias of the stream; that of random weights ends in "-random"."""
        return f"{self.name}-random" if self.weights == "random" else self.name

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The encoder's part of the stream's fingerprint; the options of the extraction add theirs."""
        encoder: dict[str, Any] = {
            "kind": self.kind,
            "name": self.name,
            "weights": self.weights if self.weights in ("random", "none") else "pretrained",
            "weights_sha256": self.weights_sha256,
            "layer": self.layer,
        }
        return {
            "schema_version": SCHEMA_VERSION,
            "modality": self.modality,
            "encoder": encoder if self.origin is None else {**encoder, **self.origin},
            "preprocessing": self.preprocessing,
            "compute_dtype": dtype_name(self.dtype),
        }

    @torch.inference_mode()
    def encode(self, items: Any) -> NDArray[np.float32]:
        """Embeds a batch and checks the result: (B, …) items -> (B, …, D) float32.

        Raises:
            InputError: if `embed` returns another shape, or no floats.
        """
        with plain_float32() if self.dtype == torch.float32 else nullcontext():
            output = self.embed(items)
        floats = output.is_floating_point() if isinstance(output, Tensor) else np.issubdtype(output.dtype, np.floating)
        expected = self.expected_shape(items)
        if not floats or tuple(output.shape) != expected:
            got = f"{str(output.dtype).removeprefix('torch.')} of shape {tuple(output.shape)}"
            todo = "Mend its `embed`." if self.kind == "plug-in" else "Choose a model whose features are pooled."
            raise InputError(f"encoder {self.name}", expected=f"floats of shape {expected}", got=got, todo=todo)
        return self._fetched(output) if isinstance(output, Tensor) else np.asarray(output, np.float32)

    def sent(self, array: NDArray[Any]) -> Tensor:
        """Copies an array to the encoder's device; the copy to a GPU does not wait for work that runs there."""
        tensor = torch.from_numpy(array)
        if self.device.type != "cuda":
            return tensor.to(self.device)
        pinned = tensor if tensor.is_pinned() else tensor.pin_memory()  # the pipeline's batches are
        return pinned.to(self.device, non_blocking=True)

    def _fetched(self, output: Tensor) -> NDArray[np.float32]:
        if output.device.type != "cuda":
            return output.float().cpu().numpy()
        with torch.cuda.device(output.device):
            host = output.float().to("cpu", non_blocking=True)  # pinned
            done = torch.cuda.Event(blocking=True)  # sleeps; the default would keep a core busy
            done.record()
            done.synchronize()  # waits for this batch, not for those that other threads have queued behind it
        return host.numpy()


class VisualEncoder(Encoder):
    """Embeds images: frames in, one embedding per frame out.

    Set besides the attributes of `Encoder`:
        size: (height, width) of the images that it takes.
        mean, std: per colour, 0 to 1: `embed` takes plain uint8 and normalises by them; the part of the input that an
            image leaves free is filled with `mean`.
    """

    modality = "visual"
    size: tuple[int, int]
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    @abstractmethod
    def embed(self, items: Pixels) -> Embedded:
        """Embeds (B, H, W, 3) uint8 RGB images of this encoder's size -> (B, D)."""

    def expected_shape(self, items: Pixels) -> tuple[int, ...]:
        """Returns (B, D)."""
        return len(items), self.dim

    def letterbox(self) -> Letterbox:
        """Returns a transform of whole frames to this encoder's input; use one per thread."""
        return Letterbox(self.size, self._pad)

    def face_cropper(self, margin: float, face_of: FaceOf) -> FaceCropper:
        """Returns a transform of frames to aligned faces of this encoder's size; use one per clip."""
        return FaceCropper(self.size, self._pad, margin, face_of)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Size, fit, interpolation and normalisation; with detected faces, their part of the fingerprint is added."""
        return {
            "size": list(self.size),
            "fit": FIT,
            "interpolation": INTERPOLATION,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @property
    def _pad(self) -> tuple[int, int, int]:
        red, green, blue = (round(value * 255) for value in self.mean)
        return red, green, blue


class AudioEncoder(Encoder):
    """Embeds audio: windows of samples in, one embedding per step out.

    Set besides the attributes of `Encoder`:
        plan: how audio is cut into windows and at which instants the steps stand, see `WindowPlan` and `plan_of`.
    """

    modality = "audio"
    plan: WindowPlan

    @abstractmethod
    def embed(self, items: Samples) -> Embedded:
        """Embeds (B, N) float32 samples in [-1, 1], all of one length -> (B, T, D)."""

    def expected_shape(self, items: Samples) -> tuple[int, ...]:
        """Returns (B, T, D)."""
        plan = self.plan
        return len(items), plan.window_steps if plan.padded else plan.num_steps(items.shape[1]), self.dim

    @property
    def sampling_rate(self) -> int:
        """Sampling rate of the input in Hz."""
        return self.plan.sampling_rate

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Mixing, resampling and windows."""
        return {**self.plan.to_json(), "resampler": RESAMPLER, "mix": MIX}


def plan_of(
    sampling_rate: int, *, step: int, receptive_field: int, window_s: float = 20.0, context_s: float = 1.0
) -> WindowPlan:
    """Returns the plan of an encoder whose step t depends on the samples t * `step` to
    t * `step` + `receptive_field`.

    Args:
        sampling_rate: in Hz.
        step: samples from one step to the next.
        receptive_field: samples that a step depends on directly, through the encoder's convolutions.
        window_s: approximate length of a window.
        context_s: discarded at each inner end of a window; 0 if a step depends on `receptive_field` alone.
    """
    window_steps = round(window_s * sampling_rate / step)
    return WindowPlan(
        sampling_rate=sampling_rate,
        window=step * window_steps + receptive_field - step,
        step=step,
        receptive_field=receptive_field,
        first_centre=receptive_field // 2,
        window_steps=window_steps,
        context_steps=round(context_s * sampling_rate / step),
        padded=False,
    )
