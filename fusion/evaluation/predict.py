"""The protocol of predictions: a model passes over clips, and each step of a clip's grid gets one estimate.

A centred model sees windows that overlap; the estimate of a step is the mean over the windows that hold it. A streaming
model sees each clip once, from its beginning, in chunks; `Memory` carries what it looks back at from chunk to chunk.

    clips -> passes (rows: first step, end of clip) -> one upload of all rows
                 for each pass: cut -> model -> add to (R + 1, 1 + D) sums on the device      (no copy, no wait)
    one copy to the host -> sums / counts -> Prediction of each clip

R is the number of steps of the requested clips, whatever else the corpus holds. Row R collects the padding past the end
of clips, column 0 counts, and the other D columns are the parts of the model's output side by side.

A model that was trained on labels moved earlier by a reaction lag has its whole output delayed by that lag: what stands
at t was computed at t - lag, and the first output holds until then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...data.windows.batches import in_batches
from ...data.windows.corpus import Corpus, cut, plan_windows
from ..config import DataConfig
from ..models.base import Output, VAModel
from ..models.causal_cache import Memory

TARGETS = ("valence", "arousal")
CHUNK_STEPS = 300  # steps of a clip per pass of a streaming model; decides memory, not numbers
PARTS: dict[str, Callable[[Output], Tensor | None]] = {
    "va": lambda output: output.va,
    "reliability": lambda output: output.fused.reliability,
    "weights": lambda output: output.fused.weights,
    "stage": lambda output: output.fused.stage,
    "unimodal": lambda output: output.unimodal.flatten(-2),
}
Floats = NDArray[np.float64]
Steps = NDArray[np.int64]


@dataclass(frozen=True)
class Prediction:
    """A model's estimate for one clip, on its grid of T steps.

    times_s (T,); va (T, 2); mask (T, M) True where a stream is valid at the step that the estimate was made from, an
    earlier one for a model with a reaction lag; reliability and weights (T, M) and stage (T, K), each None where the
    variant has no gate. unimodal (T, M, 2): the estimate of each stream by itself.
    """

    clip_id: str
    times_s: Floats
    va: Floats
    mask: NDArray[np.bool_]
    reliability: Floats | None
    weights: Floats | None
    stage: Floats | None
    unimodal: Floats


def predict(
    model: VAModel, corpus: Corpus, clips: Sequence[int], data: DataConfig, batch_size: int = 64
) -> list[Prediction]:
    """Returns one prediction per clip, in the order of `clips`.

    Args:
        model: on the device of the corpus; left in the mode in which it is.
        corpus: holds the clips.
        clips: their positions.
        data: length and hop of the windows of a centred model.
        batch_size: windows per pass, or clips side by side for a streaming model; decides memory, not numbers.
    """
    if not clips:
        return []
    rows = _rows_of(corpus, clips)
    means = _means(model, corpus, rows, data, batch_size, tuple(PARTS))
    masks = torch.cat([corpus.mask[corpus.steps(index)] for index in rows]).cpu().numpy()
    places = {index: _delayed(span, model, corpus) for index, span in rows.items()}
    return [_prediction(corpus, index, places[index], means, masks) for index in clips]


def predict_va(
    model: VAModel, corpus: Corpus, clips: Sequence[int], data: DataConfig, batch_size: int = 64
) -> list[Floats]:
    """Returns valence and arousal alone, (T, 2) per clip: `Prediction.va` of `predict`, for less work."""
    if not clips:
        return []
    rows = _rows_of(corpus, clips)
    va = _means(model, corpus, rows, data, batch_size, ("va",))["va"]
    return [va[_delayed(rows[index], model, corpus)] for index in clips]


def averaged(predictions: Sequence[Prediction]) -> Prediction:
    """Returns the mean of several models' predictions of one clip, such as those of the folds.

    The result has no stages: those of one model are not those of another.
    """
    if len(predictions) == 1:
        return predictions[0]
    means: dict[str, Floats | None] = {}
    for name in ("va", "unimodal", "reliability", "weights"):
        parts = [part for prediction in predictions if (part := getattr(prediction, name)) is not None]
        means[name] = np.mean(parts, axis=0) if len(parts) == len(predictions) else None
    return replace(predictions[0], **means, stage=None)


def _delayed(span: slice, model: VAModel, corpus: Corpus) -> Steps | slice:
    """The row of each step of a clip: the step itself or, with a reaction lag, an earlier one."""
    num_steps = round(model.lag_s * corpus.hz)
    return np.maximum(np.arange(span.start, span.stop) - num_steps, span.start) if num_steps else span


def _prediction(
    corpus: Corpus, index: int, rows: Steps | slice, means: dict[str, Floats], masks: NDArray[np.bool_]
) -> Prediction:
    part = {name: means[name][rows] if name in means else None for name in ("reliability", "weights", "stage")}
    mask, clip = masks[rows], corpus.clips[index]
    unimodal = means["unimodal"][rows].reshape(*mask.shape, len(TARGETS))
    return Prediction(clip.clip_id, corpus.grids[index].times_s, means["va"][rows], mask, **part, unimodal=unimodal)


def _rows_of(corpus: Corpus, clips: Sequence[int]) -> dict[int, slice]:
    """The rows of each clip's steps among the R steps of the requested clips."""
    rows, end = dict[int, slice](), 0
    for index in dict.fromkeys(clips):
        rows[index] = slice(end, end := end + corpus.grids[index].num_steps)
    return rows


@dataclass(frozen=True)
class _Pass:
    """One forward pass: from each row (first step, end of its clip) a window of `length` steps.

    begins: its clips are at their first step, so a streaming model starts with an empty memory.
    """

    rows: Steps
    length: int
    begins: bool = True


def _window_passes(corpus: Corpus, clips: Sequence[int], data: DataConfig, batch_size: int) -> Iterator[_Pass]:
    window_steps, hop_steps = data.steps_on(corpus)
    plan = plan_windows(corpus, clips, window_steps, hop_steps)
    for batch in in_batches(plan, window_steps, batch_size):
        yield _Pass(batch.rows, batch.length)


def _chunk_passes(corpus: Corpus, clips: Sequence[int], batch_size: int) -> Iterator[_Pass]:
    """Passes over several clips side by side, the longest first: those that go on are always the first rows."""
    longest_first = sorted(clips, key=lambda index: corpus.grids[index].num_steps, reverse=True)
    spans = np.array([(corpus.offsets[index], corpus.offsets[index + 1]) for index in longest_first])
    for first in range(0, len(spans), batch_size):
        rows, begins = spans[first : first + batch_size], True
        while len(rows):
            yield _Pass(rows, min(CHUNK_STEPS, int(rows[0, 1] - rows[0, 0])), begins)
            rows, begins = rows + np.array([CHUNK_STEPS, 0]), False
            rows = rows[rows[:, 0] < rows[:, 1]]


@torch.no_grad()
def _means(
    model: VAModel,
    corpus: Corpus,
    rows: dict[int, slice],
    data: DataConfig,
    batch_size: int,
    names: Sequence[str],
) -> dict[str, Floats]:
    """Passes over the clips of `rows`; returns (R, D) means of the named parts, without those that are None."""
    clips = list(rows)
    if model.can_stream:
        passes = list(_chunk_passes(corpus, clips, batch_size))
    else:
        passes = list(_window_passes(corpus, clips, data, batch_size))
    plan, sizes = np.concatenate([each.rows for each in passes]), [len(each.rows) for each in passes]
    starts = torch.from_numpy(plan).to(corpus.mask.device)
    shifts = torch.from_numpy(_shifts(corpus, rows, plan[:, 1])).to(corpus.device)
    sums = _Sums(names, rows[clips[-1]].stop, corpus.device)
    was_training, memory = model.training, Memory()
    model.eval()
    try:
        for each, start, shift in zip(passes, starts.split(sizes), shifts.split(sizes), strict=True):
            memory = Memory() if each.begins else memory
            memory.keep(len(each.rows))
            windows = cut(corpus, start, each.length)
            output = model(windows, memory) if model.can_stream else model(windows)
            sums.add(windows.steps - shift[:, None], windows.inside, output)
    finally:
        model.train(was_training)
    return sums.means()


def _shifts(corpus: Corpus, rows: dict[int, slice], ends: Steps) -> Steps:
    """The distance in the corpus between the steps of the clips that have these ends and their rows."""
    shift = np.zeros(len(corpus.clips), np.int64)
    for index, span in rows.items():
        shift[index] = corpus.offsets[index] - span.start
    return shift[np.searchsorted(corpus.offsets, ends) - 1]


class _Sums:
    """Sums and counts of output parts per row, in float64 on a device.

    Args:
        names: which of `PARTS`.
        num_rows: R.
        device: of the outputs. Apple's GPUs have no float64, so theirs are summed on the CPU.
    """

    def __init__(self, names: Sequence[str], num_rows: int, device: torch.device) -> None:
        self.names, self.num_rows = names, num_rows
        self.device = torch.device("cpu") if device.type == "mps" else device
        self.widths: dict[str, int] = {}
        self.table = torch.empty(0)

    def add(self, rows: Tensor, inside: Tensor, output: Output) -> None:
        """Adds an output's (B, L, …) parts to their rows (B, L), and its padding to row R."""
        parts = {name: part for name in self.names if (part := PARTS[name](output)) is not None}
        if not self.widths:
            self.widths = {name: part.shape[-1] for name, part in parts.items()}
            shape = (self.num_rows + 1, 1 + sum(self.widths.values()))
            self.table = torch.zeros(shape, dtype=torch.float64, device=self.device)
        places = torch.where(inside, rows, self.num_rows).to(self.device).flatten()
        columns = [part.to(self.device).double().flatten(0, 1) for part in parts.values()]
        ones = torch.ones(len(places), 1, dtype=torch.float64, device=self.device)
        self.table.index_add_(0, places, torch.cat([ones, *columns], dim=-1))

    def means(self) -> dict[str, Floats]:
        """Copies the table to the host and divides by the counts."""
        table = self.table[:-1].cpu().numpy()
        ends = np.cumsum([1, *self.widths.values()])
        count = table[:, :1].clip(min=1)
        return {name: table[:, a:b] / count for name, a, b in zip(self.widths, ends[:-1], ends[1:], strict=True)}
