"""The network: normalise → TCN per stream → fusion → temporal transformer → valence and arousal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data.windows import Corpus, Stream, Windows
from .config import ModelConfig
from .gate import Fused, ReliabilityFusion
from .tcn import TCN


@dataclass(frozen=True)
class Output:
    """va (B, L, 2) in [-1, 1]; unimodal (B, L, M, 2), each stream's own estimate; fused: weights and reliability."""

    va: Tensor
    unimodal: Tensor
    fused: Fused


class StreamEncoder(nn.Module):
    """Equations (1) and (2): standardise by training clips, project, replace invalid frames by a token, convolve."""

    def __init__(self, stream: Stream, config: ModelConfig) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(stream.dim))
        self.register_buffer("scale", torch.ones(stream.dim))
        dropout = (
            nn.Dropout(config.input_dropout) if config.input_dropout else nn.Identity()
        )  # 0 costs random numbers too
        self.project = nn.Sequential(nn.LayerNorm(stream.dim), dropout, nn.Linear(stream.dim, config.dim))
        self.absent = nn.Parameter(torch.zeros(config.dim))
        self.tcn = TCN(config.dim, config.tcn_blocks, config.tcn_kernel, config.causal, config.dropout)

    def forward(self, values: Tensor, mask: Tensor, inside: Tensor) -> Tensor:
        """values (B, L, D), mask and inside (B, L) -> (B, L, d), zero outside the clip."""
        x = self.project((values.float() - self.mean) / self.scale)  # (1)
        x = torch.where(mask[..., None], x, self.absent.to(x.dtype)) * inside[..., None]
        return self.tcn(x, inside)  # (2)


def _head(dim: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(dim, 2), nn.Tanh()
    )


class FusionModel(nn.Module):
    """Frame-level valence-arousal from M streams of cached features.

    Args:
        streams: the M inputs.
        config: sizes and switches.
        fusion: a module from M × (B, L, d) features, M × (B, L, Q) quality and a (B, L, M) mask to `Fused`.
    """

    def __init__(self, streams: Sequence[Stream], config: ModelConfig, fusion: nn.Module) -> None:
        super().__init__()
        self.streams, self.config = list(streams), config
        self.encoders = nn.ModuleList(StreamEncoder(stream, config) for stream in streams)
        self.quality_norms = nn.ModuleList(QualityNorm(len(stream.quality_names)) for stream in streams)
        self.fusion = fusion
        self.transformer = _transformer(config)
        self.head = _head(config.dim, config.dropout)  # (11)
        self.unimodal = nn.ModuleList(  # (12)
            nn.Sequential(nn.LayerNorm(config.dim), nn.Linear(config.dim, 2), nn.Tanh()) for _ in streams
        )

    @property
    def receptive_steps(self) -> int:
        """How many steps the TCN sees around each."""
        return max(encoder.tcn.receptive_steps for encoder in self.encoders if isinstance(encoder, StreamEncoder))

    @property
    def weighs_streams(self) -> bool:
        """Whether the fusion gives each stream a weight, which must then be taught."""
        return isinstance(self.fusion, ReliabilityFusion)

    @property
    def feature_scales(self) -> list[Tensor]:
        """For each stream (D,) the standard deviation of its features over the training clips."""
        return [encoder.scale for encoder in self.encoders if isinstance(encoder, StreamEncoder)]

    @torch.no_grad()
    def fit_normalisation(self, corpus: Corpus, clips: Sequence[int]) -> None:
        """Sets means and scales from the valid steps of the training clips."""
        chosen = torch.zeros(corpus.num_steps, dtype=torch.bool, device=corpus.mask.device)
        for index in clips:
            chosen[corpus.steps(index)] = True
        for m, (encoder, norm) in enumerate(zip(self.encoders, self.quality_norms, strict=True)):
            steps = torch.nonzero(chosen & corpus.mask[:, m])[:, 0]
            assert isinstance(encoder, StreamEncoder)
            assert isinstance(norm, QualityNorm)
            _fit(encoder, corpus.values[m], steps)
            _fit(norm, corpus.quality[m], steps)

    def forward(self, windows: Windows) -> Output:
        """Windows -> Output; steps outside a clip hold values of no meaning."""
        h = [
            encoder(values, windows.mask[..., m], windows.inside)
            for m, (encoder, values) in enumerate(zip(self.encoders, windows.values, strict=True))
        ]
        quality = [norm(q) for norm, q in zip(self.quality_norms, windows.quality, strict=True)]
        fused: Fused = self.fusion(h, quality, windows.mask)
        z = fused.features
        if self.transformer is not None:
            z = self.transformer(z, mask=self._future(z), src_key_padding_mask=~windows.inside)  # (10)
        unimodal = torch.stack([head(x) for head, x in zip(self.unimodal, h, strict=True)], dim=-2)
        return Output(self.head(z), unimodal, fused)

    def _future(self, z: Tensor) -> Tensor | None:
        if not self.config.causal:
            return None
        length = z.shape[1]
        return torch.ones(length, length, dtype=torch.bool, device=z.device).triu(1)


class QualityNorm(nn.Module):
    """Standardises a stream's quality signals by the training clips and bounds them."""

    def __init__(self, num_signals: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(num_signals))
        self.register_buffer("scale", torch.ones(num_signals))

    def forward(self, quality: Tensor) -> Tensor:
        """(..., Q), NaN = not measured -> (..., Q) within ±5, the average 0 where not measured."""
        return ((quality - self.mean) / self.scale).clamp(-5, 5).nan_to_num(0.0)


def _fit(module: StreamEncoder | QualityNorm, values: Tensor, steps: Tensor) -> None:
    """Mean and standard deviation of what is not NaN at the chosen steps, in blocks so that memory stays small."""
    if not len(steps) or not values.shape[1]:
        return
    wide = torch.float32 if values.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
    blocks = steps.split(65536)
    count = torch.stack([values[b].isfinite().sum(0) for b in blocks]).sum(0).clamp(min=1)
    mean = torch.stack([values[b].to(wide).nansum(0) for b in blocks]).sum(0) / count
    variance = torch.stack([(values[b].to(wide) - mean).square().nansum(0) for b in blocks]).sum(0) / count
    module.mean.copy_(mean)
    module.scale.copy_(torch.where(variance > 1e-12, variance.sqrt(), 1.0))


def _transformer(config: ModelConfig) -> nn.TransformerEncoder | None:
    if config.layers == 0:
        return None
    layer = nn.TransformerEncoderLayer(
        config.dim, config.heads, 4 * config.dim, config.dropout, activation="gelu", batch_first=True, norm_first=True
    )
    layer.self_attn.dropout = 0.0  # a third of a CPU step's time for no measured gain
    return nn.TransformerEncoder(layer, config.layers, norm=nn.LayerNorm(config.dim), enable_nested_tensor=False)
