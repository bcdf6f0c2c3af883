"""The verbs of `sage-va cache`: parse, call, print. No logic lives here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from .data import open_store, stream_alias
from .terminal import Bar, failures, json_option, show

Command = TypeVar("Command", bound=Callable[..., Any])
jobs_option = click.option("--jobs", type=click.IntRange(1), default=4, show_default=True, help="Entries at once.")


def store_options(command: Command) -> Command:
    """Terms of use for a command that may make a cache."""
    licence = click.option("--licence", help="Terms of use to record in a new cache.")
    restricted = click.option(
        "--restricted/--unrestricted",
        default=None,
        help="Whether a new cache may leave this machine only with permission.",
    )
    return licence(restricted(command))


@click.group("cache")
def cache_group() -> None:
    """Look into, check, fill, mend and share feature caches."""


@cache_group.command("info")
@click.argument("cache")
@json_option
def info(cache: str, as_json: bool) -> None:
    """What a cache holds: streams, aliases, clips, hours, terms of use, content hash."""
    from .data.store.info import describe_info
    from .data.store.info import info as look

    show(look(open_store(cache)), as_json, describe_info)


@cache_group.command("ls")
@click.argument("cache")
@json_option
def ls(cache: str, as_json: bool) -> None:
    """The clips of a cache and their streams."""
    from .data.store.info import describe_clips, list_clips

    show(list_clips(open_store(cache)), as_json, describe_clips)


@cache_group.command("verify")
@click.argument("cache")
@click.option("--subset", metavar="K/N|P%", help="A fixed part of the entries, such as 1/7 or 5%.")
@jobs_option
@json_option
def verify(cache: str, subset: str | None, jobs: int, as_json: bool) -> None:
    """Reads every byte against its checksum; names damaged clips and streams; exit code 1 if there are any."""
    from .data.maintenance import describe_verified
    from .data.maintenance import verify as check

    with Bar("entries") as bar:
        found = check(open_store(cache), bar.tick, subset=subset, jobs=jobs)
    show(found, as_json, describe_verified)
    sys.exit(1 if found["problems"] else 0)


@cache_group.command("repair")
@click.argument("cache")
@jobs_option
@json_option
def repair(cache: str, jobs: int, as_json: bool) -> None:
    """Takes damaged streams out, so that the next `extract` makes just those again; restores the rest."""
    from .data.maintenance import describe_repaired
    from .data.maintenance import repair as mend

    with Bar("entries") as bar:
        found = mend(cache, bar.tick, jobs=jobs)
    show(found, as_json, describe_repaired)


@cache_group.command("gc")
@click.argument("cache")
@click.option("--dry-run", is_flag=True, help="Only tell what would go.")
@json_option
def gc(cache: str, dry_run: bool, as_json: bool) -> None:
    """Removes streams whose alias means another now, leftovers of killed writers, and training forms of no more use."""
    from .data.maintenance import collect_garbage, describe_garbage

    show(collect_garbage(cache, dry_run=dry_run), as_json, describe_garbage)


@cache_group.command("alias")
@click.argument("cache")
@click.argument("alias")
@click.argument("stream")
@json_option
def alias(cache: str, alias: str, stream: str, as_json: bool) -> None:
    """Points ALIAS (visual/NAME or audio/NAME) to STREAM, for example to an older one beside the newest."""
    full = open_store(cache).resolve(stream)
    store = open_store(cache, "a")
    store.point(full, alias)
    show({"alias": alias, "stream": full}, as_json, lambda found: f"{found['alias']} -> {found['stream']}")


@cache_group.command("tag")
@click.argument("cache")
@click.argument("name", required=False)
@json_option
def tag(cache: str, name: str | None, as_json: bool) -> None:
    """Names the present state of an Icechunk cache (read it as icechunk://PLACE@NAME); without NAME, its history."""
    from .data.store.icechunk_store import describe_history, icechunk_store

    store = icechunk_store(cache, "r")
    if name:
        store = icechunk_store(cache, "a")
        store.tag(name)
    rows = [{"snapshot": id_, "time": when.isoformat(), "message": said} for id_, when, said in store.history()]
    show({"url": cache, "history": rows}, as_json, describe_history)


@cache_group.command("copy")
@click.argument("source")
@click.argument("destination")
@click.option("--clips", multiple=True, metavar="ID|GLOB", help="Only these clips.")
@click.option("--streams", multiple=True, metavar="NAME", help="Only these streams: aliases, modalities or full names.")
@click.option("--i-have-permission", "permission", is_flag=True, help="Copy a restricted cache off this machine.")
@jobs_option
@json_option
def copy(source: str, destination: str, as_json: bool, **options: Any) -> None:
    """Push, pull and convert: copies what DESTINATION lacks, checked at both ends. Run it again to resume.

    Each is a cache: x.zarr, x.h5, x.zarr.zip, x.packs, icechunk://PLACE[@tag], s3://…, gs://…,
    hf://datasets/USER/NAME, or (SOURCE only) https://….
    """
    from .data.transfer.copy import copy as copy_all
    from .data.transfer.copy import describe_copied

    with Bar("entries") as bar:
        found = copy_all(source, destination, progress=bar.tick, **options)
    show(asdict(found), as_json, describe_copied)
    sys.exit(1 if found.failures else 0)


@cache_group.command("import")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--stream", required=True, metavar="MODALITY/NAME", help="For example visual/openface or audio/egemaps.")
@click.option("--out", "cache", required=True, help="The cache: *.zarr, *.h5 or icechunk://PLACE; made or added to.")
@click.option(
    "--hz",
    type=click.FloatRange(min=0, min_open=True),
    help="Rows per second, where the files have no times of their own.",
)
@click.option(
    "--time-column",
    metavar="NAME:s|ms",
    help="The times in the files and their unit: timestamp:ms (MuSe), timestamp:s (OpenFace). Not needed for time_s, "
    "time_ms.",
)
@click.option(
    "--columns",
    multiple=True,
    metavar="PATTERN",
    help="CSV columns to take, e.g. 'AU*_r'. Default: all numbers but times, segment_id, frame, face_id; OpenFace's "
    "success masks rows, confidence becomes quality.",
)
@click.option("--key", help="Which array, where a file or a clip's group holds several.")
@click.option("--overwrite", is_flag=True, help="Replace what the cache has of these clips under this stream.")
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
    """Adds features that you have.

    SOURCE is a folder of CLIP.npy, .npz, .csv, .h5 or .safetensors (rows = frames), one such file, or one .npz, .h5
    or .safetensors of many clips.
    """
    from .data.transfer.importer import check_import, import_features

    check_import(source, **{name: options[name] for name in ("stream", "hz", "key", "time_column", "columns")})
    store = open_store(cache, "a", licence=licence, restricted=restricted)
    name, done, failed = import_features(store, source, **options)
    store.finish()
    rows = [{"clip_id": clip_id, "reason": reason} for clip_id, reason in failed]
    show({"stream": name, "clips": done, "failures": rows}, as_json, _describe_import)
    sys.exit(1 if failed else 0)


@cache_group.command("export")
@click.argument("cache")
@click.option("--stream", required=True, metavar="NAME", help="Alias, modality or full name.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="A new folder, or one that the same export began."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["npy", "csv"]),
    default="npy",
    show_default=True,
    help="npy: CLIP.npy and CLIP.frames.npy (time, mask, quality); csv: time_s, mask, quality, feat_0 …",
)
@click.option("--clip", "clips", multiple=True, metavar="ID", help="Only these clips.")
@click.option("--i-have-permission", "permission", is_flag=True, help="Export a restricted cache.")
@json_option
def export(cache: str, as_json: bool, **options: Any) -> None:
    """Writes one stream as files that any program reads; the terms of use go with them in cache.json."""
    from .data.transfer.exporter import describe_export
    from .data.transfer.exporter import export as write_all

    found = write_all(open_store(cache), **options)
    show(asdict(found), as_json, describe_export)
    sys.exit(1 if found.failures else 0)


def _describe_import(found: dict[str, Any]) -> str:
    first = f"{len(found['clips'])} clips in {found['stream']} (alias {stream_alias(found['stream'])})"
    return "\n".join([first, *failures(found["failures"])])
