"""Predictions of recordings as they are completed in a folder (`predict --watch`): once each, safe to stop and restart.

For each recording: note `begin` in the ledger, extract and predict, write the files (each whole or not at all), note
`done`. Stopped anywhere before the last step, the next start does the recording again and replaces its files.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from threading import Event, Thread
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..api import predict_sources, rebuilding_of
from ..data import InputError
from ..data.atomic import contained, lock_if_free
from ..data.clip import Clip
from ..data.tensor_file import tensors_sha256
from ..data.watched_folder import MAX_ATTEMPTS, FileVersion, Recording, WatchedFolder, WatchLedger
from ..fusion.evaluation.predict import Prediction
from ..fusion.evaluation.prediction_files import write_prediction
from ..fusion.evaluation.sampling import Sampling
from ..fusion.export.pretrained import SAGE

if TYPE_CHECKING:  # it needs the packages of extraction
    from ..extract.rebuild import Rebuilding, Rebuilt

POLL_S = 1.0
LEDGER, LOCK = "watch.jsonl", ".watch.lock"


@dataclass
class WatchedRecording:
    """The outcome of one recording.

    Args:
        recording: its clip_id, the path below the watched folder.
        files: that were written.
        failures: clip -> reason, of clips of it that have no prediction.
        notes: clip -> what it lost or lacks.
        seconds: that it took.
    """

    recording: str
    files: list[str] = field(default_factory=list[str])
    failures: dict[str, str] = field(default_factory=dict[str, str])
    notes: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return asdict(self)


@dataclass
class Watch:
    """Predicts the recordings of a folder.

    Args:
        models: of the same streams, whose predictions are averaged.
        folder: that is watched.
        out: folder of the files and of the ledger.
        formats: suffixes of the files.
        sampling: instants and smoothing.
        clips: patterns of recordings; none = all.
        extraction: options, as for `predict_to_files`.

    Raises:
        InputError: if an encoder is not available, or an option is of no use.
    """

    models: Sequence[SAGE]
    folder: Path
    out: Path
    formats: Sequence[str]
    sampling: Sampling
    clips: Sequence[str] = ()
    extraction: dict[str, Any] = field(default_factory=dict[str, Any])
    _recording: Recording | None = None  # in work

    def __post_init__(self) -> None:
        self.rebuilding: Rebuilding = rebuilding_of(self.models[0], **self.extraction)
        self.rebuilding.check(self.models[0].streams)
        self.rebuilding.prepare(self.models[0].streams)

    def run(self, report: Callable[[WatchedRecording], None], stop: Event, begin: Callable[[int], None]) -> None:
        """Works until it is stopped.

        Args:
            report: called with the outcome of each recording.
            stop: once set, no further recording is begun.
            begin: called once, with the number of recordings that are done already.

        Raises:
            InputError: if another process watches for the same `out`, or its ledger is of other models or options.
            OSError: if nothing can be written.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        with lock_if_free(self.out / LOCK) as free:
            if not free:
                raise InputError(self.out, "another watch writes there", todo="Choose another --out, or end it.")
            ledger, watched = WatchLedger(self.out / LEDGER, self._settings()), WatchedFolder(self.folder)
            begin(ledger.num_done)
            releasing = Thread(target=self._release, args=(ledger, stop), daemon=True)
            releasing.start()
            while not stop.is_set():
                for recording in watched.complete(lambda clip_id, version: self._passes(ledger, clip_id, version)):
                    if stop.is_set():
                        break
                    self._recording = recording
                    self._process(recording, ledger, report)
                    self._recording = None
                stop.wait(POLL_S)
            releasing.join()

    def _release(self, ledger: WatchLedger, stop: Event) -> None:
        """Once a stop is asked for, notes that the recording in work takes no blame if it is given up."""
        stop.wait()
        if self._recording:
            ledger.release(self._recording)

    def _settings(self) -> dict[str, Any]:
        """Returns what the predictions depend on."""
        weights = [tensors_sha256(model.model.state_dict()) for model in self.models]
        chosen = {name: self.extraction.get(name) for name in ("person", "face_detector", "face_weights")}
        sampling = {"at": self.sampling.at, "smooth_s": self.sampling.smooth_s}
        return {"weights": weights, "formats": sorted(self.formats), **sampling, **chosen}

    def _passes(self, ledger: WatchLedger, clip_id: str, version: FileVersion) -> bool:
        """True for a recording that is passed over."""
        wanted = not self.clips or any(clip_id == p or fnmatchcase(clip_id, p) for p in self.clips)
        return not wanted or ledger.is_done(clip_id, version)

    def _process(self, recording: Recording, ledger: WatchLedger, report: Callable[[WatchedRecording], None]) -> None:
        outcome, start_s = WatchedRecording(recording.source.clip_id), perf_counter()
        if ledger.num_attempts(recording) >= MAX_ATTEMPTS:
            reason = (
                f"the program ended {MAX_ATTEMPTS} times while it was at work; change the file to have it tried again"
            )
            outcome.failures[outcome.recording] = reason
        else:
            ledger.begin(recording)
            predictions = self._predict(recording, outcome)
            if recording.changed:  # somebody still writes to it, or it is away: it will be complete again
                ledger.release(recording)
                return
            self._write(predictions, outcome)
        self._note_older_files(outcome)
        outcome.seconds = round(perf_counter() - start_s, 2)
        ledger.end(recording, reason="; ".join(outcome.failures.values()) or None)
        report(outcome)

    def _predict(self, recording: Recording, outcome: WatchedRecording) -> list[tuple[Clip, Prediction]]:
        predictions: list[tuple[Clip, Prediction]] = []

        def note(rebuilt: Rebuilt) -> None:
            outcome.notes |= rebuilt.notes

        rows = predict_sources(
            self.models,
            [recording.source],
            self.rebuilding,
            lambda clip, prediction: predictions.append((clip, prediction)),
            sampling=self.sampling,
            note=note,
        )
        outcome.failures |= {row["clip_id"]: row["reason"] for row in rows}
        return predictions

    def _write(self, predictions: Sequence[tuple[Clip, Prediction]], outcome: WatchedRecording) -> None:
        labels = [stream.label for stream in self.models[0].streams]
        for clip, prediction in predictions:
            try:
                for suffix in self.formats:
                    path = contained(self.out, f"{prediction.clip_id}.{suffix}")
                    write_prediction(path, prediction, clip, labels)
                    outcome.files.append(str(path))
            except InputError as error:
                outcome.failures[prediction.clip_id] = error.about(prediction.clip_id)
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:  # anything else is no fault of the recording
                    raise
                outcome.failures[prediction.clip_id] = f"cannot write its predictions: {error.strerror}"

    def _note_older_files(self, outcome: WatchedRecording) -> None:
        """Notes which files of clips that failed are of an earlier version; they are kept."""
        for clip_id in outcome.failures:
            with contextlib.suppress(InputError, OSError):  # a name that can have no file
                places = [contained(self.out, f"{clip_id}.{suffix}") for suffix in self.formats]
                older = [place.name for place in places if place.exists() and str(place) not in outcome.files]
                if older:
                    note = f"kept from an earlier version of the recording: {', '.join(older)}"
                    outcome.notes.setdefault(clip_id, []).append(note)
