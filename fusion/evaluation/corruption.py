"""Corruptions of cached streams, by kind and strength: masked, misaligned, missing, or wrong and passed for valid."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...data.clip import MODALITIES
from ...data.errors import InputError, did_you_mean
from ...data.timebase import Grid
from ...data.windows.corpus import Corpus

SPAN_S = (0.5, 3.0)
MAX_NOISE = 3.0
MAX_SHIFT_S = 2.0
MAX_GAIN = 3.0
MAX_OFFSET = 3.0
NOWHERE = -1

Steps = NDArray[np.int64]
Source = Callable[[Grid, float, np.random.Generator], Steps]
Change = Callable[[Tensor, Grid, Tensor, float, np.random.Generator], Tensor]


@dataclass(frozen=True)
class Corruption:
    """A corruption of all streams of a modality; `means` describes it to readers.

    source: grid of a clip, strength, randomness -> (T,) the step of that clip that each step's content comes from,
    `NOWHERE` for none; None where steps stay in their place. change: valid steps of a clip (T, D), its grid, their
    standard deviations (D,), strength, randomness -> (T, D) other features, which pass for valid. whole_clips:
    `strength` is the share of clips that are corrupted, each of them fully.
    """

    modality: str
    means: str
    source: Source | None = None
    change: Change | None = None
    whole_clips: bool = False


def _spans(grid: Grid, strength: float, rng: np.random.Generator) -> Steps:
    """Masks that share of the steps. The clip is divided into spans, which are masked one after the other.

    Spans lie on the clip's own clock, so that every model misses the same seconds. Those masked at one strength are
    masked at each greater one; the last is cut to the exact share.
    """
    num_spans = int((grid.first_step + grid.num_steps) / grid.hz / SPAN_S[0]) + 1
    drawn = rng.random((max(num_spans, 1), 2))
    ends_s = np.cumsum(SPAN_S[0] + (SPAN_S[1] - SPAN_S[0]) * drawn[:, 0])
    span = np.minimum(np.searchsorted(ends_s, grid.times_s, side="right"), len(drawn) - 1)
    order = np.lexsort((np.arange(grid.num_steps), drawn[span, 1]))
    source = np.arange(grid.num_steps)
    source[order[: round(strength * grid.num_steps)]] = NOWHERE
    return source


def _shifted(grid: Grid, strength: float, rng: np.random.Generator) -> Steps:
    """Moves the clip's content by strength * `MAX_SHIFT_S`, early or late by the toss of a coin."""
    shift = round(strength * MAX_SHIFT_S * grid.hz) * int(rng.choice([-1, 1]))
    source = np.arange(grid.num_steps) - shift
    return np.where((source >= 0) & (source < grid.num_steps), source, NOWHERE)


def _absent(grid: Grid, strength: float, rng: np.random.Generator) -> Steps:
    return np.full(grid.num_steps, NOWHERE)


def _noisy(values: Tensor, grid: Grid, scale: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    noise = torch.from_numpy(rng.standard_normal(values.shape, np.float32)).to(values)
    return values + MAX_NOISE * strength * scale * noise


def _affected(values: Tensor, grid: Grid, strength: float, rng: np.random.Generator) -> Tensor:
    """Returns (T,), True in the spans of a clip that `_spans` would mask."""
    spans = _spans(Grid(grid.hz, grid.first_step, len(values)), strength, rng) == NOWHERE
    return torch.from_numpy(spans).to(values.device)


def _zeros(values: Tensor, grid: Grid, scale: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    return values.masked_fill(_affected(values, grid, strength, rng)[:, None], 0)


def _frozen(values: Tensor, grid: Grid, scale: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Holds the last features before each span; before the first, those of the first step."""
    affected = _affected(values, grid, strength, rng)
    places = torch.arange(len(values), device=values.device)
    return values[torch.where(affected, 0, places).cummax(0).values]


def _displaced(values: Tensor, grid: Grid, scale: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Puts features from elsewhere in the clip, a third to two thirds of it away, into each span."""
    away = int(rng.integers(len(values) // 3, len(values) * 2 // 3 + 1)) if len(values) > 1 else 0
    affected = _affected(values, grid, strength, rng)
    return torch.where(affected[:, None], values.roll(away, 0), values)


def _gain(values: Tensor, grid: Grid, scale: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    return values * MAX_GAIN ** (strength * int(rng.choice([-1, 1])))


def _offset(values: Tensor, grid: Grid, scale: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    signs = torch.from_numpy(rng.choice(np.array([-1, 1], np.float32), len(scale))).to(scale)
    return values + MAX_OFFSET * strength * scale * signs


def _drift(values: Tensor, grid: Grid, scale: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    path = torch.linspace(0, 1, len(values), device=values.device)[:, None]
    return values + path * (_offset(values, grid, scale, strength, rng) - values)


_HIDDEN = f"share of each clip hidden, in spans of {SPAN_S[0]:g}-{SPAN_S[1]:g} s"
_NOISE = f"Gaussian noise of up to {MAX_NOISE:g} standard deviations ({-20 * np.log10(MAX_NOISE):.1f} dB SNR)"
_DROPPED = "share of clips that lack the whole modality"
_WRONG = {  # kinds whose features pass for valid
    "noise": (_noisy, _NOISE),
    "zeros": (_zeros, "share of each clip that is zero, in spans, and passes for valid"),
    "frozen": (_frozen, "share of each clip that stands still, in spans"),
    "displaced": (_displaced, "share of each clip that is replaced by other parts of it, in spans"),
    "gain": (_gain, f"features times or divided by up to {MAX_GAIN:g}"),
    "offset": (_offset, f"features off by up to {MAX_OFFSET:g} standard deviations"),
    "drift": (_drift, f"features that drift off by up to {MAX_OFFSET:g} standard deviations"),
}
_HIDING = {"visual": "occlusion", "audio": "silence"}  # the field's words for a stream that is hidden


def corruptions_of(modalities: Iterable[str]) -> dict[str, Corruption]:
    """Returns the corruptions of these modalities by their names: `visual-occlusion`, `text-hidden` and so on."""
    kinds = dict[str, Corruption]()
    for modality in modalities:
        kinds[f"{modality}-{_HIDING.get(modality, 'hidden')}"] = Corruption(modality, _HIDDEN, source=_spans)
        if modality == "audio":
            means = f"audio early or late by up to {MAX_SHIFT_S:g} s"
            kinds["misalignment"] = Corruption(modality, means, source=_shifted)
        kinds[f"{modality}-dropped"] = Corruption(modality, _DROPPED, source=_absent, whole_clips=True)
        for name, (change, means) in _WRONG.items():
            kinds[f"{modality}-{name}"] = Corruption(modality, means, change=change)
    return kinds


CORRUPTIONS = corruptions_of(MODALITIES)


def corrupted(
    corpus: Corpus,
    kind: str,
    strength: float,
    scales: Sequence[Tensor],
    *,
    clip_ids: Sequence[str] | None = None,
    seed: int = 0,
) -> Corpus:
    """Returns a copy of the corpus in which every stream of the kind's modality is corrupted.

    The corruption of a clip depends on kind, strength, seed and the clip's name alone, not on the model, the device or
    the other clips. A masked step is what the cache holds for one without face or voice: mask False, value 0, quality
    not measured. Features that are wrong pass for valid: mask and quality stay those of the clean recording.
    Labels, and which of them count, never change.

    Args:
        corpus: clean.
        kind: one of `CORRUPTIONS`, or of `corruptions_of` the corpus' modalities.
        strength: 0 (nothing happens) to 1.
        scales: for each stream (D,) the standard deviation of its features over the training clips, the unit of noise.
        clip_ids: of all scored clips, of which a share is corrupted, where the corpus is a part of them; default: its
            own.
        seed: decides which steps, which clips, which direction, and the noise.

    Raises:
        InputError: for an unknown kind or a strength out of range.
    """
    kinds = CORRUPTIONS | corruptions_of(stream.modality for stream in corpus.streams)
    if kind not in kinds:
        todo = did_you_mean(kind, kinds, "Name one of them.")
        raise InputError("corruption", expected=f"one of {', '.join(kinds)}", got=repr(kind), todo=todo)
    if not 0 <= strength <= 1:
        todo = "Give a share: 0 is clean, 1 the worst."
        raise InputError(f"strength of {kind}", expected="0 to 1", got=str(strength), todo=todo)
    chosen, streams = kinds[kind], _streams(corpus, kinds[kind].modality)
    if strength == 0 or not streams:
        return corpus
    if chosen.change is not None:
        return _changed(corpus, streams, chosen.change, scales, kind, strength, seed)
    assert chosen.source is not None
    ids = [clip.clip_id for clip in corpus.clips]
    affected = set(_first_share(clip_ids or ids, strength, kind, seed) if chosen.whole_clips else ids)
    source = np.arange(corpus.num_steps)
    for index, clip_id in enumerate(ids):
        if clip_id in affected:
            own = chosen.source(corpus.grids[index], strength, _random(seed, kind, clip_id))
            source[corpus.steps(index)] = np.where(own == NOWHERE, NOWHERE, own + corpus.offsets[index])
    return _from_sources(corpus, streams, torch.from_numpy(source).to(corpus.mask.device))


def _streams(corpus: Corpus, modality: str) -> list[int]:
    return [m for m, stream in enumerate(corpus.streams) if stream.modality == modality]


def _random(seed: int, *names: str) -> np.random.Generator:
    digest = hashlib.sha256("\0".join(names).encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, np.uint32)])


def _first_share(clip_ids: Sequence[str], strength: float, kind: str, seed: int) -> list[str]:
    """Returns that share of clips, the same ones first at every strength."""
    order = sorted(clip_ids, key=lambda clip_id: _random(seed, kind, clip_id).random())
    return order[: round(strength * len(order))]


def _from_sources(corpus: Corpus, streams: Sequence[int], source: Tensor) -> Corpus:
    """Gives every step of these streams the content of its source (N,), or none."""
    here, place = source != NOWHERE, source.clamp(min=0)
    values, quality, mask = list(corpus.values), list(corpus.quality), corpus.mask.clone()
    for m in streams:
        values[m] = values[m][place].masked_fill_(~here[:, None], 0)
        quality[m] = quality[m][place].masked_fill_(~here[:, None], torch.nan)
        mask[:, m] = corpus.mask[place, m] & here
    return replace(corpus, values=values, quality=quality, mask=mask)


def _changed(
    corpus: Corpus,
    streams: Sequence[int],
    change: Change,
    scales: Sequence[Tensor],
    kind: str,
    strength: float,
    seed: int,
) -> Corpus:
    """Changes the valid steps of these streams, clip by clip."""
    values = list(corpus.values)
    for m in streams:
        values[m] = values[m].clone()
        for index, clip in enumerate(corpus.clips):
            steps, rng = corpus.steps(index), _random(seed, kind, clip.clip_id, corpus.streams[m].name)
            valid = corpus.mask[steps, m]
            if valid.any():
                clean = values[m][steps][valid].float()
                wrong = change(clean, corpus.grids[index], scales[m].to(clean), strength, rng)
                values[m][steps] = values[m][steps].masked_scatter(valid[:, None], wrong.to(values[m].dtype))
    return replace(corpus, values=values)
