"""Scores of runs on corrupted recordings: corrupt, extract with the encoders of the runs, score (`eval --media`)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..data import InputError, open_store
from ..data.crops import takes_crops
from ..data.manifest import Source, find_sources
from ..fusion.evaluation.media_robustness import MediaReport, MediaScoring
from ..fusion.evaluation.score import ScoredRuns, load_scored
from ..fusion.export.ensemble import load_models


def media_robustness(
    runs: Sequence[str | Path],
    media: Sequence[str],
    *,
    cache: str | None = None,
    labels: Path | None = None,
    split: str | None = None,
    device: str = "cpu",
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
    **extraction: Any,
) -> MediaReport:
    """Scores runs on corrupted recordings, which are extracted with the encoders of the runs, beside the clean cache.

    Args:
        runs: runs, or folders of folds, of the same streams that are scored on the same clips.
        media: files, folders, globs and manifests that name the recordings of these clips as the extraction did, and
            maybe others, whose voices serve as babble.
        cache, labels, split, device: as for `load_scored`.
        seed: of the corruptions.
        tick: called after each kind of corruption.
        extraction: as for `Rebuilding`.

    Raises:
        InputError: if the runs do not go together, or a recording is missing, cannot be corrupted or extracted.
    """
    from ..extract.media_corruption import MEDIA_CORRUPTIONS
    from ..extract.rebuild import Rebuilding

    scored = [load_scored(Path(run), cache=cache, labels=labels, split=split, device=device) for run in runs]
    streams = scored[0].runs[0].streams
    if any(takes_crops(stream.fingerprint) for stream in streams):
        todo = "Train on recordings with --faces detect, so that faces are found anew in corrupted ones."
        raise InputError(scored[0].path, "it was trained on ready-made crops, not on recordings", todo=todo)
    sources, voices = _scored_sources(scored, media)
    model = load_models(list(runs), device)[0]
    rebuilding = Rebuilding(device, **extraction)
    scorings = [MediaScoring(each, seed) for each in scored]
    for name, kind in MEDIA_CORRUPTIONS.items():
        if kind.modality in {stream.modality for stream in streams}:
            with tempfile.TemporaryDirectory(prefix="sage-va-") as folder:
                corrupted = _corrupted(sources, voices, Path(folder), name, seed)
                store = open_store(Path(folder) / "cache.zarr", "a")
                folders = model.crop_template, Path(folder) / "crops"
                rebuilt = rebuilding.extract(model.streams, corrupted, store, *folders, None)
                for clip_id, reason in rebuilt.failures.items():
                    todo = "Leave the recording out of --media's clips, or mend it."
                    raise InputError(clip_id, f"its corrupted copy ({name}) cannot be extracted: {reason}", todo=todo)
                for scoring in scorings:
                    scoring.add(name, kind.modality, kind.means, store)
            tick()
    return MediaReport([scoring.result() for scoring in scorings])


def _scored_sources(scored: Sequence[ScoredRuns], media: Sequence[str]) -> tuple[list[Source], list[Path]]:
    """Returns the recordings of the clips that the runs are scored on, and those of all clips."""
    every = find_sources(media)
    wanted = scored[0].clip_ids
    for each in scored[1:]:
        if each.clip_ids != wanted:
            todo = "Score them one by one; runs of one seed share their clips."
            raise InputError(
                each.path, expected=f"the {scored[0].split} clips of {scored[0].path}", got="others", todo=todo
            )
    by_id = {source.clip_id: source for source in every}
    for clip_id in wanted:
        if clip_id not in by_id:
            todo = "Name the folder or manifest that was extracted."
            raise InputError("--media", expected=f"a recording of clip {clip_id}", got="none of that name", todo=todo)
        if by_id[clip_id].path is None or by_id[clip_id].crops is not None:
            todo = "Only recordings can be corrupted, not folders of crops."
            raise InputError(clip_id, expected="a recording", got="crops", todo=todo)
    return [by_id[clip_id] for clip_id in wanted], sorted({source.path for source in every if source.path})


def _corrupted(sources: Sequence[Source], voices: Sequence[Path], folder: Path, kind: str, seed: int) -> list[Source]:
    """Writes a corrupted copy of each recording; returns the clips with the copies in place of the recordings."""
    from ..extract.media_corruption import corrupt_recording

    copies: dict[Path, Path] = {}
    for source in sources:
        assert source.path is not None, "checked before"
        if source.path not in copies:
            copies[source.path] = folder / f"{len(copies):06d}.mov"
            place = voices.index(source.path)
            others = [*voices[place + 1 :], *voices[:place]]
            corrupt_recording(source.path, copies[source.path], kind, others=others, seed=seed)
    return [replace(source, path=copies[source.path]) for source in sources if source.path]
