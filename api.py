"""The Python names of `sage_va`: `train` a run, `evaluate` it, `predict` with it.

Here alone extraction and fusion meet: `predict` extracts recordings with the encoders that its model was trained on.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from .data import InputError, Store, open_store
from .data.atomic import contained, write_text
from .data.clip import Clip, choose_clips
from .data.clip_preview import ClipPreview
from .data.store.base import is_cache
from .extract.engine.progress import ExtractionProgress
from .fusion.config import Config, configure, suited_preset
from .fusion.evaluation.clip_picture import panel_of
from .fusion.evaluation.ensemble import score_ensemble
from .fusion.evaluation.groups import Grouping
from .fusion.evaluation.predict import Prediction
from .fusion.evaluation.prediction_files import FORMATS, write_prediction
from .fusion.evaluation.sampling import FRAMES, GRID, PLAIN, Sampling
from .fusion.evaluation.score import Score, score_run
from .fusion.export.ensemble import load_models, predict_clip, smoothing_widths
from .fusion.export.pretrained import SAGE
from .fusion.report.clip_plot import plot_run, recorded_path
from .fusion.report.members import ReportModel
from .fusion.report.write import ReportPage, write_report
from .fusion.run_folder import SPLIT, fold_runs
from .fusion.training.labelled import labelled_hours
from .fusion.training.train import train as train_runs
from .fusion.training.trainer import Log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .data.manifest import Source
    from .extract.rebuild import Rebuilding, Rebuilt
    from .extract.render import RenderedClip

Report = Callable[[ExtractionProgress], None]
Keep = Callable[[Clip, Prediction], None]


def train(
    cache: Store | str | Path,
    labels: str | Path,
    out: str | Path,
    config: Config | Mapping[str, Any] | str = "auto",
    *,
    device: str = "cpu",
    resume: bool = False,
    log: Log = lambda event: None,
) -> Path:
    """Trains a model on cached features and returns `out`, which `evaluate`, `predict` and `SAGE.from_run` take.

    Args:
        cache: a feature cache or its address.
        labels: folder of label files.
        out: folder of the run, which must be new. With `split.folds` it holds a run for each fold.
        config: a whole configuration; or a preset, "auto" (by the hours of labelled recordings), "tiny", "base" or
            "large"; or sections such as `{"train": {"epochs": 20}}`, which go over the preset "auto".
        device, resume, log: as for `fusion.train.train`.

    Raises:
        InputError: if clips, labels, streams and configuration do not go together.
    """
    store = open_store(cache) if isinstance(cache, str | Path) else cache
    chosen = config if isinstance(config, Config) else _configured(config, store, Path(labels))
    train_runs(store, Path(labels), Path(out), chosen, device=device, resume=resume, log=log)
    return Path(out)


def _configured(config: Mapping[str, Any] | str, store: Store, labels: Path) -> Config:
    preset, raw = (config, {}) if isinstance(config, str) else ("auto", config)
    if preset == "auto":
        preset = suited_preset(labelled_hours(store, labels))
    return configure(raw, preset, "config")


def evaluate(
    model: SAGE | str | Path | Sequence[str | Path],
    *,
    cache: str | Path | None = None,
    labels: str | Path | None = None,
    split: str | None = None,
    by: str | None = None,
    groups: str | Path | None = None,
    device: str = "cpu",
) -> Score:
    """Scores a run on its test clips (validation clips where there are none), or a model on the clips of a cache.

    Args:
        model: a run, or all folds of one, as `score_run` takes it; or several, whose mean prediction is scored. Or a
            SAGE or the place of one, which has no split: it is scored on every clip of `cache` that has labels.
        cache, labels: for a run, where they are now; default: where they were.
        split: the part of a run's clips: "train", "val" or "test".
        by: a column that divides the clips into groups, which are scored too (`Score.groups`): "subject", or one of
            `groups`.
        groups: a manifest, or another CSV or JSONL with `clip_id` or `subject_id` and that column.
        device: where to compute; a SAGE stays where it is.

    Raises:
        InputError: if a run is unfinished, there are no labels to score on, or there is no such column.
    """
    place, truths = str(cache) if cache else None, Path(labels) if labels else None
    if groups and not by:
        todo = 'Name a column of it, as in by="gender".'
        raise InputError("groups", "it is a table of groups, and by names no column", todo=todo)
    grouping = Grouping.of(by, Path(groups) if groups else None) if by else None
    if not isinstance(model, SAGE | str | Path):
        folders = [Path(folder) for folder in model]
        return score_ensemble(folders, cache=place, labels=truths, split=split, device=device, grouping=grouping)
    folder = None if isinstance(model, SAGE) else Path(model)
    if folder is not None and ((folder / SPLIT).exists() or fold_runs(folder)):
        return score_run(folder, cache=place, labels=truths, split=split, device=device, grouping=grouping)
    sage = model if isinstance(model, SAGE) else SAGE.load(model, device)
    if cache is None or labels is None or split:
        todo = "Name the clips: evaluate(model, cache=…, labels=…)."
        raise InputError("evaluate", expected="a cache and labels, and no split", got="a model by itself", todo=todo)
    return sage.score(cache, labels, grouping)


def predict(
    model: SAGE | str | Path | Sequence[str | Path],
    media: Store | str | Path | Sequence[str | Path],
    *,
    at: str | float = GRID,
    smooth: str | float = 0.0,
    clips: Sequence[str] = (),
    device: str = "cpu",
    **extraction: Any,
) -> list[Prediction]:
    """Predicts clips of a cache, or recordings after extracting them with the encoders of the model.

    A clip that fails gives a warning and no prediction.

    Args:
        model: a SAGE, or the place of one, of a run, or of the folds of a run; or several places. Predictions of all
            models are averaged.
        media: a cache or its address; or files, folders, globs and manifests.
        at: the instants of the values: "grid", "frames" of the recording, or so many per second.
        smooth: width in seconds of a centred moving average of valence and arousal; "auto" = the width that was best
            on the validation clips.
        clips: ids or patterns such as `train/*` of the clips to predict; default: all.
        device: where to compute; a SAGE stays where it is.
        extraction: options of the extraction, as for `predict_to_files`.

    Raises:
        InputError: if there is nothing to predict, or recordings cannot be extracted with the encoders of the model.
    """
    models = [model] if isinstance(model, SAGE) else load_models(model, device)
    listed = [media] if isinstance(media, str | Path) else media
    places = listed if isinstance(listed, Store) else [str(place) for place in listed]
    predictions: list[Prediction] = []
    wanted = {"sampling": Sampling(at, smooth), "clips": clips, "note": _warn}
    for failure in predict_each(models, places, lambda _, one: predictions.append(one), **wanted, **extraction):
        warnings.warn(f"no prediction for {failure['clip_id']}: {failure['reason']}", stacklevel=2)
    return predictions


def _warn(rebuilt: Rebuilt) -> None:
    """Warns of what recordings lost or lack, and of another preparation than that of the training."""
    lines = [f"{clip_id}: {note}" for clip_id, notes in sorted(rebuilt.notes.items()) for note in notes]
    for line in [rebuilt.preparation, *lines] if rebuilt.preparation else lines:
        warnings.warn(line, stacklevel=4)


@dataclass(frozen=True)
class PredictedFiles:
    """The result of `predict_to_files`.

    runs: places of the models; streams: their inputs; random_weights: those of them with an untrained encoder;
    num_models: models whose predictions are averaged; at: the instants of the values; grid_hz: steps per second of the
    models; smoothing_s: widths of the moving averages; out: the folder; formats: of the files; preparation: how
    recordings were prepared, if in another way than those of the training; notes: clip_id -> what a clip lost or lacks;
    clips: those with files; failures: `{"clip_id", "reason"}` of the others.
    """

    runs: list[str]
    streams: list[str]
    random_weights: list[str]
    num_models: int
    at: str | float
    grid_hz: float
    smoothing_s: list[float]
    out: str
    formats: list[str]
    preparation: str | None
    notes: dict[str, list[str]]
    clips: list[str]
    failures: list[dict[str, str]]

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return asdict(self)


def predict_to_files(
    model: str | Path | Sequence[str | Path],
    media: Sequence[str],
    out: Path,
    *,
    formats: Sequence[str] = ("csv",),
    at: str | float | None = None,
    smooth: str | float = 0.0,
    clips: Sequence[str] = (),
    device: str = "cpu",
    progress: Report | None = None,
    **extraction: Any,
) -> PredictedFiles:
    """Predicts clips of a cache, or recordings after extracting them with the encoders of the model.

    Args:
        model: a finished run, a folder that `sage-va export` wrote, or the folder of the folds of a run; or several of
            these. The predictions of all models are averaged.
        media: one cache (`*.zarr`, `*.h5`, an address), or files, folders, globs and manifests.
        out: folder; clip `a/b.mp4` becomes `a/b.mp4.csv` in it, and the result `predictions.json`.
        formats: some of `FORMATS`; a "txt" has a row for each frame.
        at, smooth, clips: as for `predict`; None stands for "grid", and for "frames" where there is a "txt".
        device: where to compute.
        progress: called as clips are done.
        extraction: options of the extraction: visual_weights (a file), audio (a model directory), face_weights (a
            file), batch_size, num_decode_threads; and for a model that takes ready-made crops and recordings without
            any, face_detector and person.

    Raises:
        InputError: as `predict`; and for an unknown format, or one that does not go with `at`.
    """
    sampling = sampling_of(formats, at, smooth)
    places = [model] if isinstance(model, str | Path) else list(model)
    models = load_models(places, device)
    sage = models[0]
    labels, written = [stream.label for stream in sage.streams], list[str]()

    def keep(clip: Clip, prediction: Prediction) -> None:
        for suffix in formats:
            write_prediction(contained(out, f"{prediction.clip_id}.{suffix}"), prediction, clip, labels)
        written.append(prediction.clip_id)

    noted: list[Rebuilt] = []
    wanted = {"sampling": sampling, "clips": clips, "note": noted.append}
    failures = predict_each(models, media, keep, progress, **wanted, **extraction)
    files = PredictedFiles(
        runs=[str(place) for place in places],
        streams=[stream.name for stream in sage.streams],
        random_weights=sage.random_weights,
        num_models=len(models),
        at=sampling.at,
        grid_hz=sage.config.data.hz,
        smoothing_s=smoothing_widths(models, sampling),
        out=str(out),
        formats=list(formats),
        preparation=noted[0].preparation if noted else None,
        notes=noted[0].notes if noted else {},
        clips=written,
        failures=failures,
    )
    write_text(out / "predictions.json", json.dumps(files.to_json(), indent=2, ensure_ascii=False))
    return files


def sampling_of(formats: Sequence[str], at: str | float | None, smooth: str | float) -> Sampling:
    """Returns instants and smoothing of files; arguments and errors as for `predict_to_files`."""
    return Sampling(_instants(formats, at), smooth)


def _instants(formats: Sequence[str], at: str | float | None) -> str | float:
    """Returns the instants of the values of these formats; refuses those that do not go together."""
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        got, todo = repr(unknown[0]) if unknown else "none", "Choose some of them."
        raise InputError("formats", expected=", ".join(FORMATS), got=got, todo=todo)
    if "txt" in formats and at not in (None, FRAMES):
        todo = "Leave --at out, or leave txt out."
        raise InputError("at", expected="frames, since row k of a txt file is frame k", got=repr(at), todo=todo)
    return at if at is not None else FRAMES if "txt" in formats else GRID


def predict_each(
    models: Sequence[SAGE],
    media: Store | Sequence[str],
    keep: Keep,
    progress: Report | None = None,
    *,
    sampling: Sampling = PLAIN,
    clips: Sequence[str] = (),
    note: Callable[[Rebuilt], None] | None = None,
    **extraction: Any,
) -> list[dict[str, str]]:
    """Passes each clip with its prediction to `keep`; returns `{"clip_id", "reason"}` of clips that have none.

    Args:
        models: of the same streams, on the device where to compute; their predictions are averaged.
        media: an open cache, or as for `predict_to_files`, like progress and extraction.
        sampling: instants and smoothing.
        clips: ids or patterns; none = all.
        note: called once recordings are extracted.
    """
    each = _Each(models, sampling, keep, progress)
    if isinstance(media, Store):
        _check_unused(extraction)
        chosen = choose_clips(media.clip_ids(), clips, f"See `sage-va cache ls {media.url}`.")
        return each.of(media, [clip_id for clip_id in media.clip_ids() if clip_id in chosen])
    if cache := _cache_among(media):
        return predict_each(models, cache, keep, progress, sampling=sampling, clips=clips, **extraction)
    rebuilding = rebuilding_of(models[0], **extraction)
    return predict_sources(models, _chosen(media, clips), rebuilding, keep, progress, sampling=sampling, note=note)


def predict_sources(
    models: Sequence[SAGE],
    sources: Sequence[Source],
    rebuilding: Rebuilding,
    keep: Keep,
    progress: Report | None = None,
    *,
    sampling: Sampling = PLAIN,
    note: Callable[[Rebuilt], None] | None = None,
) -> list[dict[str, str]]:
    """Extracts recordings into a temporary cache and predicts them, as `predict_each` does.

    Args:
        models, keep, progress, sampling, note: as there.
        sources: the recordings.
        rebuilding: of `rebuilding_of`; several calls share its encoders.
    """
    with tempfile.TemporaryDirectory(prefix="sage-va-") as folder:
        store, sage = open_store(Path(folder) / "cache.zarr", "a"), models[0]
        crops = sage.crop_template, Path(folder) / "crops"
        rebuilt = rebuilding.extract(sage.streams, sources, store, *crops, progress)
        if note:
            note(rebuilt)
        whole = [clip_id for clip_id in store.clip_ids() if clip_id not in rebuilt.failures]
        rows = [{"clip_id": clip_id, "reason": reason} for clip_id, reason in sorted(rebuilt.failures.items())]
        return rows + _Each(models, sampling, keep, None).of(store, whole)


def _check_unused(extraction: Mapping[str, Any]) -> None:
    """Refuses options of the extraction where nothing is extracted."""
    for name, value in extraction.items():
        if value is not None and (name, value) != ("person", "largest"):
            raise InputError(name, "a cache is predicted, so nothing is extracted", todo="Leave it out.")


def _cache_among(media: Sequence[str]) -> Store | None:
    """Returns the cache that is meant; None for recordings."""
    caches = [place for place in media if is_cache(place)]
    if caches and len(media) > 1:
        todo = "Predict once for each cache."
        raise InputError("MEDIA", expected="one cache, or recordings", got=", ".join(media[:3]), todo=todo)
    return open_store(caches[0]) if caches else None


@dataclass
class _Each:
    """Predicts clip by clip; see `predict_each`."""

    models: Sequence[SAGE]
    sampling: Sampling
    keep: Keep
    progress: Report | None

    def of(self, store: Store, clip_ids: Sequence[str]) -> list[dict[str, str]]:
        """Predicts clips of a cache; returns `{"clip_id", "reason"}` of those that fail."""
        start_s, failures = perf_counter(), list[dict[str, str]]()
        normaliser = self.models[0].normaliser(store)
        for number, clip_id in enumerate(clip_ids, 1):
            try:
                self.keep(*predict_clip(self.models, store, clip_id, self.sampling, normaliser))
            except InputError as error:
                failures.append({"clip_id": clip_id, "reason": error.about(clip_id)})
            except OSError as error:
                failures.append({"clip_id": clip_id, "reason": f"cannot write its predictions: {error.strerror}"})
            if self.progress:
                num_failed = len(failures)
                counts = {"num_clips": len(clip_ids), "num_done": number - num_failed, "num_failed": num_failed}
                nothing_extracted = {"num_skipped": 0, "num_frames": 0, "audio_s": 0.0, "eta_s": None}
                elapsed_s = perf_counter() - start_s
                self.progress(ExtractionProgress(**counts, **nothing_extracted, elapsed_s=elapsed_s))
        return failures


def _chosen(media: Sequence[str], clips: Sequence[str]) -> list[Source]:
    """Returns the recordings that are named."""
    from .data.manifest import find_sources

    listed = find_sources(media)
    chosen = choose_clips((source.clip_id for source in listed), clips, "Look at the names of the recordings.")
    return [source for source in listed if source.clip_id in chosen]


def rebuilding_of(
    sage: SAGE, *, batch_size: int | None = None, num_decode_threads: int | None = None, **settings: Any
) -> Rebuilding:
    """Returns what extracts the streams of a model; options as for `predict_to_files`."""
    from .extract.rebuild import Rebuilding

    others = {"batch_size": batch_size, "num_decode_threads": num_decode_threads}
    return Rebuilding(str(sage.device), others=others, **settings)


PREVIEW_BYTES = 650_000  # of the pictures of all clips of a report


def report(
    runs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    media: str | Path | None = None,
    cache: str | Path | None = None,
    labels: str | Path | None = None,
    split: str | None = None,
    device: str = "cpu",
    tick: Callable[[], None] = lambda: None,
) -> ReportPage:
    """Writes one HTML page that shows runs: scores, clips and their traces, calibration, curves, provenance, limits.

    Args:
        runs: places of runs, of the folds of one, or of comparisons. The page is about the first and compares it with
            the others; runs that differ in their seed alone count as one model.
        out: the page, an `.html`.
        media: folder or manifest of the recordings, for small pictures and waveforms.
        cache, labels, split, device: as for `evaluate`.
        tick: called when a run has been scored.

    Raises:
        InputError: if a run is unfinished, or there are no labels to score on.
    """
    places = [Path(runs)] if isinstance(runs, str | Path) else [Path(run) for run in runs]
    previews = None if media is None else lambda models: _previews(models[0], str(media))
    places_of = {"cache": str(cache) if cache else None, "labels": Path(labels) if labels else None}
    return write_report(places, Path(out), previews=previews, tick=tick, split=split, device=device, **places_of)


def plot_clip(
    run: str | Path,
    clip: str,
    *,
    cache: str | Path | None = None,
    labels: str | Path | None = None,
    device: str = "cpu",
) -> Figure:
    """Returns a matplotlib figure of one clip of a run; `figure.savefig("clip.png")` writes it.

    It shows valence and arousal with the gold standard, reliability and weight of each stream, masked steps and stages.

    Args:
        run: place of a run, or of the folds of one: the fold is taken that held the clip out.
        clip: a clip of the cache.
        cache, labels: where they are now; default: where they were.
        device: where to compute.

    Raises:
        InputError: if the run is unfinished, or the cache has no such clip.
    """
    place, truths = str(cache) if cache else None, Path(labels) if labels else None
    return plot_run(Path(run), clip, cache=place, labels=truths, device=device)


FILM = (880, 720)  # width and height of the traces in a film


def render_clip(
    run: str | Path,
    clip: str,
    media: str | Path,
    out: str | Path,
    *,
    cache: str | Path | None = None,
    labels: str | Path | None = None,
    device: str = "cpu",
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> RenderedClip:
    """Writes a film of one clip, an `.mp4`: its pictures beside what `plot_clip` draws, a moving playhead, its sound.

    Args:
        run, clip, cache, labels, device: as for `plot_clip`.
        media: folder or manifest of the recordings.
        out: the film.
        tick: called with the number of frames done, and of all.

    Raises:
        InputError: as `plot_clip`; and if the recording of the clip is absent or cannot be shown.
    """
    from .extract.previews import find_recordings
    from .extract.render import render

    if Path(out).suffix.lower() != ".mp4":
        todo = "Change the name."
        raise InputError(out, expected="a name that ends in .mp4", got=Path(out).suffix or "no suffix", todo=todo)
    recorded = recorded_path(Path(run), clip, str(cache) if cache else None)
    source = find_recordings(str(media), {clip: recorded}).get(clip)
    if source is None:
        todo = "Name the folder or manifest that was extracted."
        raise InputError(clip, f"{media} has no recording of that name", todo=todo)
    figure = plot_clip(run, clip, cache=cache, labels=labels, device=device)
    return render(source, panel_of(figure, FILM), Path(out), tick)


def _previews(model: ReportModel, media: str) -> dict[str, ClipPreview]:
    """Makes pictures and waveforms of the clips whose recordings are there; one that fails gives a warning."""
    from .extract.previews import find_recordings, preview_of

    firsts = {clip_id: model.of_clip(clip_id)[0] for clip_id in model.clip_ids}
    sources = find_recordings(media, {clip_id: (one.clip.media or {}).get("path") for clip_id, one in firsts.items()})
    previews = dict[str, ClipPreview]()
    for clip_id, source in sources.items():
        times_s = firsts[clip_id].prediction.times_s
        try:
            room = PREVIEW_BYTES // len(firsts)
            previews[clip_id] = preview_of(source, float(times_s[0]), float(times_s[-1]), room)
        except InputError as error:
            warnings.warn(f"no pictures of {clip_id}: {error.about(clip_id)}", stacklevel=2)
    return previews
