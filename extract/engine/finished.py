"""A run that has nothing to do, recognised before any encoder is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

from ...data.errors import InputError
from ...data.manifest import Source
from ...data.store.base import Store
from ..encoders.remembered import recall
from ..media_hashes import MediaHashes, Medium
from ..options import ExtractOptions
from .progress import ClipOutcome, FailedBeforeError, Failure, Summary
from .targets import Targets
from .work_list import work_list

if TYPE_CHECKING:  # it loads torch
    from ..encoders.base import Encoder


def finished(
    arguments: Mapping[str, Any], device: str, sources: Sequence[Source], store: Store, options: ExtractOptions
) -> Summary | None:
    """Returns the summary that `extract` would return, if the cache has all clips already; else None.

    Clips that failed before from the same bytes count as done. None does not say that something is missing: encoders
    that are not remembered, and options such as `rehash`, ask for the whole way.

    Args:
        arguments: of `encoders_from`, without `device`.
        device: "auto", "cpu", "cuda", …
        sources: the clips.
        store: the cache.
        options: of the extraction.

    Raises:
        InputError: if two sources share a clip_id.
    """
    if options.overwrite or options.rehash or options.retry_failed or options.person == "all":
        return None
    encoders = recall(arguments, device)
    if encoders is None:
        return None
    start_s = perf_counter()
    targets, hashes = Targets(cast("list[Encoder]", encoders), store, options), MediaHashes()
    summary = Summary(streams=targets.streams)
    for source in work_list(sources, options):
        outcome = _outcome(source, targets, hashes)
        if outcome is None:
            return None
        summary.count(outcome)
    if options.max_failures is not None and len(summary.failures) > options.max_failures:
        return None
    summary.failures.sort(key=lambda failure: failure.clip_id)
    summary.wall_s = perf_counter() - start_s
    return summary


def _outcome(source: Source, targets: Targets, hashes: MediaHashes) -> ClipOutcome | None:
    """Returns the outcome of a clip that needs no decoding; else None."""
    try:
        if targets.needs(source, Medium.of(source, hashes)):
            return None
    except FailedBeforeError as error:
        return ClipOutcome(source.clip_id, Failure.of(source.clip_id, error))
    except (InputError, OSError):
        return None
    return ClipOutcome(source.clip_id, skipped=True)
