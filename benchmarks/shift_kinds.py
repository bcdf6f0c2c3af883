"""The conditions under which benchmarks/shift.py scores a trained model, and how they make an area.

A condition is one way to change the test clips; a kind is one or several conditions of rising strength; a family is
several kinds. All kinds of a family weigh alike. The area of a kind is the mean height of the score from strength 0,
the clean clips, to 1, between straight lines, and the mean over both modalities where each is corrupted by itself.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sage_va.benchmarks.synthetic import SyntheticData, synthesise
from sage_va.data import open_store
from sage_va.data.labels import LabelFolder
from sage_va.data.windows.corpus import Corpus
from sage_va.data.windows.load import choose_streams, load_corpus, read_clips
from sage_va.fusion.evaluation.corruption import corrupted

CLEAN = "clean"
MODALITIES = ("visual", "audio")
RATIOS = {  # other ratios of signal to noise than those of training: the whole cache is drawn anew
    "bad-5": {"bad_db": -5.0},
    "bad-10": {"bad_db": -10.0},
    "bad-20": {"bad_db": -20.0},
    "all-6": {"equal": True, "equal_db": -6.0},
}
HALVES = (0.5, 1.0)
QUARTERS = (0.25, 0.5, 0.75, 1.0)
IMPULSE_SHARE, IMPULSE_SIZE = 0.2, 10.0  # of the steps at strength 1; in standard deviations
LOW_PASS_S = 2.0  # length of the moving average at strength 1
CLIPPED_AT = {0.5: 1.0, 1.0: 0.25}  # the largest size of a feature by strength, in standard deviations
HIDDEN = {"visual": "visual-occlusion", "audio": "audio-silence"}


@dataclass(frozen=True)
class Kind:
    """A kind of shift: its family, and the weight of each condition's score in its area."""

    family: str
    weights: Mapping[str, float]


def _curve(name: str, strengths: Sequence[float]) -> dict[str, float]:
    """Weights of the trapezoidal rule over strengths from 0, the mean of both modalities."""
    places = np.array([0.0, *strengths])
    gaps = np.diff(places)
    heights = (np.concatenate([gaps, [0]]) + np.concatenate([[0], gaps])) / 2
    weights = {CLEAN: float(heights[0])}
    for modality in MODALITIES:
        weights |= {
            f"{name}/{modality}/{s:g}": float(h) / len(MODALITIES) for s, h in zip(strengths, heights[1:], strict=True)
        }
    return weights


KINDS: dict[str, Kind] = {
    CLEAN: Kind(CLEAN, {CLEAN: 1.0}),
    "bad stages": Kind("noise", dict.fromkeys(("bad-5", "bad-10", "bad-20"), 1 / 3)),
    "all steps": Kind("noise", {"all-6": 1.0}),
    **{
        name: Kind("noise", _curve(name, HALVES))
        for name in ("frozen", "impulses", "swapped", "zeros", "gain", "drift")
    },
    "lying quality": Kind("noise", {"quality-lying": 1.0}),
    "absent": Kind("missing", _curve("dropped", QUARTERS)),
    "hidden": Kind("missing", _curve("hidden", QUARTERS)),
    "missing quality": Kind("missing", {"quality-missing": 1.0}),
    **{name: Kind("added", _curve(name, HALVES)) for name in ("low-pass", "clipped")},  # in none of the families tested
}
CONDITIONS = tuple(dict.fromkeys(name for kind in KINDS.values() for name in kind.weights))


def family_weights(family: str) -> dict[str, float]:
    """Returns the weight of each condition's score in the area of a family."""
    kinds = [kind for kind in KINDS.values() if kind.family == family]
    total: dict[str, float] = dict.fromkeys(CONDITIONS, 0.0)
    for kind in kinds:
        for name, weight in kind.weights.items():
            total[name] += weight / len(kinds)
    return total


def load_drawn(folder: Path, clip_ids: Sequence[str] | None, grid_hz: float) -> Corpus:
    """Reads the drawn clips of a folder, all or some, into memory."""
    store = open_store(folder / "cache.zarr")
    clips = read_clips(store, sorted(clip_ids or store.clip_ids()))
    truths = LabelFolder(folder / "labels").join([clip.clip.clip_id for clip in clips]).truths(c.clip for c in clips)
    streams = choose_streams(store, MODALITIES, clips)
    return load_corpus(store, streams, clips, grid_hz=grid_hz, truths=truths, keep=False)


def draw(folder: Path, settings: SyntheticData) -> Path:
    """Draws clips into a new folder; returns it."""
    folder.mkdir(parents=True)
    synthesise(folder, settings)
    return folder


class TestClips:
    """The test clips of one seed under every condition.

    Args:
        folder: for the caches with other ratios; new.
        settings: of the drawn data.
        clean: folder of the drawn data.
        clip_ids: the test clips.
        grid_hz: steps per second.
    """

    __test__ = False  # pytest

    def __init__(
        self, folder: Path, settings: SyntheticData, clean: Path, clip_ids: Sequence[str], grid_hz: float
    ) -> None:
        self.folders = {CLEAN: clean}
        for name, ratios in RATIOS.items():
            self.folders[name] = draw(folder / name, replace(settings, **ratios))
        self.corpora = {name: load_drawn(place, clip_ids, grid_hz) for name, place in self.folders.items()}
        self.seed = settings.seed

    def under(self, condition: str, scales: Sequence[Tensor]) -> Corpus:
        """Returns the test clips under a condition of `CONDITIONS`.

        Args:
            condition: its name.
            scales: standard deviation of the features over the training clips, for each stream.
        """
        if condition in self.corpora:
            return self.corpora[condition]
        clean = self.corpora[CLEAN]
        if condition.startswith("quality-"):
            return replace(clean, quality=[_QUALITY[condition](quality) for quality in clean.quality])
        name, modality, strength = condition.split("/")
        if name in _OWN:
            return _OWN[name](clean, modality, float(strength), scales, self.seed)
        kind = HIDDEN[modality] if name == "hidden" else f"{modality}-{name}"
        return corrupted(clean, kind, float(strength), scales, seed=self.seed)


_QUALITY: dict[str, Callable[[Tensor], Tensor]] = {  # of (N, 2): clarity within 0 … 1, and a signal without meaning
    "quality-lying": lambda quality: torch.cat([1 - quality[:, :1], quality[:, 1:]], dim=1),
    "quality-missing": lambda quality: torch.full_like(quality, torch.nan),
}


def _with_values(corpus: Corpus, modality: str, values: Tensor) -> Corpus:
    m = [stream.modality for stream in corpus.streams].index(modality)
    masked = values.masked_fill(~corpus.mask[:, m, None], 0).to(corpus.values[m].dtype)
    return replace(corpus, values=[masked if k == m else own for k, own in enumerate(corpus.values)])


def _impulses(corpus: Corpus, modality: str, strength: float, scales: Sequence[Tensor], seed: int) -> Corpus:
    """Adds ten standard deviations, with random signs, to a share of the steps."""
    rng = np.random.default_rng([seed, zlib.crc32(modality.encode())])
    m = [stream.modality for stream in corpus.streams].index(modality)
    hit = rng.random((corpus.num_steps, 1)) < strength * IMPULSE_SHARE
    signs = rng.choice(np.array([-1, 1], np.float32), (corpus.num_steps, corpus.streams[m].dim))
    return _with_values(corpus, modality, corpus.values[m] + IMPULSE_SIZE * scales[m] * torch.from_numpy(hit * signs))


def _swapped(corpus: Corpus, modality: str, strength: float, scales: Sequence[Tensor], seed: int) -> Corpus:
    """Gives a share of the clips the features of the clip after them; mask and quality stay their own."""
    m, num_clips = [stream.modality for stream in corpus.streams].index(modality), len(corpus.clips)
    values = corpus.values[m].clone()
    order = np.random.default_rng([seed, zlib.crc32(modality.encode())]).permutation(num_clips)
    for index in order[: round(strength * num_clips)].tolist():
        own, other = corpus.steps(index), corpus.steps((index + 1) % num_clips)
        length = min(own.stop - own.start, other.stop - other.start)
        values[own.start : own.start + length] = corpus.values[m][other.start : other.start + length]
    return _with_values(corpus, modality, values)


def _low_pass(corpus: Corpus, modality: str, strength: float, scales: Sequence[Tensor], seed: int) -> Corpus:
    """Averages the features over up to two seconds of the clip, as a blurred picture or a muffled voice would."""
    m = [stream.modality for stream in corpus.streams].index(modality)
    width, values = 1 + 2 * round(strength * LOW_PASS_S * corpus.hz / 2), corpus.values[m].clone()
    for index in range(len(corpus.clips)):
        steps = corpus.steps(index)
        padded = torch.nn.functional.pad(values[steps].float().T[None], (width // 2, width // 2), mode="replicate")
        values[steps] = torch.nn.functional.avg_pool1d(padded, width, stride=1)[0].T.to(values.dtype)
    return _with_values(corpus, modality, values)


def _clipped(corpus: Corpus, modality: str, strength: float, scales: Sequence[Tensor], seed: int) -> Corpus:
    """Limits the size of each feature, as an overdriven microphone or an overexposed picture would."""
    m = [stream.modality for stream in corpus.streams].index(modality)
    limit = (CLIPPED_AT[strength] * scales[m]).to(corpus.values[m].dtype)
    return _with_values(corpus, modality, corpus.values[m].clamp(-limit, limit))


_OWN = {"impulses": _impulses, "swapped": _swapped, "low-pass": _low_pass, "clipped": _clipped}
