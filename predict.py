"""`sage-va predict`: a run on new recordings or on a cache, one CSV per clip. Lives above both stages."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from .data import InputError, Store, open_store
from .data.store import is_cache
from .data.windows import load_corpus
from .extract.outcome import Progress
from .fusion.checkpoint import Run, load_run
from .fusion.evaluate import Prediction, predict


def predict_to_csv(
    run_path: Path,
    media: Sequence[str],
    out: Path,
    *,
    device: str = "cpu",
    progress: Callable[[Progress], None] | None = None,
    **extraction: Any,
) -> dict[str, Any]:
    """Predicts every clip of a cache, or of recordings after extracting them with the run's own encoders.

    Args:
        run_path: a finished run.
        media: one cache (`*.zarr`, `*.h5`, an address), or files, folders, globs and manifests.
        out: folder; clip `a/b.mp4` becomes `a/b.mp4.csv` in it.
        device: where to compute.
        progress: called as clips are done.
        extraction: options of the extractor: visual_weights (a file), audio (a model directory), face_weights (a file),
            batch_size, num_workers.

    Returns:
        `{"run", "streams", "random_weights", "out", "clips", "failures"}`, also written to `predictions.json` in `out`.
    """
    run = load_run(run_path, device)
    out.mkdir(parents=True, exist_ok=True)
    found = _predict(run, media, out, device, progress, **extraction)
    (out / "predictions.json").write_text(json.dumps(found, indent=2, ensure_ascii=False), encoding="utf-8")
    return found


def _predict(
    run: Run,
    media: Sequence[str],
    out: Path,
    device: str,
    progress: Callable[[Progress], None] | None,
    **extraction: Any,
) -> dict[str, Any]:
    caches = [place for place in media if is_cache(place)]
    if caches and len(media) > 1:
        todo = "Predict once for each cache."
        raise InputError("MEDIA", expected="one cache, or recordings", got=", ".join(media[:3]), todo=todo)
    if caches:
        store = open_store(media[0])
        return _from_store(run, store, store.clip_ids(), out, device, progress)
    with tempfile.TemporaryDirectory(prefix="sage-va-") as folder:
        store = open_store(Path(folder) / "cache.zarr", "a")
        failures = _extract(run, media, store, device, progress, **extraction)
        whole = [clip_id for clip_id in store.clip_ids() if clip_id not in failures]
        found = _from_store(run, store, whole, out, device, None)
    rows = [{"clip_id": clip_id, "reason": reason} for clip_id, reason in sorted(failures.items())]
    return {**found, "failures": rows + found["failures"]}


def _extract(
    run: Run,
    media: Sequence[str],
    store: Store,
    device: str,
    progress: Callable[[Progress], None] | None,
    *,
    visual_weights: str | None = None,
    audio: str | None = None,
    face_weights: str | None = None,
    **options: Any,
) -> dict[str, str]:
    """Makes the run's streams, one after the other; returns why clips failed."""
    from .data.manifest import find_sources
    from .extract.encoder import VisualEncoder
    from .extract.identity import check_same, encoder_from_fingerprint, options_of
    from .extract.pipeline import extract

    sources, failures, jobs = find_sources(media), {}, []
    for stream in run.streams:
        weights = visual_weights if stream.modality == "visual" else audio
        encoder = encoder_from_fingerprint(stream.fingerprint, weights, device=device)
        made = options_of(stream.fingerprint, face_weights, **options)
        check_same(stream.fingerprint, encoder, made)
        jobs.append((encoder, made))
    for encoder, made in jobs:
        if isinstance(encoder, VisualEncoder):
            summary = extract(sources, store, visual=encoder, options=made, progress=progress)
        else:
            summary = extract(sources, store, audio=encoder, options=made, progress=progress)
        failures |= {failure.clip_id: failure.reason for failure in summary.failures}
    return failures


def _from_store(
    run: Run, store: Store, clip_ids: list[str], out: Path, device: str, progress: Callable[[Progress], None] | None
) -> dict[str, Any]:
    start_s, done, failures = perf_counter(), [], []
    for clip_id in clip_ids:
        try:
            corpus = load_corpus(store, run.streams, [clip_id], grid_hz=run.config.data.grid_hz, keep=False)
            (prediction,) = predict(run.model, corpus.to(torch.device(device)), [0], run.config.data)
            write_csv(out / f"{clip_id}.csv", prediction, [stream.label for stream in run.streams])
            done.append(clip_id)
        except InputError as error:
            failures.append({"clip_id": clip_id, "reason": error.about(clip_id)})
        except OSError as error:
            failures.append({"clip_id": clip_id, "reason": f"cannot write its predictions: {error.strerror}"})
        if progress:
            counts = {"num_clips": len(clip_ids), "num_done": len(done), "num_failed": len(failures), "num_skipped": 0}
            elapsed_s = perf_counter() - start_s
            progress(Progress(**counts, num_frames=0, audio_s=0.0, elapsed_s=elapsed_s, eta_s=None))
    made_with = {"run": str(run.path), "streams": [s.name for s in run.streams], "random_weights": run.random_weights}
    return {**made_with, "out": str(out), "clips": done, "failures": failures}


def write_csv(path: Path, prediction: Prediction, labels: Sequence[str]) -> None:
    """Columns time_s, valence, arousal, then reliability_<stream> and mask_<stream> for each stream.

    A reliability is left empty where the stream is masked or the variant has no gate; mask is 1 = valid.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["time_s", "valence", "arousal", *(f"{what}_{s}" for s in labels for what in ("reliability", "mask"))]
        )
        reliability = prediction.reliability
        for step, time_s in enumerate(prediction.times_s):
            cells: list[str] = []
            for m, valid in enumerate(prediction.mask[step]):
                trust = f"{reliability[step, m]:.4f}" if valid and reliability is not None else ""
                cells += [trust, str(int(valid))]
            valence, arousal = prediction.va[step]
            writer.writerow([f"{time_s:.6f}", f"{valence:.5f}", f"{arousal:.5f}", *cells])
