"""Streams that a run extracts, and which of them a clip still lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...data.manifest import Source
from ...data.store.base import Store
from ...data.store.fingerprint import stream_name
from ..identity import fingerprint_of
from ..media_hashes import Medium
from ..options import ExtractOptions
from .progress import FailedBeforeError

if TYPE_CHECKING:  # it loads torch
    from ..encoders.base import Encoder


@dataclass(frozen=True)
class Target:
    """A stream that a run extracts.

    Args:
        encoder: of the stream.
        stream: full name of the stream.
        fingerprint: of the stream.
    """

    encoder: Encoder
    stream: str
    fingerprint: dict[str, Any]

    @classmethod
    def of(cls, encoder: Encoder, options: ExtractOptions) -> Target:
        """Returns the stream of an encoder with these options."""
        fingerprint = fingerprint_of(encoder, options)
        return cls(encoder, stream_name(encoder.modality, encoder.alias, fingerprint), fingerprint)


class Targets:
    """Streams of a run by modality, compared with what the cache has.

    Args:
        encoders: one per modality.
        store: the cache.
        options: of the extraction.
    """

    def __init__(self, encoders: Sequence[Encoder], store: Store, options: ExtractOptions) -> None:
        self._store, self._options = store, options
        self._targets = {encoder.modality: Target.of(encoder, options) for encoder in encoders}
        self._failed_before = {} if options.retry_failed or options.overwrite else store.failures()

    def __getitem__(self, modality: str) -> Target:
        return self._targets[modality]

    def __contains__(self, modality: str) -> bool:
        return modality in self._targets

    @property
    def streams(self) -> list[str]:
        """Full names of the streams, sorted."""
        return sorted(target.stream for target in self._targets.values())

    def needs(self, source: Source, medium: Medium) -> tuple[str, ...]:
        """Returns the modalities that the cache lacks for a clip.

        Raises:
            FailedBeforeError: if an earlier run could not extract exactly these streams from the same bytes.
        """
        needed = {
            modality: target.stream
            for modality, target in self._targets.items()
            if self._options.overwrite or not self._store.has(source.clip_id, target.stream, medium.source_sha256)
        }
        known = self._failed_before.get(source.clip_id)
        if known and known["source_sha256"] == medium.source_sha256 and set(needed.values()) == set(known["streams"]):
            raise FailedBeforeError(known["reason"])
        return tuple(needed)
