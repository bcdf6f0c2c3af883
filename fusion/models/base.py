"""Shared network: standardised features → TCN per stream → fusion → temporal transformer → valence and arousal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature

import torch
from torch import Tensor, nn

from ...data.windows.column_sums import ColumnMoments, quality_moments, value_moments
from ...data.windows.corpus import Corpus, Stream, Windows
from ..config import ModelConfig
from .attention import causal_transformer
from .causal_cache import Memory
from .dropout import Dropout
from .novelty import Read, Veto
from .sage import Encoded, Fused
from .tcn import TCN

Build = Callable[[Sequence[Stream], ModelConfig], nn.Module]  # a fusion, or a whole model

VOICE = "voice"  # quality signal of a voice detector: probability that a step holds speech


@dataclass(frozen=True)
class Output:
    """Estimates for B windows of L steps and M streams.

    va (B, L, 2): valence and arousal in [-1, 1]. unimodal (B, L, M, 2): estimates of each stream by itself. Both are
    float32, whatever the precision of the network. fused: the weights and reliabilities behind `va`.
    """

    va: Tensor
    unimodal: Tensor
    fused: Fused


class Standardise(nn.Module):
    """Standardises features by mean and standard deviation of the training clips."""

    def __init__(self, num_columns: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(num_columns))
        self.register_buffer("scale", torch.ones(num_columns))

    def forward(self, values: Tensor) -> Tensor:
        """(..., D) of any floating dtype -> (..., D) float32."""
        return (values.float() - self.mean) / self.scale

    @torch.no_grad()
    def fit(self, moments: ColumnMoments) -> None:
        """Sets mean and scale; a column that does not vary keeps the scale 1."""
        self.mean.copy_(moments.mean)
        self.scale.copy_(torch.where(moments.variance > 1e-12, moments.variance.sqrt(), 1.0))


class QualityNorm(Standardise):
    """Standardises quality signals by the training clips, within ±5."""

    def forward(self, values: Tensor) -> Tensor:
        """(..., Q), NaN = not measured -> (..., Q) within ±5, and 0, the average, where not measured."""
        return super().forward(values).clamp(-5, 5).nan_to_num(0.0)


class VAModel(nn.Module, ABC):
    """A network from M streams of cached features to frame-level valence and arousal; base class of all variants.

    Args:
        streams: the M inputs.
        config: sizes and switches.
    """

    rate_factor = 1.0  # times `train.learning_rate`, for a variant that needs another one than the rest
    lag_s = 0.0  # reaction lag of the labels that it was trained on: an estimate for t is made from the features before

    def __init__(self, streams: Sequence[Stream], config: ModelConfig) -> None:
        super().__init__()
        self.streams, self.config = list(streams), config
        self.norms = nn.ModuleList(Standardise(stream.dim) for stream in streams)
        self.quality_norms = nn.ModuleList(QualityNorm(len(stream.quality_names)) for stream in streams)

    @property
    def receptive_steps(self) -> int:
        """Number of steps that the TCN reads for one output step."""
        return 1

    @property
    def learns_reliability(self) -> bool:
        """True if it has a gate, which is trained on out-of-fold errors of the streams, equation (15)."""
        return False

    @property
    def can_stream(self) -> bool:
        """True if it can process a clip in chunks, as it comes: it is causal, and its `forward` takes a memory."""
        return self.config.causal and "memory" in signature(self.forward).parameters

    @property
    def feature_scales(self) -> list[Tensor]:
        """Standard deviations of the features over the training clips: M × (D,)."""
        return [norm.scale for norm in self.norms if isinstance(norm, Standardise)]

    def fit_normalisation(self, corpus: Corpus, clips: Sequence[int]) -> None:
        """Sets means and scales from the valid steps of the training clips."""
        for m, (norm, quality_norm) in enumerate(zip(self.norms, self.quality_norms, strict=True)):
            assert isinstance(norm, Standardise)
            assert isinstance(quality_norm, QualityNorm)
            norm.fit(value_moments(corpus, m, clips))
            quality_norm.fit(quality_moments(corpus, m, clips))

    def fit_evidence(self, corpus: Corpus, clips: Sequence[int], folds: Sequence[Sequence[int]], sigma: Tensor) -> None:
        """Sets the statistics of the training clips that a gate compares steps with; after the normalisation.

        Args:
            clips: the training clips.
            folds: the same clips, divided into those that are held out together.
            sigma: their typical out-of-fold error, equation (15).
        """

    @abstractmethod
    def forward(self, windows: Windows, memory: Memory | None = None) -> Output:
        """Windows -> Output; steps outside a clip have no meaning.

        Args:
            windows: B windows; with a memory, the next chunk of B clips.
            memory: earlier steps of these clips, for a model that `can_stream`.
        """


def num_evidence(stream: Stream) -> int:
    """Returns Q of `Encoded.quality`: the stream's quality signals and the strength of its features."""
    return len(stream.quality_names) + 1


def strength(values: Tensor, mask: Tensor) -> Tensor:
    """Returns the log mean square of standardised features (B, L, D): (B, L, 1), 0 where masked.

    The LayerNorm of (1) removes it from the features; additive noise raises it.
    """
    power = values.square().mean(-1).clamp(min=1e-2, max=1e2).log()
    return torch.where(mask, power, 0)[..., None]


def _without_norm_weights(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Multiplies the weights that the LayerNorm of (1) had in earlier models into the Linear behind it."""
    names = [f"{prefix}project.{name}" for name in ("0.weight", "0.bias", "2.weight", "2.bias")]
    if names[0] in state:
        gain, shift, weight, bias = (state[name] for name in names)
        state |= {names[2]: weight * gain, names[3]: bias + weight @ shift}
        del state[names[0]], state[names[1]]


class StreamEncoder(nn.Module):
    """Equations (1) and (2): project, replace invalid frames by a token, convolve."""

    def __init__(self, stream: Stream, config: ModelConfig) -> None:
        super().__init__()
        width = stream.dim + (num_evidence(stream) if config.quality_input else 0)
        norm = nn.LayerNorm(width, elementwise_affine=False)  # the Linear has its weights: no gradient for wide inputs
        self.project = nn.Sequential(norm, Dropout(config.input_dropout), nn.Linear(width, config.dim))
        self.register_load_state_dict_pre_hook(_without_norm_weights)
        self.absent = nn.Parameter(torch.zeros(config.dim))
        self.tcn = TCN(config.dim, config.tcn_blocks, config.tcn_kernel, config.causal, config.dropout)

    def forward(self, values: Tensor, mask: Tensor, inside: Tensor, memory: Memory | None = None) -> Tensor:
        """values (B, L, D) standardised, mask and inside (B, L) -> (B, L, d), zero outside the clip."""
        x = self.project(values)  # (1)
        x = torch.where(mask[..., None], x, self.absent.to(x.dtype)) * inside[..., None]
        return self.tcn(x, inside, memory)  # (2)


class EncodedModel(VAModel):
    """A model whose streams each go through a TCN and have a head of their own.

    Args:
        streams: the M inputs.
        config: sizes and switches.
    """

    def __init__(self, streams: Sequence[Stream], config: ModelConfig) -> None:
        super().__init__(streams, config)
        self.encoders = nn.ModuleList(StreamEncoder(stream, config) for stream in streams)
        self.unimodal = nn.ModuleList(  # (12)
            nn.Sequential(nn.LayerNorm(config.dim), nn.Linear(config.dim, 2), nn.Tanh()) for _ in streams
        )

    @property
    def receptive_steps(self) -> int:
        """Number of steps that the TCN reads for one output step."""
        return max(encoder.tcn.receptive_steps for encoder in self.encoders if isinstance(encoder, StreamEncoder))

    def encode(self, windows: Windows, memory: Memory | None = None) -> Encoded:
        """Returns the input of a fusion for windows, or for the next chunk of clips."""
        if memory is not None:
            assert self.config.causal, "a model that reads ahead cannot process chunks"
            memory.begin()
        values = [norm(x) for norm, x in zip(self.norms, windows.values, strict=True)]
        quality = [
            torch.cat([norm(q), strength(x, windows.mask[..., m])], dim=-1)
            for m, (norm, q, x) in enumerate(zip(self.quality_norms, windows.quality, values, strict=True))
        ]
        inputs = values
        if self.config.quality_input:
            inputs = [torch.cat(pair, dim=-1) for pair in zip(values, quality, strict=True)]
        h = [
            encoder(x, windows.mask[..., m], windows.inside, memory)
            for m, (encoder, x) in enumerate(zip(self.encoders, inputs, strict=True))
        ]
        return Encoded(h, values, quality, windows.mask, windows.inside, self._active(windows), memory)

    def _active(self, windows: Windows) -> Tensor:
        """Returns (B, L, M), True where a stream is valid and, if it has a voice detector's signal, holds speech."""
        active = windows.mask.clone()
        for m, stream in enumerate(self.streams):
            if VOICE in stream.quality_names:
                active[..., m] &= ~(windows.quality[m][..., stream.quality_names.index(VOICE)] < 0.5)
        return active

    def unimodal_estimates(self, encoded: Encoded) -> Tensor:
        """Equation (12): estimates of each stream by itself, (B, L, M, 2) float32."""
        each = [in_float32(head, x) for head, x in zip(self.unimodal, encoded.h, strict=True)]
        return torch.stack(each, dim=-2)


def in_float32(module: nn.Module, x: Tensor) -> Tensor:
    """Runs a module in float32, also where autocast computes the network in bfloat16: estimates are not rounded to 8
    bits, and so losses and scores are those of float32.
    """
    if not torch.is_autocast_enabled(x.device.type):
        return module(x)
    with torch.autocast(x.device.type, enabled=False):
        return module(x.float())


class Head(nn.Module):
    """Equation (11): features -> valence and arousal, through one network for both or one for each; in float32."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        widths = [1, 1] if config.separate_heads else [2]
        self.heads = nn.ModuleList(_head(config.dim, width, config.dropout) for width in widths)

    def forward(self, z: Tensor) -> Tensor:
        """(B, L, d) -> (B, L, 2) in [-1, 1]."""
        return torch.cat([in_float32(head, z) for head in self.heads], dim=-1)


def _head(dim: int, width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), Dropout(dropout), nn.Linear(dim, width), nn.Tanh()
    )


class FusionModel(EncodedModel):
    """The usual architecture: streams are encoded, fused, passed through a temporal transformer, and read out.

    Args:
        streams: the M inputs.
        config: sizes and switches.
        fusion: a module from `Encoded` to `Fused`. One with a gate sets `learns_reliability = True`; one that looks at
            no other step, or takes earlier ones from `Encoded.memory`, sets `can_stream = True`.
    """

    def __init__(self, streams: Sequence[Stream], config: ModelConfig, fusion: nn.Module) -> None:
        super().__init__(streams, config)
        self.fusion = fusion
        self.transformer = _transformer(config)
        self.head = Head(config)

    def forward(self, windows: Windows, memory: Memory | None = None) -> Output:
        """Windows -> Output; see `VAModel.forward`."""
        encoded = self.encode(windows, memory)
        fused: Fused = self.fusion(encoded)
        z = fused.features
        if (
            self.transformer is not None and self.config.causal
        ):  # (10); padding follows a clip, so no valid step reads it
            z = causal_transformer(self.transformer, z, self.config.memory_steps, memory)
        elif self.transformer is not None:
            z = self.transformer(z, src_key_padding_mask=~windows.inside)
        return Output(self.head(z), self.unimodal_estimates(encoded), fused)

    def fit_evidence(self, corpus: Corpus, clips: Sequence[int], folds: Sequence[Sequence[int]], sigma: Tensor) -> None:
        """Sets the statistics of the fusion's veto, if it has one; see `VAModel.fit_evidence`."""
        veto = getattr(self.fusion, "veto", None)
        if not isinstance(veto, Veto):
            return

        device = sigma.device

        def reader(m: int, norm: nn.Module) -> Read:
            def read(place: int) -> tuple[Tensor, Tensor]:
                steps = corpus.steps(clips[place])
                return norm(corpus.values[m][steps].to(device)), corpus.mask[steps, m].to(device)

            return read

        steps_of = map(corpus.steps, clips)
        labels = [(corpus.va[steps].to(device), corpus.va_mask[steps].to(device)) for steps in steps_of]
        place_of = {clip: place for place, clip in enumerate(clips)}
        places = [[place_of[clip] for clip in fold] for fold in folds]
        veto.fit([reader(m, norm) for m, norm in enumerate(self.norms)], labels, places, sigma)

    @property
    def learns_reliability(self) -> bool:
        """True if the fusion has a gate."""
        return getattr(self.fusion, "learns_reliability", False)

    @property
    def can_stream(self) -> bool:
        """True if it is causal and its fusion can stream."""
        return super().can_stream and getattr(self.fusion, "can_stream", False)


def _transformer(config: ModelConfig) -> nn.TransformerEncoder | None:
    if config.layers == 0:
        return None
    layer = nn.TransformerEncoderLayer(
        config.dim, config.heads, 4 * config.dim, config.dropout, activation="gelu", batch_first=True, norm_first=True
    )
    for place in ("dropout", "dropout1", "dropout2"):
        setattr(layer, place, Dropout(config.dropout))
    layer.self_attn.dropout = 0.0  # a third of a CPU step's time for no measured gain
    return nn.TransformerEncoder(layer, config.layers, norm=nn.LayerNorm(config.dim), enable_nested_tensor=False)
