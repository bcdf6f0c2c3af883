"""The Python names of `sage_va`: `train` a run, `evaluate` it, `predict` with it.

Here alone extraction and fusion meet: `predict` extracts recordings with the encoders that its model was trained on.
"""

from __future__ import annotations

import csv
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from .data import InputError, Store, open_store
from .data.atomic import contained, replacing, write_text
from .data.store.base import is_cache
from .data.windows.load import load_corpus
from .extract.engine.progress import ExtractionProgress
from .fusion.config import Config, configure, suited_preset
from .fusion.evaluation.predict import Prediction, averaged
from .fusion.evaluation.score import Score, score_run
from .fusion.export.pretrained import SAGE
from .fusion.run_folder import SPLIT, fold_runs
from .fusion.training.labelled import labelled_hours
from .fusion.training.train import train as train_runs
from .fusion.training.trainer import Log

if TYPE_CHECKING:
    from .extract.options import ExtractOptions

Report = Callable[[ExtractionProgress], None]
Keep = Callable[[Prediction], None]


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
    model: SAGE | str | Path,
    *,
    cache: str | Path | None = None,
    labels: str | Path | None = None,
    split: str | None = None,
    device: str = "cpu",
) -> Score:
    """Scores a run on its test clips (validation clips where there are none), or a model on the clips of a cache.

    Args:
        model: a run, or all folds of one, as `score_run` takes it. Or a SAGE or the place of one, which has no
            split: it is scored on every clip of `cache` that has labels.
        cache, labels: for a run, where they are now; default: where they were.
        split: the part of a run's clips: "train", "val" or "test".
        device: where to compute; a SAGE stays where it is.

    Raises:
        InputError: if a run is unfinished, or there are no labels to score on.
    """
    folder = None if isinstance(model, SAGE) else Path(model)
    if folder is not None and ((folder / SPLIT).exists() or fold_runs(folder)):
        place, truths = str(cache) if cache else None, Path(labels) if labels else None
        return score_run(folder, cache=place, labels=truths, split=split, device=device)
    sage = model if isinstance(model, SAGE) else SAGE.load(model, device)
    if cache is None or labels is None or split:
        todo = "Name the clips: evaluate(model, cache=…, labels=…)."
        raise InputError("evaluate", expected="a cache and labels, and no split", got="a model by itself", todo=todo)
    return sage.score(cache, labels)


def predict(
    model: SAGE | str | Path | Sequence[str | Path],
    media: Store | str | Path | Sequence[str | Path],
    *,
    device: str = "cpu",
    **extraction: Any,
) -> list[Prediction]:
    """Predicts every clip of a cache, or of recordings after extracting them with the encoders of the model.

    A clip that fails gives a warning and no prediction.

    Args:
        model: a SAGE, or the place of one, of a run, or of the folds of a run; or several places. Predictions of all
            models are averaged.
        media: a cache or its address; or files, folders, globs and manifests.
        device: where to compute; a SAGE stays where it is.
        extraction: options of the extraction, as for `predict_to_csv`.

    Raises:
        InputError: if there is nothing to predict, or recordings cannot be extracted with the encoders of the model.
    """
    models = [model] if isinstance(model, SAGE) else load_models(model, device)
    listed = [media] if isinstance(media, str | Path) else media
    places = listed if isinstance(listed, Store) else [str(place) for place in listed]
    predictions: list[Prediction] = []
    for failure in predict_each(models, places, predictions.append, **extraction):
        warnings.warn(f"no prediction for {failure['clip_id']}: {failure['reason']}", stacklevel=2)
    return predictions


@dataclass(frozen=True)
class PredictedFiles:
    """The result of `predict_to_csv`.

    runs: places of the models; streams: their inputs; random_weights: those of them with an untrained encoder;
    num_models: models whose predictions are averaged; out: the folder; clips: those with a CSV; failures:
    `{"clip_id", "reason"}` of the others.
    """

    runs: list[str]
    streams: list[str]
    random_weights: list[str]
    num_models: int
    out: str
    clips: list[str]
    failures: list[dict[str, str]]

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return asdict(self)


def predict_to_csv(
    model: str | Path | Sequence[str | Path],
    media: Sequence[str],
    out: Path,
    *,
    device: str = "cpu",
    progress: Report | None = None,
    **extraction: Any,
) -> PredictedFiles:
    """Predicts every clip of a cache, or of recordings after extracting them with the encoders of the model.

    Args:
        model: a finished run, a folder that `sage-va export` wrote, or the folder of the folds of a run; or several of
            these. The predictions of all models are averaged.
        media: one cache (`*.zarr`, `*.h5`, an address), or files, folders, globs and manifests.
        out: folder; clip `a/b.mp4` becomes `a/b.mp4.csv` in it, and the result `predictions.json`.
        device: where to compute.
        progress: called as clips are done.
        extraction: options of the extraction: visual_weights (a file), audio (a model directory), face_weights (a
            file), batch_size, num_decode_threads.
    """
    places = [model] if isinstance(model, str | Path) else list(model)
    models = load_models(places, device)
    sage = models[0]
    out.mkdir(parents=True, exist_ok=True)
    labels, clips = [stream.label for stream in sage.streams], list[str]()

    def keep(prediction: Prediction) -> None:
        write_csv(contained(out, f"{prediction.clip_id}.csv"), prediction, labels)
        clips.append(prediction.clip_id)

    failures = predict_each(models, media, keep, progress, **extraction)
    streams = [stream.name for stream in sage.streams]
    files = PredictedFiles(
        [str(place) for place in places], streams, sage.random_weights, len(models), str(out), clips, failures
    )
    write_text(out / "predictions.json", json.dumps(files.to_json(), indent=2, ensure_ascii=False))
    return files


def load_models(places: str | Path | Sequence[str | Path], device: str = "cpu") -> list[SAGE]:
    """Returns the models of all places: of runs, of all folds below a folder, of saved folders or from the hub.

    Raises:
        InputError: if there is none, not all folds are there, or the models take other streams or another grid.
    """
    listed = [places] if isinstance(places, str | Path) else places
    models = _models_at(listed[0], device)
    inputs = _inputs(models[0])
    for place in listed[1:]:
        others = _models_at(place, device)
        if _inputs(others[0]) != inputs:
            todo = "Predict with them one by one, or train them on the same streams and grid."
            raise InputError(place, expected=f"a model of {inputs}, as {listed[0]}", got=_inputs(others[0]), todo=todo)
        models += others
    return models


def _inputs(model: SAGE) -> str:
    return f"{', '.join(stream.name for stream in model.streams)} at {model.config.data.hz:g} Hz"


def _models_at(place: str | Path, device: str) -> list[SAGE]:
    folds = fold_runs(Path(place))
    models = [SAGE.load(path, device) for path in folds or [place]]
    num_folds = models[0].config.split.folds
    if folds and len(folds) != num_folds:
        got, todo = f"{len(folds)} of them", "Train all folds, or name one of them."
        raise InputError(place, expected=f"all {num_folds} folds", got=got, todo=todo)
    return models


def predict_each(
    models: Sequence[SAGE], media: Store | Sequence[str], keep: Keep, progress: Report | None = None, **extraction: Any
) -> list[dict[str, str]]:
    """Passes the prediction of each clip to `keep`; returns `{"clip_id", "reason"}` of clips that have none.

    Args:
        models: of the same streams, on the device where to compute; their predictions are averaged.
        media: an open cache, or as for `predict_to_csv`, like progress and extraction.
    """
    if isinstance(media, Store):
        return _from_store(models, media, media.clip_ids(), keep, progress)
    caches = [place for place in media if is_cache(place)]
    if caches and len(media) > 1:
        todo = "Predict once for each cache."
        raise InputError("MEDIA", expected="one cache, or recordings", got=", ".join(media[:3]), todo=todo)
    if caches:
        store = open_store(media[0])
        return _from_store(models, store, store.clip_ids(), keep, progress)
    with tempfile.TemporaryDirectory(prefix="sage-va-") as folder:
        store = open_store(Path(folder) / "cache.zarr", "a")
        failures = _extract(models[0], media, store, progress, **extraction)
        whole = [clip_id for clip_id in store.clip_ids() if clip_id not in failures]
        rows = [{"clip_id": clip_id, "reason": reason} for clip_id, reason in sorted(failures.items())]
        return rows + _from_store(models, store, whole, keep, None)


def _extract(
    sage: SAGE, media: Sequence[str], store: Store, progress: Report | None, **extraction: Any
) -> dict[str, str]:
    """Extracts the streams of a model; returns the reason for each clip that failed."""
    from .data.manifest import find_sources

    sources, failures = find_sources(media), {}
    from .extract.engine.pipeline import extract

    for encoders, options in _passes(sage, **extraction):
        summary = extract(sources, store, **encoders, options=options, progress=progress)
        failures |= {failure.clip_id: failure.reason for failure in summary.failures}
    return failures


def _passes(
    sage: SAGE,
    *,
    visual_weights: str | None = None,
    audio: str | None = None,
    face_weights: str | None = None,
    **others: Any,
) -> list[tuple[dict[str, Any], ExtractOptions]]:
    """Returns the passes over the recordings that make the streams of a model: encoders by modality, and options.

    An audio stream joins the pass of a visual stream whose options make it too, so that each recording is decoded once.
    """
    from .extract.encoders.factory import encoder_from_fingerprint
    from .extract.identity import check_same, fingerprint_of, options_of

    passes: list[tuple[dict[str, Any], ExtractOptions]] = []
    for stream in sorted(sage.streams, key=lambda stream: stream.modality == "audio"):
        weights = audio if stream.modality == "audio" else visual_weights
        encoder = encoder_from_fingerprint(stream.fingerprint, weights, device=str(sage.device))
        for encoders, options in passes:
            if stream.modality not in encoders and fingerprint_of(encoder, options) == stream.fingerprint:
                encoders[stream.modality] = encoder
                break
        else:
            options = options_of(stream.fingerprint, face_weights, **others)
            check_same(stream.fingerprint, encoder, options)
            passes.append(({stream.modality: encoder}, options))
    return passes


def _from_store(
    models: Sequence[SAGE], store: Store, clip_ids: list[str], keep: Keep, progress: Report | None
) -> list[dict[str, str]]:
    start_s, failures = perf_counter(), []
    for number, clip_id in enumerate(clip_ids, 1):
        try:
            keep(_predict_clip(models, store, clip_id))
        except InputError as error:
            failures.append({"clip_id": clip_id, "reason": error.about(clip_id)})
        except OSError as error:
            failures.append({"clip_id": clip_id, "reason": f"cannot write its predictions: {error.strerror}"})
        if progress:
            num_failed = len(failures)
            counts = {"num_clips": len(clip_ids), "num_done": number - num_failed, "num_failed": num_failed}
            elapsed_s = perf_counter() - start_s
            nothing_extracted = {"num_skipped": 0, "num_frames": 0, "audio_s": 0.0, "eta_s": None}
            progress(ExtractionProgress(**counts, **nothing_extracted, elapsed_s=elapsed_s))
    return failures


def _predict_clip(models: Sequence[SAGE], store: Store, clip_id: str) -> Prediction:
    """Reads a clip once and averages the predictions of all models."""
    first = models[0]
    clip = load_corpus(store, first.streams, [clip_id], grid_hz=first.config.data.hz, keep=False)
    return averaged([model.predict(clip)[0] for model in models])


def write_csv(path: Path, prediction: Prediction, labels: Sequence[str]) -> None:
    """Writes the columns time_s, valence, arousal, then reliability_<stream> and mask_<stream> for each stream.

    A reliability is left empty where the stream is masked or the variant has no gate; mask is 1 = valid.
    """
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "time_s",
                "valence",
                "arousal",
                *(f"{name}_{label}" for label in labels for name in ("reliability", "mask")),
            ]
        )
        reliability = prediction.reliability
        for step, time_s in enumerate(prediction.times_s):
            cells: list[str] = []
            for m, valid in enumerate(prediction.mask[step]):
                cell = f"{reliability[step, m]:.4f}" if valid and reliability is not None else ""
                cells += [cell, str(int(valid))]
            valence, arousal = prediction.va[step]
            writer.writerow([f"{time_s:.6f}", f"{valence:.5f}", f"{arousal:.5f}", *cells])
