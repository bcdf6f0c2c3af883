"""Decoding of one clip for its encoders: hashed, checked against the cache, cut into images and windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ...data.errors import InputError
from ...data.manifest import Source
from ..buffers import Buffers
from ..decode.audio import Samples
from ..decode.frames import Frames
from ..decode.reader import decode
from ..decode.request import DecodeOptions, DecodeResult
from ..encoders.audio_windows import Window, Windower
from ..faces.detection import detect_faces
from ..faces.people import decode_person, split_people
from ..faces.tracking import Detections
from ..media_hashes import MediaHashes, Medium
from ..options import ExtractOptions
from .assemble import Assembly
from .progress import Failure

if TYPE_CHECKING:  # it loads torch
    from ..encoders.base import AudioEncoder, VisualEncoder

Part: TypeAlias = Frames | Window | DecodeResult | Failure | tuple[Source, ...] | None


class ClipDecoder:
    """Decodes clips to parts, see `parts`; used by several threads.

    Args:
        visual: encoder that images are prepared for.
        audio: encoder that windows are cut for.
        options: of the extraction.
        needs: returns the modalities that a clip still needs.
        num_threads: threads of each video decoder.
        buffers: lends the memory of the images.
    """

    def __init__(
        self,
        visual: VisualEncoder | None,
        audio: AudioEncoder | None,
        options: ExtractOptions,
        needs: Callable[[Source, Medium], tuple[str, ...]],
        num_threads: int,
        buffers: Buffers,
    ) -> None:
        self._visual, self._audio, self._options, self._needs = visual, audio, options, needs
        self._hashes = MediaHashes(rehash=options.rehash)
        self._num_threads, self._buffers = num_threads, buffers

    def parts(self, clip: Assembly, beat: Callable[[], None]) -> Iterator[Part]:
        """Yields the parts of a clip.

        Frames and Windows in order, then the DecodeResult. Or a sole None: the cache has all streams of the clip. Or a
        sole tuple: the clip is split, and the clips of its people are still to be decoded.

        Args:
            clip: gets its medium and the modalities that it needs.
            beat: called for every packet: a sign of life.

        Raises:
            InputError: if the clip cannot be decoded.
            FailedBeforeError: if an earlier run could not extract it from the same bytes.
        """
        options = DecodeOptions(fps=self._options.fps, num_threads=self._num_threads, beat=beat, buffers=self._buffers)
        clip.medium = Medium.of(clip.source, self._hashes)
        if self._options.person == "all" and clip.source.person is None:
            yield tuple(split_people(clip.source, self._detections(clip.source, clip.medium, options)))
            return
        clip.needs = self._needs(clip.source, clip.medium)
        if clip.needs:
            yield from self._needed_parts(clip, clip.medium, options)
        else:
            yield None

    def _needed_parts(self, clip: Assembly, medium: Medium, options: DecodeOptions) -> Iterator[Part]:
        visual = self._visual if "visual" in clip.needs else None
        audio = self._audio if "audio" in clip.needs else None
        options = replace(
            options,
            transform=visual.letterbox() if visual else None,
            sampling_rate=audio.sampling_rate if audio else None,
            faces=self._options.faces,
        )
        decoded = self._decoded(clip.source, medium, options, visual)
        return _windowed(decoded, Windower(audio.plan)) if audio else _without_samples(decoded)

    def _decoded(
        self, source: Source, medium: Medium, options: DecodeOptions, visual: VisualEncoder | None
    ) -> Iterator[Frames | Samples | DecodeResult]:
        finder = self._options.finder
        if visual and self._options.faces == "full" and source.person not in (None, "largest"):
            todo = "Extract with --faces detect, or leave the person out of the manifest."
            raise InputError(source.clip_id, expected="the whole image", got=f"person {source.person}", todo=todo)
        if visual is None or finder is None:
            return decode(source, options)
        detections = self._detections(source, medium, options)
        return decode_person(source, options, detections, lambda face_of: visual.face_cropper(finder.margin, face_of))

    def _detections(self, source: Source, medium: Medium, options: DecodeOptions) -> Detections:
        assert self._options.finder is not None, "faces are detected"
        return detect_faces(source, medium.sha256, self._options.finder, options)


def _windowed(decoded: Iterator[Frames | Samples | DecodeResult], windower: Windower) -> Iterator[Part]:
    """Replaces samples by windows; the last windows come before the result."""
    for part in decoded:
        if isinstance(part, np.ndarray):
            yield from windower.push(part)
            continue
        if isinstance(part, DecodeResult):
            yield from windower.finish()
        yield part


def _without_samples(decoded: Iterator[Frames | Samples | DecodeResult]) -> Iterator[Part]:
    return (part for part in decoded if not isinstance(part, np.ndarray))
