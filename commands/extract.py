"""`sage-va extract`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from .. import data
from .console import Bar, chosen_device, echo, failures, notes, show
from .options import (
    engine_option,
    extraction_options,
    face_options,
    json_option,
    ray_address_option,
    shard_option,
    store_options,
)
from .stopping import Stop, interruptible
from .verb import AliasedOption, verb

if TYPE_CHECKING:
    from ..data import Store
    from ..data.manifest import Source
    from ..extract.encoders.factory import Recipe
    from ..extract.engine.dry_run import SizeEstimate
    from ..extract.engine.progress import Summary
    from ..extract.options import ExtractOptions


@verb("sage-va extract videos/ --out cache.zarr --visual resnet18.a1_in1k --audio microsoft/wavlm-base-plus")
@click.argument("media", nargs=-1, required=True)
@click.option("--out", "cache", required=True, help="The cache: *.zarr, *.h5 or icechunk://PLACE; new or extended.")
@click.option(
    "--visual",
    metavar="NAME",
    help="A timm model, e.g. vit_small_patch14_dinov2.lvd142m, or an encoder that a package adds.",
)
@click.option(
    "--audio",
    metavar="NAME",
    help="A wav2vec2, HuBERT, WavLM or Whisper model (hub id or directory); logmel or prosody (no weights); or "
    "an encoder that a package adds.",
)
@click.option(
    "--visual-weights",
    default="hub",
    show_default=True,
    help="hub, random (untrained), or a FILE (.safetensors, .pth).",
)
@click.option(
    "--image-size",
    type=click.IntRange(16, 4096),
    help="Height and width of the visual encoder's input in pixels; default: as the model was trained. Another size is "
    "another stream.",
)
@click.option(
    "--audio-weights",
    type=click.Choice(["hub", "random"]),
    default="hub",
    show_default=True,
    help="hub: the weights of that name or directory; random: untrained.",
)
@extraction_options
@click.option("--layer", default="last", show_default=True, help="Layer of the audio encoder: last, N, or A-B (mean).")
@click.option("--vad", is_flag=True, help="Measure the probability of voice at each audio step (needs silero-vad).")
@click.option(
    "--faces",
    type=click.Choice(["full", "crops", "detect"]),
    default="full",
    show_default=True,
    help="Input of the visual encoder: whole frames, ready-made crops (folders of 00001.jpg …), or faces that are "
    "detected, tracked and aligned.",
)
@face_options()
@click.option(
    "--fps",
    type=click.FloatRange(min=0, min_open=True),
    help="Resample video by time to this rate; for crop "
    "folders without a video, the rate of their images. Default: every frame at its own time.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Arithmetic of the encoders; auto is float32 on a CPU.",
)
@click.option(
    "--runtime",
    type=click.Choice(["torch", "openvino"]),
    default="torch",
    show_default=True,
    help="Library that computes the encoders; openvino is faster on a CPU, and another stream.",
)
@click.option(
    "--store-dtype",
    type=click.Choice(["float16", "bfloat16", "float32"]),
    default="float16",
    show_default=True,
    help="How embeddings are stored.",
)
@store_options
@click.option("--overwrite", is_flag=True, help="Compute streams again that the cache already has.")
@click.option("--rehash", is_flag=True, help="Hash all media again, also those whose hash is remembered.")
@click.option("--retry-failed", is_flag=True, help="Retry clips that failed in an earlier run.")
@click.option("--max-failures", type=click.IntRange(0), help="Stop when more clips than this have failed.")
@shard_option
@click.option(
    "--workers",
    "num_workers",
    cls=AliasedOption,
    aliases=["--jobs"],
    type=click.IntRange(1),
    help="Processes that share the clips; default: one for each GPU, or one.",
)
@engine_option
@ray_address_option
@click.option("--dry-run", is_flag=True, help="Only count clips, frames and bytes, and estimate the time.")
@json_option
def extract(
    media: tuple[str, ...],
    cache: str,
    visual: str | None,
    visual_weights: str,
    image_size: int | None,
    audio: str | None,
    audio_weights: str,
    layer: str,
    vad: bool,
    face_detector: str,
    face_weights: str | None,
    face_margin: float,
    detect_every: int,
    device: str,
    precision: str,
    runtime: str,
    licence: str | None,
    restricted: bool | None,
    shard: str | None,
    num_workers: int | None,
    engine: str,
    ray_address: str | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Caches frame-level embeddings of recordings.

    MEDIA: files, folders, globs, or a CSV/JSONL manifest with the columns clip_id and path and, optionally, subject_id,
    start_s, end_s, crops, fps, person, gender, age and language.

    A manifest that `sage-va prepare` wrote brings the licence of its corpus, and its restriction, into the cache.

    Run the command again to resume: clips that are done are skipped. A clip that fails is listed with its reason, and
    the others continue; the exit code is then 1.
    """
    from ..data.corpora.report import terms_to_record
    from ..data.manifest import find_sources
    from ..data.shard import part_of

    if not (visual or audio):
        raise click.UsageError("Name an encoder with --visual, --audio, or both.")
    others = Counter[str]()
    listed = find_sources(media, others)  # its errors come before the imports that take seconds
    if others:
        counts = ", ".join(f"{num} {suffix or 'without a suffix'}" for suffix, num in sorted(others.items()))
        echo(f"left out, no media by their names: {counts}", err=True)
    sources = part_of(listed, shard) if shard else listed

    from ..extract.encoders.factory import Recipe
    from ..extract.engine.finished import finished
    from ..extract.heap import keep_freed_memory
    from ..extract.options import ExtractOptions

    keep_freed_memory()
    finder = face_finder(options["faces"], face_detector, face_weights, face_margin, detect_every)
    extract_options = ExtractOptions(**options, finder=finder)
    names = {"visual": visual, "visual_weights": visual_weights, "audio": audio, "audio_weights": audio_weights}
    names["image_size"] = image_size
    recipe = Recipe({**names, "layer": layer, "vad": vad, "precision": precision, "runtime": runtime})
    if dry_run:
        _show_estimate(sources, recipe, device, extract_options, as_json)
        return
    present = _existing(cache)
    terms = terms_to_record(media, cache, present.root() if present else None, licence, restricted)
    summary, stop = finished(recipe.arguments, device, sources, present, extract_options) if present else None, Stop()
    if summary:
        store = _begun(cache, terms, len(listed))
        store.log("start", clips=len(sources), streams=summary.streams)
    else:
        places = {"engine": engine, "num_workers": num_workers, "ray_address": ray_address, "device": device}
        store = _begun(cache, terms, len(listed)) if present else None  # so that `status` says that it starts
        encode = _encoding(recipe, extract_options, **places)
        store = store or _begun(cache, terms, len(listed))
        with interruptible() as stop:
            summary = encode(sources, store, stop)
    show(summary, as_json, describe_extraction)
    sys.exit(stop.code if summary.interrupted else 1 if summary.failures else 0)


def _show_estimate(sources: list[Source], recipe: Recipe, device: str, options: ExtractOptions, as_json: bool) -> None:
    from ..extract.engine.dry_run import estimate

    show(estimate(sources, *recipe.make(chosen_device(device)), options), as_json, describe_estimate)


def _existing(cache: str) -> Store | None:
    """Returns the cache if there is one, else None."""
    try:
        return data.open_store(cache)
    except data.InputError:
        return None


def _begun(cache: str, terms: Mapping[str, Any], num_clips: int) -> Store:
    """Returns the cache, open for writing, with the number of clips in its journal."""
    store = data.open_store(cache, "a", **terms)
    store.log("list", clips=num_clips)
    return store


def _encoding(
    recipe: Recipe,
    options: ExtractOptions,
    *,
    engine: str,
    device: str,
    num_workers: int | None,
    ray_address: str | None,
) -> Callable[[list[Source], Store, Stop], Summary]:
    """Returns the extraction, with its encoders built or its workers found: their errors come before a new cache."""
    from ..extract.encoders.remembered import remember
    from ..extract.engine.pipeline import extract as extract_all
    from ..extract.engine.scheduler import extract_with, find_engine

    one = chosen_device(device) if engine == "local" else device
    workers = find_engine(engine, device=device, num_workers=num_workers, address=ray_address)
    visual, audio = (None, None) if workers else recipe.make(one)
    remember(recipe.arguments, device, (visual, audio))
    compile_s = sum(encoder.compile_s for encoder in (visual, audio) if encoder)
    if compile_s:
        echo(f"OpenVINO converted the encoders in {compile_s:.1f} s", err=True)

    def encode(sources: list[Source], store: Store, stop: Stop) -> Summary:
        with Bar("clips") as bar:
            if workers:
                return extract_with(workers, sources, store, recipe, options=options, progress=bar, stop=stop)
            return extract_all(sources, store, visual=visual, audio=audio, options=options, progress=bar, stop=stop)

    return encode


def face_finder(faces: str, detector: str, weights: str | None, margin: float, every: int) -> Any:
    """Returns a face finder for `--faces detect`, else None."""
    if faces != "detect":
        if weights or detector != "yunet" or every != 1:
            raise click.UsageError("--face-detector, --face-weights and --detect-every go with --faces detect.")
        return None
    from ..extract.faces.finder import FaceFinder

    return FaceFinder.of(detector, weights, margin=margin, every=every)


def describe_estimate(size: SizeEstimate) -> str:
    """Returns the text of an estimate."""
    unreadable = f", {size.num_unreadable} of them unreadable" if size.num_unreadable else ""
    duration = "" if size.estimated_s is None else f"; about {size.estimated_s / 60:.1f} min here, by a sample"
    return (
        f"{size.num_clips} clips{unreadable}; by their headers about {size.num_frames} frames, "
        f"{size.media_s / 3600:.2f} h, {size.cache_bytes / 1e6:.1f} MB of features{duration}"
    )


def describe_extraction(summary: Summary) -> str:
    """Returns the text of a summary."""
    lines = [
        f"{summary.num_done} clips done, {summary.num_skipped} there already, {len(summary.failures)} failed; "
        f"{summary.num_frames} frames and {summary.audio_s:.0f} s of audio in {summary.wall_s:.1f} s",
        f"streams: {', '.join(summary.streams)}",
        *notes({clip_id: ["no face found, all frames masked"] for clip_id in summary.without_face}),
        *notes(summary.notes),
    ]
    if summary.num_done:
        shares = {part: f"{100 * busy_s / summary.wall_s:.0f} %" for part, busy_s in summary.busy_s.items()}
        others = ", ".join(f"{part} {share}" for part, share in shares.items() if part != summary.bottleneck)
        lines.append(f"bottleneck: {summary.bottleneck}, busy {shares[summary.bottleneck]} of the time ({others})")
    if summary.batch_sizes:
        sizes = (f"{size} ({modality})" for modality, size in summary.batch_sizes.items())
        lines.append(f"items per batch: {', '.join(sizes)}")
    if summary.interrupted:
        lines.append("interrupted after the clips in work; run the same command to resume")
    return "\n".join([*lines, *failures((row.clip_id, row.reason) for row in summary.failures)])
