"""A drawn corpus of talking faces whose face and voice follow known valence and arousal."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from ..data.atomic import replacing
from ..data.errors import InputError
from ..extract.decode.container import h264_encoder
from .face import draw_frames
from .script import STAGES, Array, cast, write_script
from .voice import SAMPLING_RATE_HZ, speak


@dataclass(frozen=True)
class DrawnClip:
    """One written clip and its synthetic ground truth.

    `stage` (T,) indexes STAGES, `times_s` (T,) float64 is k / fps, `va` (T, 2) float32 is the latent valence and
    arousal in [-1, 1], also where the label file says "not annotated".
    """

    name: str
    path: Path
    label_path: Path
    stage: Array
    times_s: Array
    va: Array
    subject_id: str


def draw_corpus(
    out: Path,
    *,
    num_clips: int = 12,
    seconds: float = 20.0,
    fps: int = 25,
    size: int = 160,
    num_subjects: int = 6,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> list[DrawnClip]:
    """Writes clips, labels, stages and a manifest under `out`; `progress` is called with the number of clips done.

    `media/<name>.mp4` is H.264 and AAC, `labels/<name>.txt` is in Aff-Wild2's format (-5 = not annotated). The same
    arguments give the same clips. Raises InputError for impossible sizes, and where PyAV has no H.264 encoder.
    """
    if min(num_clips, num_subjects, fps, seconds * fps / 2) < 1:
        got = f"{num_clips} clips of {num_subjects} subjects, {seconds:g} s at {fps} fps"
        todo = "Give each option a larger number."
        raise InputError("draw_corpus", expected="a clip, a subject and two frames at least", got=got, todo=todo)
    if size < 64 or size % 2:
        raise InputError("draw_corpus", expected="an even size from 64 pixels on", got=str(size), todo="Try 160.")
    encoder, out = h264_encoder(), Path(out)
    for folder in ("media", "labels"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    clips = []
    for index in range(num_clips):
        rng = np.random.default_rng([seed, index])
        subject, script = cast(index % num_subjects, seed), write_script(rng, seconds=seconds, fps=fps)
        name = f"talk_{index:02d}"
        path, label_path = out / "media" / f"{name}.mp4", out / "labels" / f"{name}.txt"
        _write_media(path, draw_frames(subject, script, size), speak(subject, script), fps, encoder)
        _write_labels(label_path, script.va, fps, rng)
        truth = (script.stage, script.times_s, script.va)
        clips.append(DrawnClip(name, path, label_path, *truth, subject.subject_id))
        if progress:
            progress(index + 1)
    _write_tables(out, clips, fps)
    return clips


def _write_media(path: Path, frames: Iterator[Array], sound: Array, fps: int, encoder: str) -> None:
    """Writes H.264 (yuv420p) and AAC (mono, 16 kHz) in an mp4; frame k is shown at k / fps."""
    first = next(frames)
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream(
            encoder, rate=fps, width=first.shape[1], height=first.shape[0], pix_fmt="yuv420p"
        )
        if encoder == "libx264":
            video.options = {"preset": "ultrafast", "crf": "18", "threads": "1"}
        audio = container.add_stream("aac", rate=SAMPLING_RATE_HZ, layout="mono", bit_rate=64_000)
        audio.options = {"aac_coder": "fast"}
        packets = []
        for index, picture in enumerate(chain([first], frames)):
            planes = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420), np.uint8)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            packets += video.encode(frame)
        spoken = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        spoken.sample_rate, spoken.pts, spoken.time_base = SAMPLING_RATE_HZ, 0, Fraction(1, SAMPLING_RATE_HZ)
        packets += video.encode(None) + audio.encode(spoken) + audio.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)


def _write_labels(path: Path, va: Array, fps: int, rng: np.random.Generator) -> None:
    """Writes a header and one row per frame; up to two runs of 0.2-0.8 s are -5, not annotated."""
    rows = [f"{valence:.4f},{arousal:.4f}" for valence, arousal in va]
    for start in rng.integers(len(rows), size=2):
        length = min(int(rng.uniform(0.2, 0.8) * fps), len(rows) - start)
        rows[start : start + length] = ["-5,-5"] * length
    path.write_text("\n".join(["valence,arousal", *rows]) + "\n")


def _write_tables(out: Path, clips: list[DrawnClip], fps: int) -> None:
    """Writes stages.csv, the runs of each clip's stages, and last, whole or not at all, manifest.csv."""
    with (out / "stages.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["clip", "start_s", "end_s", "stage"])
        for clip in clips:
            edges = [0, *(np.flatnonzero(np.diff(clip.stage)) + 1), len(clip.stage)]
            for start, end in pairwise(edges):
                table.writerow([clip.name, round(start / fps, 6), round(end / fps, 6), STAGES[clip.stage[start]]])
    with replacing(out / "manifest.csv") as part, part.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["clip_id", "path", "subject_id"])
        table.writerows([clip.name, clip.path.relative_to(out).as_posix(), clip.subject_id] for clip in clips)
