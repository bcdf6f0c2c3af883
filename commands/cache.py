"""`sage-va cache`: its group and its verbs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import data
from .console import Bar, failures, show
from .options import clips_option, entry_workers_option, json_option, store_options
from .verb import AliasedOption, VerbGroup, example_of, verb

if TYPE_CHECKING:
    from ..data.maintenance import Garbage, Repaired, Verified
    from ..data.store.base import Problem
    from ..data.store.info import CacheInfo, ClipList
    from ..data.transfer.copy import Copied
    from ..data.transfer.exporter import Exported
    from ..data.transfer.importer import Imported


@click.group("cache", cls=VerbGroup, epilog=example_of("sage-va cache info cache.zarr"))
def cache_group() -> None:
    """Inspects, checks, fills, repairs and shares caches."""


@verb("sage-va cache info cache.zarr", "info", cache_group)
@click.argument("cache")
@json_option
def info(cache: str, as_json: bool) -> None:
    """Shows streams, size, terms of use and content hash.

    Entries with a damaged record are listed and not counted; the exit code is then 1.
    """
    from ..data.store.info import info as look

    result = look(data.open_store(cache))
    show(result, as_json, describe_info)
    sys.exit(1 if result.damaged else 0)


@verb("sage-va cache ls cache.zarr", "ls", cache_group)
@click.argument("cache")
@json_option
def ls(cache: str, as_json: bool) -> None:
    """Lists clips and their streams.

    Entries with a damaged record are listed as such; the exit code is then 1.
    """
    from ..data.store.info import list_clips

    result = list_clips(data.open_store(cache))
    show(result, as_json, describe_clips)
    sys.exit(1 if result.damaged else 0)


@verb("sage-va cache verify cache.zarr --subset 1/7", "verify", cache_group)
@click.argument("cache")
@click.option("--subset", metavar="K/N|P%", help="A fixed part of the entries, such as 1/7 or 5%.")
@entry_workers_option
@json_option
def verify(cache: str, subset: str | None, jobs: int, as_json: bool) -> None:
    """Compares every byte with its checksum.

    Damaged clips and streams are listed; the exit code is then 1.
    """
    from ..data.maintenance import verify as check

    with Bar("entries") as bar:
        result = check(data.open_store(cache), bar.tick, subset=subset, jobs=jobs)
    show(result, as_json, describe_verified)
    sys.exit(1 if result.problems else 0)


@verb("sage-va cache repair cache.zarr", "repair", cache_group)
@click.argument("cache")
@entry_workers_option
@json_option
def repair(cache: str, jobs: int, as_json: bool) -> None:
    """Removes damaged streams and restores metadata.

    The next `extract` makes the removed streams again.
    """
    from ..data.maintenance import repair as mend

    with Bar("entries") as bar:
        result = mend(cache, bar.tick, jobs=jobs)
    show(result, as_json, describe_repaired)


@verb("sage-va cache gc cache.zarr --dry-run", "gc", cache_group)
@click.argument("cache")
@click.option("--dry-run", is_flag=True, help="Only list what would be removed.")
@json_option
def gc(cache: str, dry_run: bool, as_json: bool) -> None:
    """Removes what is no longer used.

    These are streams whose alias points to a newer one, files left by interrupted writers, and memory-mapped caches
    of an older state.
    """
    from ..data.maintenance import collect_garbage

    show(collect_garbage(cache, dry_run=dry_run), as_json, describe_garbage)


@verb("sage-va cache alias cache.zarr visual/dinov2 visual/dinov2-1a2b3c4d", "alias", cache_group)
@click.argument("cache")
@click.argument("alias")
@click.argument("stream")
@json_option
def alias(cache: str, alias: str, stream: str, as_json: bool) -> None:
    """Points an alias to a stream.

    ALIAS is MODALITY/NAME, such as visual/dinov2; STREAM is, for example, an older stream beside the newest.
    """
    full = data.open_store(cache).resolve(stream)
    store = data.open_store(cache, "a")
    store.point(full, alias)
    show({"alias": alias, "stream": full}, as_json, lambda result: f"{result['alias']} -> {result['stream']}")


@verb("sage-va cache tag icechunk://cache v1", "tag", cache_group)
@click.argument("cache")
@click.argument("name", required=False)
@json_option
def tag(cache: str, name: str | None, as_json: bool) -> None:
    """Names the state of an Icechunk cache, or lists its history.

    The named state is read as icechunk://PLACE@NAME. Without NAME, the history is printed.
    """
    from ..data.store.icechunk_store import icechunk_store

    store = icechunk_store(cache, "r")
    if name:
        store = icechunk_store(cache, "a")
        store.tag(name)
    rows = [{"snapshot": id_, "time": when.isoformat(), "message": said} for id_, when, said in store.history()]
    show({"url": cache, "history": rows}, as_json, describe_history)


@verb("sage-va cache copy cache.zarr hf://datasets/USER/NAME", "copy", cache_group)
@click.argument("source")
@click.argument("destination")
@clips_option
@click.option(
    "--stream",
    "streams",
    cls=AliasedOption,
    aliases=["--streams"],
    multiple=True,
    metavar="NAME",
    help="Only this stream: an alias, modality or full name; may be repeated.",
)
@click.option("--i-have-permission", "permission", is_flag=True, help="Copy a restricted cache off this machine.")
@entry_workers_option
@json_option
def copy(source: str, destination: str, as_json: bool, **options: Any) -> None:
    """Copies a cache: push, pull or convert.

    Entries that DESTINATION lacks are copied and verified at both ends. Run the command again to resume. SOURCE and
    DESTINATION are caches: x.zarr, x.h5, x.zarr.zip, x.packs, icechunk://PLACE[@tag], s3://…, gs://…,
    hf://datasets/USER/NAME, or (SOURCE only) https://….
    """
    from ..data.transfer.copy import copy as copy_all

    with Bar("entries") as bar:
        result = copy_all(source, destination, progress=bar.tick, **options)
    show(result, as_json, describe_copied)
    sys.exit(1 if result.failures else 0)


@verb("sage-va cache import openface/ --stream visual/openface --out cache.zarr", "import", cache_group)
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--stream", required=True, metavar="MODALITY/NAME", help="For example visual/openface or audio/egemaps.")
@click.option("--out", "cache", required=True, help="The cache: *.zarr, *.h5 or icechunk://PLACE; new or extended.")
@click.option(
    "--hz",
    type=click.FloatRange(min=0, min_open=True),
    help="Rows per second, where the files have no times.",
)
@click.option(
    "--time-column",
    metavar="NAME:s|ms",
    help="The times in the files and their unit: timestamp:ms (MuSe), timestamp:s (OpenFace). Not needed for time_s, "
    "time_ms.",
)
@click.option(
    "--column",
    "columns",
    cls=AliasedOption,
    aliases=["--columns"],
    multiple=True,
    metavar="PATTERN",
    help="CSV columns to take, e.g. 'AU*_r'; may be repeated. Default: all numbers but times, segment_id, "
    "frame, face_id; OpenFace's success masks rows, confidence becomes quality.",
)
@click.option("--key", help="Name of the array, where a file or group holds several.")
@click.option("--overwrite", is_flag=True, help="Replace entries of these clips and this stream.")
@click.option(
    "--labels",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Also check each clip's length against its labels.",
)
@store_options
@json_option
def import_(
    source: Path, cache: str, licence: str | None, restricted: bool | None, as_json: bool, **options: Any
) -> None:
    """Imports features from files.

    SOURCE is a folder of CLIP.npy, .npz, .csv, .h5 or .safetensors (rows = frames), one such file, or one .npz, .h5
    or .safetensors of many clips.
    """
    from ..data.transfer.importer import check_import, import_features

    check_import(source, **{name: options[name] for name in ("stream", "hz", "key", "time_column", "columns")})
    store = data.open_store(cache, "a", licence=licence, restricted=restricted)
    result = import_features(store, source, **options)
    store.finish()
    show(result, as_json, describe_import)
    sys.exit(1 if result.failures else 0)


@verb("sage-va cache export cache.zarr --stream visual --out features/ --format csv", "export", cache_group)
@click.argument("cache")
@click.option("--stream", required=True, metavar="NAME", help="Alias, modality or full name.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="A new folder, or one of the same export to resume."
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["npy", "csv"]),
    default="npy",
    show_default=True,
    help="npy: CLIP.npy and CLIP.frames.npy (time, mask, quality); csv: time_s, mask, quality, feat_0 …",
)
@clips_option
@click.option("--i-have-permission", "permission", is_flag=True, help="Export a restricted cache.")
@json_option
def export(cache: str, as_json: bool, **options: Any) -> None:
    """Exports one stream to files.

    The terms of use are written beside them in cache.json.
    """
    from ..data.transfer.exporter import export as write_all

    result = write_all(data.open_store(cache), **options)
    show(result, as_json, describe_exported)
    sys.exit(1 if result.failures else 0)


def describe_import(result: Imported) -> str:
    """Returns the result of `import` as text."""
    first = f"{len(result.clips)} clips in {result.stream} (alias {data.stream_alias(result.stream)})"
    return "\n".join([first, *failures((row.clip_id, row.reason) for row in result.failures)])


def describe_info(result: CacheInfo) -> str:
    """Returns the result of `info` as text."""
    lines = [
        f"{result.url}: {result.clips} clips, {result.hours:.2f} h, schema {result.schema_version}, "
        f"licence {result.licence or 'not stated'}{', RESTRICTED' if result.restricted else ''}",
        f"content {(result.content_sha256 or 'damaged')[:16]}, made by {result.created_by}",
    ]
    for name, row in result.streams.items():
        encoder = row.fingerprint.get("encoder", {})
        note = "  RANDOM WEIGHTS" if encoder.get("weights") == "random" else ""
        valid = 100 * row.valid / max(1, row.frames)
        called = f"  <- {', '.join(row.aliases)}" if row.aliases else "  (no alias)"
        size = f"{row.frames} frames x {row.dim} {row.dtype}" if row.dim is not None else "no sound record"
        lines.append(f"  {name}: {row.clips} clips, {size}, {valid:.1f} % valid{note}{called}")
    return "\n".join([*lines, *_damage(result.damaged)])


def _damage(problems: list[Problem]) -> list[str]:
    """Returns a line for each entry with a damaged record."""
    return [f"damaged: {p.clip_id} {p.stream}: {p.what}. Run `sage-va cache repair`" for p in problems]


def describe_clips(result: ClipList) -> str:
    """Returns the result of `list_clips` as text."""
    width = max((len(row.clip_id) for row in result.clips), default=0)
    lines = []
    for row in result.clips:
        streams = ", ".join(f"{name} ({frames})" for name, frames in row.streams.items())
        seconds = "       ?" if row.duration_s is None else f"{row.duration_s:8.2f}"
        lines.append(f"{row.clip_id:<{width}} {seconds} s  {row.subject_id or '-'}  {streams}")
    return "\n".join([*lines, *_damage(result.damaged)])


def describe_verified(result: Verified) -> str:
    """Returns the result of `verify` as text."""
    lines = [f"{p.clip_id} {p.stream}: {p.what}".removeprefix(" : ") for p in result.problems]
    lines += [
        f"{place}: left by an interrupted writer; harmless, the next writer removes it" for place in result.leftovers
    ]
    verdict = f"{(num := len(result.problems))} problem{'s' * (num > 1)}" if result.problems else "whole"
    todo = ". Run `sage-va cache repair`, then extract again" if result.problems else ""
    return "\n".join([*lines, f"{result.url}: {result.streams_checked} streams checked, {verdict}{todo}"])


def describe_repaired(result: Repaired) -> str:
    """Returns the result of `repair` as text."""
    lines = [*result.done]
    lines += [f"removed: {row.clip_id} {row.stream}: {row.what}" for row in result.requeued]
    if result.requeued:
        verdict = f"{len(result.requeued)} damaged streams removed; run the same `extract` to make them again"
    else:
        verdict = "no damaged streams"
    return "\n".join([*lines, f"{result.url}: {verdict}"])


def describe_garbage(result: Garbage) -> str:
    """Returns the result of `collect_garbage` as text."""
    verb = "would remove" if result.dry_run else "removed"
    lines = [
        f"{verb} {row.stream}: {row.clips} clips, {row.bytes / 1e6:.1f} MB, replaced by a newer stream"
        for row in result.streams
    ]
    lines += [f"{verb} {place}, left by an interrupted writer" for place in result.leftovers]
    lines += result.done
    lines += [f"{verb} a memory-mapped cache of {form.bytes / 1e6:.1f} MB" for form in result.forms]
    return "\n".join(lines or ["nothing to remove"])


def describe_history(result: dict[str, Any]) -> str:
    """Returns the snapshots as text, newest first."""
    return "\n".join(f"{row['snapshot']}  {row['time']}  {row['message']}" for row in result["history"])


def describe_copied(result: Copied) -> str:
    """Returns the result of `copy` as text."""
    objects = f" in {result.objects} objects" if result.objects else ""
    lines = [
        f"{result.copied} entries copied ({result.bytes / 1e6:.1f} MB{objects}), "
        f"{result.skipped} there already, {len(result.failures)} failed"
    ]
    if result.content_sha256:
        lines.append(f"content {result.content_sha256[:16]}")
    return "\n".join([*lines, *failures((f"{clip} {stream}", reason) for clip, stream, reason in result.failures)])


def describe_exported(result: Exported) -> str:
    """Returns the result of `export` as text."""
    lines = [f"{len(result.clips)} clips of {result.stream}"]
    return "\n".join([*lines, *failures(result.failures)])
