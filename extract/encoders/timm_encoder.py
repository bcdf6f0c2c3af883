"""Visual encoders of timm: frames in, one embedding per frame out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from ...data.errors import InputError, did_you_mean, first_line
from ...data.hub import hub_error, offline_if_unreachable
from ...data.machine import find_device
from ..decode.frames import Pixels
from .arithmetic import cast_once, check_convolutions
from .base import VisualEncoder
from .cuda_graph import GraphedForward
from .plugins import plugin_names
from .weights import compute_dtype, fixed_seed, load_into, load_state, weights_sha256


class TimmEncoder(VisualEncoder):
    """Embeds images with a timm model without its classifier: pooled features before the logits.

    Args:
        name: timm's name of the model, e.g. "vit_small_patch14_dinov2.lvd142m".
        weights: "hub", "random" (fixed seed; for trials), or a `.safetensors` or `.pth` file.
        device: "auto", "cpu", "cuda", "cuda:1", …
        precision: "auto", "float32", "bfloat16" or "float16".
        image_size: height and width of the images in pixels; None = as the model was trained. timm resamples the
            positions of a transformer to it; a convolutional model takes any size.

    Raises:
        InputError: if the model, device or precision is unknown, the weights are not available or do not fit, or the
            model does not take images of that size.
    """

    kind = "timm"
    layer = "pooled"
    _graphed: GraphedForward | None = None

    def __init__(
        self,
        name: str,
        *,
        weights: str = "hub",
        device: str = "auto",
        precision: str = "auto",
        image_size: int | None = None,
    ) -> None:
        self.name, self.weights = name, weights
        self.device = find_device(device)
        self.dtype = compute_dtype(precision, self.device)
        model = _create(name, weights)
        self.weights_sha256 = weights_sha256(model.state_dict())
        config = resolve_model_data_config(model)
        _, height, width = config["input_size"]
        self.size = (int(height), int(width))
        if image_size is not None and self.size != (image_size, image_size):
            self.size = _resized(model, name, image_size)
        self.mean = tuple(float(value) for value in config["mean"])
        self.std = tuple(float(value) for value in config["std"])
        self._model = model.to(device=self.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self._mean = torch.tensor(self.mean, device=self.device)
        self._std = torch.tensor(self.std, device=self.device)
        self.dim = self._probe().shape[-1]
        check_convolutions(self._model, self.dtype, self._probe, name)
        cast_once(self._model, self.dtype, self._probe)
        if self.device.type == "cuda":
            self._graphed = GraphedForward(self._features, self.sent)

    def embed(self, items: Pixels) -> Tensor:
        """Embeds (B, H, W, 3) uint8 RGB -> (B, D); the copy to the device is uint8 and channels_last."""
        return self._graphed(items) if self._graphed else self._features(self.sent(items))

    def _features(self, pixels: Tensor) -> Tensor:
        normal = pixels.float().div_(255).sub_(self._mean).div_(self._std).permute(0, 3, 1, 2)  # one copy
        kept = self.device.type != "cuda"  # a graph must not keep casts of another batch
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32, cache_enabled=kept):
            return cast(Tensor, self._model(normal))

    @torch.inference_mode()
    def _probe(self) -> Tensor:
        noise = np.random.default_rng(0).integers(0, 256, (1, *self.size, 3), dtype=np.uint8)
        return self.embed(noise)


def _resized(model: nn.Module, name: str, image_size: int) -> tuple[int, int]:
    """Makes a model take images of another size."""
    size, fixed = (image_size, image_size), cast(dict[str, Any], model.default_cfg).get("fixed_input_size", False)
    if not fixed:
        return size
    patch = max(getattr(getattr(model, "patch_embed", None), "patch_size", (1,)))
    if image_size % patch:
        raise InputError("image_size", f"{name} has patches of {patch} pixels", todo=f"Choose a multiple of {patch}.")
    try:
        cast(Any, model).set_input_size(img_size=size)
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        problem = f"{name} does not take {image_size}: {first_line(error)[:200]}"
        raise InputError("image_size", problem, todo="Choose another size, or leave it out.") from error
    return size


def _create(name: str, weights: str) -> nn.Module:
    if not name.startswith(("hf-hub:", "hf_hub:")) and not timm.is_model(name.partition(".")[0]):
        todo = did_you_mean(name, [*plugin_names(), *timm.list_models()], "See timm.list_models().", num=3)
        raise InputError("visual", expected="the name of a timm model", got=repr(name), todo=todo)
    if weights == "hub":
        return _from_hub(name)
    with fixed_seed():
        model = _built(name, pretrained=False)
    if weights != "random":
        state = load_state(Path(weights))
        load_into(model, _without_classifier(state, model), weights)
    return model


def _from_hub(name: str) -> nn.Module:
    try:
        with offline_if_unreachable():
            return _built(name, pretrained=True)
    except InputError:
        raise
    except Exception as error:  # hub clients raise whatever their transport raised
        raise hub_error(name, "--visual-weights", error) from error


def _built(name: str, *, pretrained: bool) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0).eval()
    except RuntimeError as error:
        if "Invalid pretrained tag" not in str(error):
            raise
        todo = "See timm.list_pretrained()."
        raise InputError("visual", expected="a timm model and its tag", got=repr(name), todo=todo) from error


def _without_classifier(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    wanted = model.state_dict()
    heads = cast(dict[str, Any], model.default_cfg).get("classifier") or ()
    names = (heads,) if isinstance(heads, str) else tuple(heads)
    return {
        name: value
        for name, value in state.items()
        if name in wanted or not any(name.startswith(f"{head}.") for head in names)
    }
