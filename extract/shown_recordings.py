"""Recordings of clips for the page of `sage-va view`: matched, inside one folder, converted on demand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..data.clip_preview import ClipPreview
from ..data.errors import InputError
from ..data.inside import resolve_inside
from ..data.manifest import MANIFEST_SUFFIXES, Source, crop_numbers
from .face_places import FacePlaces, detects_faces, face_places
from .playable import MP4, ConvertedCopies, Playable, has_pictures, origin_s, playable_kind
from .previews import find_recordings, preview_of

PREVIEW_BYTES = 120_000  # of the small pictures of a clip
IMAGES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png"}


@dataclass
class _Work:
    """Something that takes its time, in another thread."""

    future: Future[Any] | None = None
    share: float = 0.0


@dataclass
class ShownRecordings:
    """The recordings of clips; all of their files lie inside one folder.

    Args:
        root: the folder.
        sources: clip_id -> its recording, crops or both.
        fingerprints: of the run's streams: one of detected faces decides the crop.
        copies: of recordings that a browser cannot play.
        refused: clip_id -> why its recording is not shown.
    """

    root: Path
    sources: Mapping[str, Source]
    fingerprints: Sequence[Mapping[str, Any]]
    copies: ConvertedCopies
    refused: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._pools = {name: ThreadPoolExecutor(1, f"sage-va-{name}") for name in ("convert", "faces")}
        self._work: dict[tuple[str, str], _Work] = {}
        self._unplayable: set[str] = set()
        self._kinds: dict[str, str | None] = {}

    def medium(self, clip_id: str) -> dict[str, Any]:
        """Returns the state of a recording, and starts its conversion where it needs one."""
        if (reason := self.refused.get(clip_id)) is not None:
            return {"state": "failed", "reason": reason}
        path = self._path(clip_id)
        if path is None:
            return {"state": "none"}
        try:
            playable = self._playable(clip_id, path)
        except (InputError, OSError) as error:
            return {"state": "failed", "reason": _reason(error, clip_id)}
        if playable is None:
            return {"state": "working", "share": self._begun("convert", clip_id, self._convert).share}
        kind = "video" if has_pictures(path, clip_id) else "audio"
        converted = playable.path != path
        return {"state": "ready", "kind": kind, "origin_s": playable.origin_s, "converted": converted}

    def video(self, clip_id: str) -> tuple[Path, str] | None:
        """Returns the file to play and its media type; None where there is none (yet)."""
        path = self._path(clip_id)
        playable = None if path is None else self._playable(clip_id, path)
        return None if playable is None else (playable.path, playable.kind)

    def convert(self, clip_id: str) -> None:
        """Asks for a converted copy: the browser cannot play the recording itself."""
        if self._path(clip_id) is not None:
            self._unplayable.add(clip_id)

    def preview(self, clip_id: str, start_s: float, end_s: float) -> ClipPreview | None:
        """Returns pictures and loudness of a recording, if it can be read."""
        source = self.sources.get(clip_id)
        try:
            return None if source is None else preview_of(self._checked(source), start_s, end_s, PREVIEW_BYTES)
        except InputError:
            return None  # `medium` says why

    def crops(self, clip_id: str) -> dict[str, Any]:
        """Returns the places of the face in the recording, the numbers of ready-made crops, or why there are none."""
        source = self.sources.get(clip_id)
        if source is None or clip_id in self.refused:
            return {"state": "none"}
        if source.crops is not None:
            return {"state": "images", "numbers": sorted(crop_numbers(source.crops)), "fps": source.fps}
        if self._of_faces() is None or source.path is None:
            return {"state": "none"}
        work = self._begun("faces", clip_id, self._find_faces)
        if work.future is None or not work.future.done():
            return {"state": "working"}
        try:
            return {"state": "places", **work.future.result().to_json()}
        except (InputError, OSError) as error:
            return {"state": "failed", "reason": _reason(error, clip_id)}

    def crop(self, clip_id: str, number: int) -> tuple[Path, str] | None:
        """Returns a ready-made crop and its media type."""
        source = self.sources.get(clip_id)
        images = crop_numbers(source.crops) if source and source.crops and clip_id not in self.refused else {}
        if (image := images.get(number)) is None:
            return None
        return resolve_inside(self.root, image), IMAGES[image.suffix.lower()]

    def _path(self, clip_id: str) -> Path | None:
        source = self.sources.get(clip_id)
        if source is None or source.path is None or clip_id in self.refused:
            return None
        return resolve_inside(self.root, source.path)

    def _checked(self, source: Source) -> Source:
        """The source with its files as they are on the disk, all inside the folder."""
        path, crops = (
            None if each is None else resolve_inside(self.root, each) for each in (source.path, source.crops)
        )
        return replace(source, path=path, crops=crops)

    def _playable(self, clip_id: str, path: Path) -> Playable | None:
        """The recording or its copy; None where the copy is not yet made."""
        if clip_id not in self._kinds:
            self._kinds[clip_id] = playable_kind(path, clip_id)
        kind = None if clip_id in self._unplayable else self._kinds[clip_id]
        if kind is not None:
            return Playable(path, kind)
        work = self._work.get(("convert", clip_id))
        if work and work.future and work.future.done():
            work.future.result()
            self._work.pop(("convert", clip_id), None)  # a copy that has gone since is made again
        copy = self.copies.known(path)
        return None if copy is None else Playable(copy, MP4, origin_s(path, clip_id))

    def _begun(self, kind: str, clip_id: str, run: Callable[[str, _Work], Any]) -> _Work:
        """The work on a clip, which starts with the first call."""
        with self._lock:
            if (work := self._work.get((kind, clip_id))) is None:
                work = self._work[kind, clip_id] = _Work()
                work.future = self._pools[kind].submit(run, clip_id, work)
            return work

    def _convert(self, clip_id: str, work: _Work) -> Path:
        path = self._path(clip_id)
        assert path is not None, "checked before"

        def tick(share: float) -> None:
            self._check_open()
            work.share = share

        return self.copies.make(path, clip_id, tick)

    def _of_faces(self) -> Mapping[str, Any] | None:
        return next((fingerprint for fingerprint in self.fingerprints if detects_faces(fingerprint)), None)

    def _find_faces(self, clip_id: str, work: _Work) -> FacePlaces:
        fingerprint = self._of_faces()
        assert fingerprint is not None, "checked before"
        return face_places(self._checked(self.sources[clip_id]), fingerprint, self._check_open)

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise InputError("recordings", "they are closed", todo="Start again.")

    def close(self) -> None:
        """Gives up all work; what is half done leaves nothing behind."""
        self._closed.set()
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)


def _reason(error: Exception, clip_id: str) -> str:
    return error.about(clip_id) if isinstance(error, InputError) else f"it cannot be read or written: {error}"


def show_recordings(
    media: Path, recorded: Mapping[str, str | None], fingerprints: Sequence[Mapping[str, Any]]
) -> ShownRecordings:
    """Returns the recordings of clips below a folder, or in a manifest, whose folder then counts.

    They are matched as the report does: by the clip's name, by the path that the cache recorded, or by file name.

    Args:
        media: the folder or manifest.
        recorded: clip_id -> path of its medium as the cache has it, or None.
        fingerprints: of the run's streams.

    Raises:
        InputError: if no clip has a recording, or all recordings lie outside of the folder.
    """
    root = media if media.is_dir() else media.parent
    if media.is_file() and media.suffix.lower() not in MANIFEST_SUFFIXES:
        raise InputError("media", expected="a folder or a manifest", got=str(media), todo="Name the folder.")
    sources = find_recordings(str(media), recorded)
    if not sources:
        todo = "Name the folder or manifest that was extracted."
        expected = f"a recording of {next(iter(recorded))} or another clip of the run"
        raise InputError("media", expected=expected, got=f"none in {media}", todo=todo)
    refused = {clip_id: reason for clip_id, source in sources.items() if (reason := _outside(root, source))}
    if len(refused) == len(sources):
        clip_id, reason = next(iter(refused.items()))
        raise InputError(clip_id, reason.removesuffix("."), todo="No recording can be shown.")
    named = {clip_id: _of_person(source, clip_id) for clip_id, source in sources.items()}
    return ShownRecordings(root, named, fingerprints, ConvertedCopies(), refused)


def _outside(root: Path, source: Source) -> str | None:
    """Returns why a recording is not shown; None if it is."""
    try:
        for place in (source.path, source.crops):
            if place is not None:
                resolve_inside(root, place)
    except InputError as error:
        return str(error)
    return None


def _of_person(source: Source, clip_id: str) -> Source:
    """The source under the name of the clip, which may be that of one person in it."""
    person = clip_id.partition("#")[2]
    return replace(source, clip_id=clip_id, person=source.person or person or None)
