"""The streams of a model extracted again from new recordings: encoders and options rebuilt from their fingerprints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from ..data.crops import CropTemplate, takes_crops
from ..data.errors import InputError
from ..data.machine import num_cores
from ..data.manifest import Source
from ..data.store.base import Store
from ..data.windows.corpus import Stream
from .engine.progress import ExtractionProgress, Summary
from .options import ExtractOptions

Pass = tuple[dict[str, Any], ExtractOptions]  # encoders by modality, and options, of one pass over the recordings
NO_FACE = "no face was found, all frames are masked"


def _detects_faces(stream: Stream) -> bool:
    return isinstance(stream.fingerprint.get("preprocessing", {}).get("faces"), Mapping)


@dataclass
class Rebuilt:
    """The result of an extraction with the encoders of a model.

    Args:
        failures: clip_id -> reason, of the clips that failed.
        notes: clip_id -> what another clip lost or lacks, one line each.
        preparation: how recordings were prepared, if in another way than those of the training.
    """

    failures: dict[str, str] = field(default_factory=dict[str, str])
    notes: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    preparation: str | None = None

    def add(self, summary: Summary) -> None:
        """Takes what a pass over the recordings has to say."""
        self.failures |= {failure.clip_id: failure.reason for failure in summary.failures}
        for clip_id, lines in [*((clip_id, [NO_FACE]) for clip_id in summary.without_face), *summary.notes.items()]:
            known = self.notes.setdefault(clip_id, [])
            known += [line for line in lines if line not in known]


@dataclass(frozen=True)
class Rebuilding:
    """Settings of an extraction that fingerprints do not hold.

    Args:
        device: where to encode.
        visual_weights: file with the weights of the visual encoder; None = found again, or from the hub.
        audio: directory of the audio encoder; None = found again, or from the hub.
        face_detector: for a model that takes ready-made crops and recordings that have none; None = yunet.
        face_weights: file with the weights of the face detector.
        person: to crop, where faces are detected.
        others: `batch_size` and `num_decode_threads`.
    """

    device: str
    visual_weights: str | None = None
    audio: str | None = None
    face_detector: str | None = None
    face_weights: str | None = None
    person: str = "largest"
    others: dict[str, Any] | None = None
    _prepared: dict[tuple[str, ...], list[Pass]] = field(
        default_factory=dict[tuple[str, ...], "list[Pass]"], compare=False, repr=False
    )

    def prepare(self, streams: Sequence[Stream]) -> list[Pass]:
        """Builds the encoders of streams, once: the extractions that follow share them.

        Raises:
            InputError: if an encoder is not available as it was.
        """
        names = tuple(stream.name for stream in streams)
        if names not in self._prepared:
            self._prepared[names] = self._passes(streams)
        return self._prepared[names]

    def extract(
        self,
        streams: Sequence[Stream],
        sources: Sequence[Source],
        store: Store,
        template: CropTemplate,
        folder: Path,
        progress: Callable[[ExtractionProgress], None] | None,
    ) -> Rebuilt:
        """Extracts streams into a cache.

        Args:
            streams: of a model.
            sources: the clips.
            store: open for writing.
            template: of the crops that the model takes, if it takes any.
            folder: for crops that are made here.
            progress: called as clips are done.

        Raises:
            InputError: if an encoder or a detector is not available as it was, or neither model nor
                recordings have a use for one.
        """
        from .engine.pipeline import extract

        makes_crops = self.check(streams, brings_crops=all(source.crops for source in sources))
        rebuilt, passes = Rebuilt(), self.prepare(streams)
        if makes_crops:
            sources = self._add_crops(sources, folder, template, rebuilt, progress)
        for encoders, options in passes if sources else ():
            rebuilt.add(extract(sources, store, **encoders, options=options, progress=progress))
        return rebuilt

    def check(self, streams: Sequence[Stream], *, brings_crops: bool = False) -> bool:
        """Refuses options that these streams have no use for; returns True where crops of faces must be made.

        Args:
            streams: of a model.
            brings_crops: all recordings come with crops.

        Raises:
            InputError: for such an option.
        """
        of_crops = any(takes_crops(stream.fingerprint) for stream in streams)
        makes_crops = of_crops and not brings_crops
        self._check_places({stream.modality for stream in streams})
        self._check(of_crops, makes_crops, detects_faces=any(map(_detects_faces, streams)))
        return makes_crops

    def _check_places(self, modalities: set[str]) -> None:
        """Refuses the place of an encoder that the model does not have."""
        for parameter, place, modality in (
            ("visual_weights", self.visual_weights, "visual"),
            ("audio", self.audio, "audio"),
        ):
            if place and modality not in modalities:
                raise InputError(parameter, f"the model reads no {modality} stream", todo="Leave it out.")

    def _check(self, of_crops: bool, makes_crops: bool, *, detects_faces: bool) -> None:
        """Refuses options that would change nothing."""
        todo, brought = "Leave it out.", "all recordings bring crops, no faces are detected"
        if self.person != "largest" and not (makes_crops or detects_faces):
            problem = brought if of_crops else "the model sees whole frames, not faces"
            raise InputError("person", problem, todo=todo)
        if self.face_detector and not makes_crops:
            problem = brought if of_crops else "it is for models that were trained on ready-made crops"
            raise InputError("face_detector", problem, todo=todo)
        if self.face_weights and not (makes_crops or detects_faces):
            problem = brought if of_crops else "the model sees whole frames, not faces"
            raise InputError("face_weights", problem, todo=todo)

    def _add_crops(
        self,
        sources: Sequence[Source],
        folder: Path,
        template: CropTemplate,
        rebuilt: Rebuilt,
        progress: Callable[[ExtractionProgress], None] | None,
    ) -> list[Source]:
        from .faces.crop_folder import add_crops
        from .faces.finder import FaceFinder

        start_s = perf_counter()

        def tick(done: int, total: int) -> None:
            if progress:
                progress(ExtractionProgress(total, done, 0, 0, 0, 0.0, perf_counter() - start_s, None))

        detector = self.face_detector or "yunet"
        finder = FaceFinder.of(detector, self.face_weights)
        num_threads = (self.others or {}).get("num_decode_threads") or num_cores()
        options = {"person": self.person, "template": template, "num_threads": num_threads, "tick": tick}
        cropped = add_crops(sources, folder, finder, **options)
        rebuilt.failures |= cropped.failures
        rebuilt.notes |= {clip_id: [NO_FACE] for clip_id in cropped.without_face}
        rebuilt.preparation = (
            f"The model was trained on ready-made crops; here {detector} finds the faces, and those of one "
            f"person ({self.person}) are aligned to {template}: estimates may differ from those on its own crops"
        )
        return cropped.clips

    def _passes(self, streams: Sequence[Stream]) -> list[Pass]:
        """Returns the passes over the recordings that make the streams: encoders by modality, and options.

        An audio stream joins the pass of a visual stream whose options make it too, so that each recording is decoded
        once.
        """
        from .encoders.factory import encoder_from_fingerprint
        from .identity import check_same, fingerprint_of, options_of

        passes: list[Pass] = []
        for stream in sorted(streams, key=lambda stream: stream.modality == "audio"):
            weights = self.audio if stream.modality == "audio" else self.visual_weights
            encoder = encoder_from_fingerprint(stream.fingerprint, weights, device=self.device)
            for encoders, options in passes:
                if stream.modality not in encoders and fingerprint_of(encoder, options) == stream.fingerprint:
                    encoders[stream.modality] = encoder
                    break
            else:
                others = {**(self.others or {}), **({"person": self.person} if _detects_faces(stream) else {})}
                options = options_of(stream.fingerprint, self.face_weights, **others)
                check_same(stream.fingerprint, encoder, options)
                passes.append(({stream.modality: encoder}, options))
        return passes
