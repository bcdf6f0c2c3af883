"""Recordings that decode without an error, and lack something: no loss over 5 % is silent, and none is invented."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from sage_va.data import InputError
from sage_va.data.manifest import Source
from sage_va.extract.decode.frames import Frames, Letterbox
from sage_va.extract.decode.reader import decode
from sage_va.extract.decode.request import DecodeOptions, DecodeResult
from sage_va.extract.engine.clip_notes import notes_of
from sage_va.tests.media import RATE, noisy_frames, tone, write_media
from sage_va.tests.mutations import CONTAINERS, HEIGHT, KINDS, WIDTH, mutations, write_recording

LOSS = 0.05
OFF_S = 0.1  # by which a frame may stand elsewhere
FEW = {"cut": 2, "zeros": 2, "flips": 1, "header": 3}
LOUD = 1e-3
SAME = 12.0  # grey levels by which the blocks of an image may differ after it was coded


@dataclass
class Outcome:
    """Notes, images, samples and times of a clip that is done."""

    notes: list[str]
    pixels: np.ndarray
    samples: np.ndarray
    result: DecodeResult


def outcome_of(path: Path, **cut: float) -> Outcome:
    source = Source(path.name, path=path, **cut)
    parts = list(decode(source, DecodeOptions(Letterbox((HEIGHT, WIDTH), (0, 0, 0)), RATE)))
    result = parts[-1]
    samples = [part for part in parts if isinstance(part, np.ndarray)]
    return Outcome(
        notes_of(
            source,
            result.start_s + result.duration_s,
            {"visual": result.visual_report, "audio": result.audio_report},
        ),
        np.concatenate([part.pixels for part in parts if isinstance(part, Frames)]),
        np.concatenate([np.zeros(0, np.float32), *samples]),
        result,
    )


def blocks(pixels: np.ndarray) -> np.ndarray:
    """Mean colours of the blocks of images, (N, 72)."""
    shape = (len(pixels), HEIGHT // 16, 16, WIDTH // 16, 16, 3)
    return pixels.astype(np.float32).reshape(shape).mean(axis=(2, 4)).reshape(len(pixels), -1)


def loud_s(samples: np.ndarray) -> float:
    """Seconds that are not silent, counted in hundredths."""
    return float((np.abs(samples[: len(samples) // 160 * 160].reshape(-1, 160)).max(1) > LOUD).sum()) / 100


def losses(whole: Outcome, damaged: Outcome) -> dict[str, float]:
    """Shares of the frames, of the audio, and of the frames that moved, that differ between two outcomes."""
    distances = np.abs(blocks(whole.pixels)[:, None] - blocks(damaged.pixels)[None]).mean(-1)
    is_there, nearest = distances.min(1) < SAME, distances.argmin(1)
    times_s = [outcome.result.times_s - outcome.result.start_s for outcome in (whole, damaged)]
    moved = np.abs(times_s[1][nearest] - times_s[0])[is_there] > OFF_S
    return {
        "frames": abs(1 - len(damaged.pixels) / len(whole.pixels)),
        "audio": abs(1 - loud_s(damaged.samples) / loud_s(whole.samples)) if len(whole.samples) else 0,
        "times": float(moved.mean()) if len(moved) else 0,
        "images": 1 - float(is_there.mean()),
    }


def fate(path: Path, whole: Outcome) -> str:
    """Fate of a damaged file: refused, noted, intact, silent, or images (altered, while all else is there)."""
    try:
        outcome = outcome_of(path)
    except InputError:
        return "refused"
    if outcome.notes:
        return "noted"
    lost = losses(whole, outcome)
    if max(lost["frames"], lost["audio"], lost["times"]) > LOSS:
        return "silent"
    return "images" if lost["images"] > LOSS else "intact"


def fates(folder: Path, container: str, *, has_audio: bool, counts: dict[str, int]) -> dict[str, Counter[str]]:
    """Kind of damage -> how many files met which fate; prints the silent ones."""
    path = write_recording(folder / f"whole.{container}", has_audio=has_audio)
    whole, damaged, table = outcome_of(path), folder / f"damaged.{container}", {kind: Counter() for kind in counts}
    assert whole.notes == []
    for mutation in mutations(container, path.read_bytes(), counts):
        damaged.write_bytes(mutation.content)
        met = fate(damaged, whole)
        table[mutation.kind][met] += 1
        if met == "silent":
            print(container, has_audio, mutation.kind, mutation.what)
    return table


@pytest.mark.parametrize("container", CONTAINERS)
def test_no_loss_is_silent(tmp_path, container):
    table = fates(tmp_path, container, has_audio=container in ("mp4", "mkv", "mpg"), counts=FEW)
    assert sum(table.values(), Counter())["silent"] == 0
    assert table["cut"].keys() <= {"refused", "noted"}


@pytest.mark.slow
@pytest.mark.parametrize("has_audio", [True, False])
@pytest.mark.parametrize("container", CONTAINERS)
def test_no_loss_is_silent_in_600_damaged_files(tmp_path, container, has_audio):
    table = fates(tmp_path, container, has_audio=has_audio, counts=KINDS)
    for kind, counts in table.items():  # for the page on extraction: pytest -s
        print(f"| {container} | {'yes' if has_audio else 'no'} | {kind} |", *(f"{f} {n}" for f, n in counts.items()))
    assert sum(table.values(), Counter())["silent"] == 0
    altered = sum(table.values(), Counter())["images"]
    assert altered == 0 or container == "webm", "of these codecs, only VP8 decodes altered bytes without an error"


def gappy(path: Path, lacking: range, **options) -> Path:
    """A recording at 25 frames per second without some of its frames."""
    ticks = [512 * number for number in range(100) if number not in lacking]
    return write_media(path, noisy_frames(len(ticks)), ticks=ticks, **options)


def test_gaps_at_a_constant_rate_are_noted_and_recorded(tmp_path):
    outcome = outcome_of(gappy(tmp_path / "a.mkv", range(40, 60)))
    (note,) = outcome.notes
    assert note == "0.80 of 3.96 s are gaps between frames that otherwise come at a constant 25 per second"
    assert outcome.result.visual_report["findings"] == [note]
    assert len(outcome.pixels) == 80
    assert outcome_of(tmp_path / "a.mkv", start_s=1.0).notes == [note.replace("3.96", "2.96")]
    assert outcome_of(tmp_path / "a.mkv", end_s=1.0).notes == []


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_gaps_that_the_header_confirms_are_no_loss(tmp_path, suffix):
    assert outcome_of(gappy(tmp_path / f"a{suffix}", range(40, 60))).notes == []


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("gaps", [[1, 2, 3], [1, 1, 1, 2], [1, 30, 1, 7], [5, 6, 7, 8, 9]])
def test_a_variable_frame_rate_is_no_loss(tmp_path, suffix, gaps):
    """Phones, screen recordings, webcams in the dark."""
    ticks = (np.cumsum(np.resize(gaps, 60)) * 512).tolist()
    path = write_media(tmp_path / f"a{suffix}", noisy_frames(60), ticks=ticks)
    assert outcome_of(path).notes == []


def test_frames_and_audio_that_end_apart_are_noted(tmp_path):
    path = write_media(tmp_path / "a.mkv", noisy_frames(50), audio=tone(1.0))
    assert outcome_of(path).notes == ["its frames last from 0.00 to 2.00 s, its audio from 0.00 to 1.00 s"]
    assert outcome_of(write_media(tmp_path / "b.mkv", noisy_frames(50), audio=tone(1.8))).notes == []


def test_a_rate_that_the_frames_do_not_keep_is_noted(tmp_path):
    whole = write_recording(tmp_path / "whole.mkv", has_audio=False).read_bytes()
    place = whole.index(b"\x2a\xd7\xb1") + 4
    (tmp_path / "a.mkv").write_bytes(whole[:place] + (2_000_000).to_bytes(3, "big") + whole[place + 3 :])
    assert outcome_of(tmp_path / "a.mkv").notes == ["its header declares 25 frames per second, its frames come at 12.5"]


def test_two_rates_in_the_headers_are_noted(tmp_path):
    whole = write_recording(tmp_path / "whole.avi", has_audio=False).read_bytes()
    place = whole.index(b"avih") + 8
    (tmp_path / "a.avi").write_bytes(whole[:place] + (80_000).to_bytes(4, "little") + whole[place + 4 :])
    assert outcome_of(tmp_path / "a.avi").notes == ["its headers declare 12.5 and 25 frames per second"]


def test_another_length_in_the_header_is_noted(tmp_path):
    whole = write_recording(tmp_path / "whole.mp4", has_audio=False).read_bytes()
    place = whole.index(b"mdhd") + 16
    (tmp_path / "a.mp4").write_bytes(whole[:place] + (25_600).to_bytes(4, "big") + whole[place + 4 :])
    assert outcome_of(tmp_path / "a.mp4").notes == [
        "its header declares a movie of 5.00 s, decoded was an end at 2.50 s"
    ]


@pytest.mark.parametrize("container", ["mkv", "webm", "ts", "mpg"])
def test_a_file_without_its_end_is_noted(tmp_path, container):
    whole = write_recording(tmp_path / f"whole.{container}").read_bytes()
    (tmp_path / f"a.{container}").write_bytes(whole[:-10])
    (first, *_) = outcome_of(tmp_path / f"a.{container}").notes
    assert first == "the file was cut off: at least 10 bytes that its container announces are missing"


def test_damaged_packets_of_a_transport_stream_are_noted(tmp_path):
    whole = write_recording(tmp_path / "whole.ts", has_audio=False).read_bytes()
    (tmp_path / "a.ts").write_bytes(whole[: -100 * 188] + bytes(100 * 188))
    assert (
        f"100 of {len(whole) // 188} packets of the transport stream are damaged" in outcome_of(tmp_path / "a.ts").notes
    )


def test_packets_that_gave_no_frame_are_noted(tmp_path):
    """As of a stream that begins in the middle of a group of pictures."""
    whole = write_recording(tmp_path / "whole.ts", has_audio=False).read_bytes()
    (tmp_path / "a.ts").write_bytes(whole[: 3 * 188] + whole[23 * 188 :])  # the tables, not the first key frame
    (note,) = outcome_of(tmp_path / "a.ts").notes
    assert re.fullmatch(r"100 frames were decoded from 12\d packets", note)
