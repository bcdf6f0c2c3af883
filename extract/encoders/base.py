"""What an encoder is, whoever wrote it: the two classes that built-in and added encoders derive from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...data.errors import InputError
from ...data.store.fingerprint import SCHEMA_VERSION
from ..decode.audio import RESAMPLER, Samples
from ..decode.frames import FIT, INTERPOLATION, Pixels, Shrinker
from ..faces.align import Cropper, FaceOf
from ..weights import dtype_name, weights_sha256
from .audio_windows import WindowPlan

NO_WEIGHTS = weights_sha256({})
Embedded = Tensor | NDArray[np.floating[Any]]


class Encoder(ABC):
    """Embeds batches. Derive from `VisualEncoder` or `AudioEncoder`, set what is below, write `embed`.

    Set in the class or in `__init__`:
        dim: length of an embedding.
        weights: "random" for untrained ones, "none" where there are none, else where they came from.
        weights_sha256: names the weights, see `weights.weights_sha256`.
        layer: which of its outputs it gives, in words.
        device, dtype: where and in what number format it computes.
        name: what people call it; that of the entry point for an added one.
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
    origin: dict[str, str] | None = None  # of an added one: its package, and the hash of its code

    @abstractmethod
    def embed(self, items: Any) -> Embedded:
        """A batch as a float tensor, on any device, or array: what `encode` promises, unchecked.

        An item's embedding must not depend on the others in the batch. May be called by several threads at once.
        """

    @abstractmethod
    def expected_shape(self, items: Any) -> tuple[int, ...]:
        """Of the embeddings of a batch."""

    @property
    @abstractmethod
    def preprocessing(self) -> dict[str, Any]:
        """What is done to images or sound before `embed`, as far as it decides the features; plain JSON."""

    @property
    def alias(self) -> str:
        """What people call the stream; random weights say so."""
        return f"{self.name}-random" if self.weights == "random" else self.name

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What decides the features, as far as the encoder knows; the pipeline adds its part."""
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
        """(B, …) items -> (B, …, D) float32.

        Raises:
            InputError: if `embed` gives another shape, or no floats.
        """
        found = self.embed(items)
        floats = found.is_floating_point() if isinstance(found, Tensor) else np.issubdtype(found.dtype, np.floating)
        expected = self.expected_shape(items)
        if not floats or tuple(found.shape) != expected:
            got = f"{str(found.dtype).removeprefix('torch.')} of shape {tuple(found.shape)}"
            todo = "Mend its `embed`." if self.kind == "plug-in" else "Choose a model whose features are pooled."
            raise InputError(f"encoder {self.name}", expected=f"floats of shape {expected}", got=got, todo=todo)
        return self._fetched(found) if isinstance(found, Tensor) else np.asarray(found, np.float32)

    def sent(self, array: NDArray[Any]) -> Tensor:
        """An array on this encoder's device; the copy to a GPU does not wait for what runs there."""
        tensor = torch.from_numpy(array)
        if self.device.type != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _fetched(self, found: Tensor) -> NDArray[np.float32]:
        if found.device.type != "cuda":
            return found.float().cpu().numpy()
        with torch.cuda.device(found.device):
            host = found.float().to("cpu", non_blocking=True)  # pinned
            done = torch.cuda.Event()
            done.record()
            done.synchronize()  # with this batch, and not with those that other threads have queued behind it
        return host.numpy()


class VisualEncoder(Encoder):
    """Frames in, one embedding per frame out.

    Set besides:
        size: (height, width) of the images it wants.
        mean, std: per colour, 0 to 1: `embed` gets plain uint8 and is to normalise by them; what an image leaves free
            of the input is filled with `mean`.
    """

    modality = "visual"
    size: tuple[int, int]
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    @abstractmethod
    def embed(self, items: Pixels) -> Embedded:
        """(B, H, W, 3) uint8 RGB of this encoder's size -> (B, D)."""

    def expected_shape(self, items: Pixels) -> tuple[int, ...]:
        """(B, D)."""
        return len(items), self.dim

    def shrinker(self) -> Shrinker:
        """What lays images into this encoder's input; one for each thread."""
        return Shrinker(self.size, self._pad)

    def cropper(self, margin: float, face_of: FaceOf) -> Cropper:
        """What lays aligned faces into this encoder's input; one for each clip."""
        return Cropper(self.size, self._pad, margin, face_of)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How images are laid into the input; what is found of faces comes on top."""
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
    """Windows of sound in, one embedding per step out.

    Set besides:
        plan: how sound is cut for it and which step stands when, see `WindowPlan` and `plan_of`.
    """

    modality = "audio"
    plan: WindowPlan

    @abstractmethod
    def embed(self, items: Samples) -> Embedded:
        """(B, N) float32 samples in [-1, 1], all of one length -> (B, T, D)."""

    def expected_shape(self, items: Samples) -> tuple[int, ...]:
        """(B, T, D)."""
        plan = self.plan
        return len(items), plan.window_steps if plan.padded else plan.num_steps(items.shape[1]), self.dim

    @property
    def sampling_rate(self) -> int:
        """Of the sound that it wants."""
        return self.plan.sampling_rate

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How sound is mixed, resampled and cut."""
        return {**self.plan.to_json(), "resampler": RESAMPLER, "mix": "mean of channels"}


def plan_of(sampling_rate: int, *, step: int, hears: int, window_s: float = 20.0, context_s: float = 1.0) -> WindowPlan:
    """The plan of an encoder whose step t depends directly on the samples from t * `step` to t * `step` + `hears`.

    Args:
        window_s: length of a window, about.
        context_s: what is thrown away at an inner end of a window; 0 for one that looks no further than `hears`.
    """
    window_steps = round(window_s * sampling_rate / step)
    return WindowPlan(
        sampling_rate=sampling_rate,
        window=step * window_steps + hears - step,
        step=step,
        hears=hears,
        first_centre=hears // 2,
        window_steps=window_steps,
        context_steps=round(context_s * sampling_rate / step),
        padded=False,
    )
