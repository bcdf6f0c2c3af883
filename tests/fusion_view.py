"""A drawn run with recordings of several kinds, for the page of `sage-va view`."""

import contextlib
import csv
import dataclasses
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np

from sage_va.data import Clip
from sage_va.data.labels import NOT_ANNOTATED, Truth
from sage_va.extract.shown_recordings import show_recordings
from sage_va.fusion.evaluation.predict import Prediction
from sage_va.fusion.report.members import MemberClip, ReportMember, ReportModel
from sage_va.fusion.view.server import ViewServer
from sage_va.fusion.view.viewing import Viewing
from sage_va.tests.media import grey_frames, tone, write_crops, write_media
from sage_va.tests.synthetic import streams_of

HZ, SECONDS = 25, 4
EVIL = '"><img src=x onerror=window.evil=1>.mp4'
CLIPS = ("a", "crops", "late", "none", "old", "sound", EVIL)
LATE_S = 2.0  # the first frame of the third recording


@dataclass
class Served:
    """A server for a browser.

    Args:
        url: of the page.
        folder: with `media` and `labels`.
    """

    url: str
    folder: Path


def drawn_clip(clip_id: str, start_s: float = 0.0) -> MemberClip:
    """A clip whose estimate and labels are waves, and whose gate switches from face to voice in its middle."""
    times_s = start_s + (np.arange(HZ * SECONDS) + 0.5) / HZ
    va = np.column_stack([0.8 * np.sin(2 * times_s), 0.6 * np.cos(1.5 * times_s)])
    share = np.where(np.arange(len(times_s)) < len(times_s) / 2, 0.7, 0.3)
    shares, mask = np.column_stack([share, 1 - share]), np.ones((len(times_s), 2), bool)
    mask[30:40, 1] = False
    stage = np.eye(3)[np.arange(len(times_s)) * 3 // len(times_s)]
    prediction = Prediction(clip_id, times_s, va, mask, shares, shares, stage, np.zeros((len(times_s), 2, 2)))
    labels, valid = (va * 0.7 + 0.1).astype(np.float32), np.arange(len(times_s)) < 80
    labels[~valid] = NOT_ANNOTATED
    truth = Truth(times_s, labels, valid)
    return MemberClip(Clip(clip_id, duration_s=float(SECONDS)), float(HZ), prediction, truth)


def write_recordings(folder: Path) -> None:
    """Writes MP4, sound, crops, an AVI that no browser plays, one that begins late, one named like markup."""
    frames = grey_frames(HZ * SECONDS, 160, 120)
    write_media(folder / "a.mp4", frames, audio=tone(SECONDS))
    write_media(folder / EVIL, frames)
    write_crops(folder / "crops", [*range(1, 51), *range(61, 101)], size=32)
    write_media(folder / "sound.wav", audio=tone(SECONDS))
    late = [round((LATE_S + k / HZ) * 12800) for k in range(len(frames))]
    write_media(folder / "late.mkv", frames, ticks=late)
    with av.open(str(folder / "old.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=HZ)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode(None))


def write_label_file(path: Path, truth: Truth) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["time_s", "valence", "arousal"])
        writer.writerows([time_s, *levels] for time_s, levels in zip(truth.times_s, truth.va, strict=True))


def drawn_viewing(folder: Path) -> Viewing:
    """A run with clips of all kinds, with their recordings and labels in a folder."""
    write_recordings(folder / "media")
    (folder / "labels").mkdir()
    clips = {name: drawn_clip(name, LATE_S if name == "late" else 0.0) for name in CLIPS}
    clips["old"] = dataclasses.replace(clips["old"], truth=None)
    for name in ("a", "late"):
        truth = clips[name].truth
        assert truth is not None
        write_label_file(folder / "labels" / f"{name}.csv", truth)
    run = SimpleNamespace(streams=streams_of(), random_weights=[], restricted=False, roles={})
    scored = SimpleNamespace(runs=[run], split="test")
    model = ReportModel("sage", [ReportMember(scored, clips, [], [], [], [])])
    recordings = show_recordings(folder / "media", dict.fromkeys(clips), [{} for _ in run.streams])
    return Viewing([model], recordings, folder / "labels", list(clips))


@contextlib.contextmanager
def serving(viewing: Viewing) -> Iterator[Served]:
    """Serves the page of a run while inside."""
    with ViewServer(0) as server:
        server.route = viewing.route
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield Served(server.url, viewing.labels.parent)
        server.shutdown()
        thread.join(300)
