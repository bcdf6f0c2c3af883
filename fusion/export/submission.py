"""A submission for Aff-Wild2's test set: the predictions of trained models at the frames that a sample file lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...data.errors import InputError
from ...data.labels import label_names
from ...data.store.base import Store
from ...data.submission import Sample, read_sample, write_submission
from ..evaluation.predict import Floats
from ..evaluation.sampling import FRAMES, Sampling
from ..result import Result
from .ensemble import predict_clip, smoothing_widths
from .pretrained import SAGE

NAMED = 5  # clips that an error or a line names
MOST_BEYOND_S, MOST_BEYOND = 0.5, 0.02  # of the frames that a sample lists behind the end of a recording


@dataclass(frozen=True)
class SubmissionFile(Result):
    """The result of `make_submission`.

    out: the file; num_rows: its rows without the header; num_clips: persons in it; streams: inputs of the models;
    random_weights: those of them with an untrained encoder; num_models: whose predictions are averaged; grid_hz: steps
    per second of the models; smoothing_s: widths of the moving averages; num_beyond: rows of frames behind the last
    one of their recording, which have its value; clips_beyond: their clips.
    """

    out: str
    num_rows: int
    num_clips: int
    streams: list[str]
    random_weights: list[str]
    num_models: int
    grid_hz: float
    smoothing_s: list[float]
    num_beyond: int
    clips_beyond: list[str]
    at: str = FRAMES


def make_submission(
    models: Sequence[SAGE],
    store: Store,
    sample_file: Path,
    out: Path,
    *,
    smooth: str | float = 0.0,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> SubmissionFile:
    """Writes a row for every row of a sample file, in its order: row `NAME/00001.jpg` is that of frame 1 of clip NAME.

    The value of frame k is that of the grid at the time of frame k, by the clock of the recording; a frame without a
    crop has one as well.

    Args:
        models: of the same streams; their predictions are averaged.
        store: a cache with the clips of the sample.
        sample_file: as it came with the challenge.
        out: the file to write.
        smooth: see `Sampling`.
        tick: called with the number of clips done, and of all.

    Raises:
        InputError: if a clip of the sample is not in the cache with the streams of the models, its frame times are not
            known, or the sample lists far more frames than it has.
    """
    sample, sampling = read_sample(sample_file), Sampling(FRAMES, smooth)
    clip_ids = _find_clips(sample, store, [stream.name for stream in models[0].streams])
    last_frames, values = sample.last_frames(), dict[str, Floats]()
    beyond: dict[str, int] = {}
    normaliser = models[0].normaliser(store)
    for done, (name, clip_id) in enumerate(clip_ids.items()):
        tick(done, len(clip_ids))
        _, prediction = predict_clip(models, store, clip_id, sampling, normaliser)
        frames_beyond = max(0, last_frames[name] - len(prediction.va))
        _check_end(name, frames_beyond, prediction.times_s)
        values[name] = np.concatenate([prediction.va, np.repeat(prediction.va[-1:], frames_beyond, axis=0)])
        if frames_beyond:
            of_clip = sample.frames[sample.clips == sample.names.index(name)]
            beyond[name] = int((of_clip > len(prediction.va)).sum())
    tick(len(clip_ids), len(clip_ids))
    write_submission(out, sample, values)
    return SubmissionFile(
        out=str(out),
        num_rows=sample.num_rows,
        num_clips=len(sample.names),
        streams=[stream.name for stream in models[0].streams],
        random_weights=models[0].random_weights,
        num_models=len(models),
        grid_hz=models[0].config.data.hz,
        smoothing_s=smoothing_widths(models, sampling),
        num_beyond=sum(beyond.values()),
        clips_beyond=list(beyond),
    )


def _find_clips(sample: Sample, store: Store, streams: Sequence[str]) -> dict[str, str]:
    """Returns name in the sample -> clip of the cache, among those that have all streams."""
    whole = set.intersection(*({*store.clip_ids(stream)} for stream in streams))
    clips: dict[str, list[str]] = {}
    for clip_id in sorted(whole):
        for name in {label_name.rpartition("/")[2] for label_name in label_names(clip_id)}:
            clips.setdefault(name, []).append(clip_id)
    missing = [name for name in sample.names if name not in clips]
    if missing:
        listed = f"{', '.join(missing[:NAMED])}{' …' if len(missing) > NAMED else ''}"
        problem = (
            f"{len(missing)} of {len(sample.names)} clips of {sample.path.name} are not in it with the streams of "
        )
        todo = "Extract them, from the crop folders or the recordings of the test set."
        raise InputError(store.url, f"{problem}the model: {listed}", todo=todo)
    for name in sample.names:
        if len(clips[name]) > 1:
            got, todo = " and ".join(clips[name][:2]), "Submit from a cache that holds one of them."
            raise InputError(name, expected=f"one clip of that name in {store.url}", got=got, todo=todo)
    return {name: clips[name][0] for name in sample.names}


def _check_end(name: str, frames_beyond: int, times_s: Floats) -> None:
    """Refuses a recording that lacks more of the sample's frames than counts of decoders differ by."""
    num_frames = len(times_s)
    duration_s = float(times_s[-1] - times_s[0])
    hz = (num_frames - 1) / duration_s if duration_s else 1.0
    if frames_beyond > max(1, MOST_BEYOND_S * hz, MOST_BEYOND * num_frames):
        expected = f"about the {num_frames + frames_beyond} frames that the sample lists"
        todo = "Check that it is the right recording, and whole."
        raise InputError(name, expected=expected, got=f"a recording of {num_frames}", todo=todo)
