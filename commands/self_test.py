"""A self-test of both halves in seconds: a few drawn recordings, their features, a tiny training, estimates."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from ..data import Clip, InputError, Store, Track, open_store, stream_name

NUM_CLIPS, SECONDS, FPS, PIXELS = 4, 4.0, 5, 64
CONFIG = {
    "data": {"window_s": 2, "hop_s": 1, "grid_hz": FPS},
    "split": {"by": "clip", "fractions": [0.5, 0.25, 0.25]},
    "model": {"dim": 16, "heads": 2, "layers": 1, "tcn_blocks": 1},
    "train": {"epochs": 1, "batch_size": 8, "crossfit_epochs": 1, "crossfit_folds": 2},
}


@dataclass(frozen=True)
class SelfTest:
    """The result of a self-test: seconds by step, and estimates that were made. An extraction is a step or is not."""

    seconds: dict[str, float]
    num_steps: int

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return asdict(self)


def self_test(*, extraction: bool, device: str = "cpu") -> SelfTest:
    """Goes from recordings to estimates in a temporary folder, and keeps nothing.

    Args:
        extraction: draw recordings and extract them, which needs the packages of extraction; else features are drawn.
        device: where to encode and train.

    Raises:
        InputError: if a step fails, or estimates are not finite.
    """
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="sage-va-doctor-") as place, _own_user_cache(place):
        folder, clock = Path(place), perf_counter()

        def lap(step: str) -> None:
            nonlocal clock
            seconds[step], clock = round(perf_counter() - clock, 2), perf_counter()

        if extraction:
            _draw_recordings(folder)
            lap("draw")
        store = _extracted(folder, device) if extraction else _drawn_features(folder)
        lap("extract" if extraction else "draw features")
        from ..api import predict, train

        run = train(store, folder / "labels", folder / "run", CONFIG, device=device)
        lap("train")
        media = str(folder / "media" / "talk_00.mp4") if extraction else store
        (prediction, *_) = predict(run, media, device=device)
        lap("predict")
    if not np.isfinite(prediction.va).all():
        todo = "Report it with the output of `sage-va doctor --json`."
        raise InputError("self-test", expected="finite estimates", got="others", todo=todo)
    return SelfTest(seconds, len(prediction.va))


@contextlib.contextmanager
def _own_user_cache(place: str) -> Iterator[None]:
    """Keeps what the test remembers out of the user's folder of derived files."""
    name = "SAGE_VA_CACHE"
    before = os.environ.get(name)
    os.environ[name] = place
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _draw_recordings(folder: Path) -> None:
    from ..demo.corpus import draw_corpus

    draw_corpus(folder, num_clips=NUM_CLIPS, seconds=SECONDS, fps=FPS, size=PIXELS, num_subjects=NUM_CLIPS)


def _extracted(folder: Path, device: str) -> Store:
    from ..data.manifest import find_sources
    from ..extract import encoders_from, extract

    encoder = "test_resnet.r160_in1k"
    visual, audio = encoders_from(visual=encoder, visual_weights="random", audio="logmel", device=device)
    store = open_store(folder / "cache.zarr", "a")
    summary = extract(find_sources([str(folder / "media")]), store, visual=visual, audio=audio)
    for failure in summary.failures:
        raise InputError("drawn recording", failure.reason.rstrip("."), todo="Install PyAV again: pip install av.")
    return store


def _drawn_features(folder: Path) -> Store:
    """Commits streams that follow a known valence and arousal, with noise, and writes their labels."""
    rng, store = np.random.default_rng(0), open_store(folder / "cache.zarr", "a")
    (folder / "labels").mkdir()
    times_s = np.arange(0, SECONDS, 1 / FPS)
    for number in range(NUM_CLIPS):
        va = 0.8 * np.sin(rng.uniform(0.5, 2, 2) * times_s[:, None] + rng.uniform(0, 6, 2))
        for modality in ("visual", "audio"):
            fingerprint = {"encoder": {"name": "drawn", "modality": modality}}
            values = np.repeat(va, 3, axis=1) + 0.3 * rng.standard_normal((len(times_s), 6))
            store.commit(
                Clip(f"talk_{number:02d}", duration_s=SECONDS),
                stream_name(modality, "drawn", fingerprint),
                Track.of(values.astype(np.float32), times_s),
                fingerprint=fingerprint,
                source_sha256="",
            )
        rows = "\n".join(f"{time_s:.3f},{v:.4f},{a:.4f}" for time_s, (v, a) in zip(times_s, va, strict=True))
        (folder / "labels" / f"talk_{number:02d}.csv").write_text(f"time_s,valence,arousal\n{rows}\n", encoding="utf-8")
    return store
