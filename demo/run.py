"""The demo: draws talking faces with synthetic ground truth and runs the public commands on them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import click

from ..data import InputError
from ..data.atomic import write_text
from .corpus import draw_corpus
from .encoders import pretrained_encoders, untrained_encoders
from .pictures import draw_pictures
from .pretrained import FACE, VOICE

SETTINGS = "demo.json"  # in the folder: what was begun there
VARIANTS = ("sage", "concat")
CONFIG = """\
data: {window_s: 8, hop_s: 4}
split: {by: clip, fractions: [0.6, 0.2, 0.2]}
model: {dim: 48, layers: 1, dropout: 0.2, input_dropout: 0.2}
loss: {calibration: 0.5, ordinal: 0.2}
train: {epochs: 14, batch_size: 8, learning_rate: 3.0e-3, weight_decay: 0.05, crossfit_folds: 2, crossfit_epochs: 8}
"""


def run_demo(out: Path, run_command: Callable[..., None], *, num_clips: int, seconds: float, seed: int) -> None:
    """Draws, extracts, verifies, trains `sage` and `concat`, scores, predicts, draws pictures and writes a report.

    A demo that was stopped resumes: finished clips and trainings are kept.

    Args:
        out: a new folder, or that of a demo with the same settings.
        run_command: runs a command of `sage-va`, given its words.
        num_clips, seconds, seed: as for `draw_corpus`.

    Raises:
        InputError: if `out` has other files in it, or is of a demo with other settings.
    """
    started = time.perf_counter()
    pretrained = FACE.place() is not None and VOICE.place() is not None
    _begin(out, {"clips": num_clips, "seconds": seconds, "seed": seed, "pretrained": pretrained})
    encoders = (pretrained_encoders if pretrained else untrained_encoders)(out / "encoders")
    click.echo("\n".join(encoders.about))
    manifest, cache, labels = str(out / "manifest.csv"), str(out / "cache.zarr"), str(out / "labels")
    if not Path(manifest).exists():  # written last
        click.secho(f"Drawing {num_clips} recordings of {seconds:g} s into {out}/media", bold=True)
        draw_corpus(out, num_clips=num_clips, seconds=seconds, fps=15, num_subjects=4, seed=seed)
    run_command("extract", manifest, "--out", cache, *encoders.options, "--licence", "CC0-1.0")
    run_command("cache", "verify", cache)
    runs = [str(out / "runs" / variant) for variant in VARIANTS]
    for variant, run in zip(VARIANTS, runs, strict=True):
        run_command("train", cache, "--labels", labels, "--out", run, "--config", str(out / "demo.yaml"),
                    "--variant", variant, "--seed", str(seed), "--resume")  # fmt: skip
    for run in runs:
        run_command("eval", run)
    run_command("predict", runs[0], cache, "--out", str(out / "predictions"))
    click.echo(draw_pictures(out, *map(Path, runs)))
    run_command("report", *runs, "--media", manifest, "--out", str(out / "report.html"))
    click.secho(f"Done in {time.perf_counter() - started:.0f} s. Open {out}/report.html in a browser.", bold=True)


def _begin(out: Path, settings: dict[str, object]) -> None:
    """Makes the folder of a demo, or checks that it holds one with these settings."""
    place = out / SETTINGS
    if place.exists():
        if place.read_text(encoding="utf-8") != json.dumps(settings):
            todo = "Choose another --out, or give the options of that demo."
            raise InputError(out, "it holds a demo with other settings or encoders", todo=todo)
    elif out.exists() and any(out.iterdir()):
        raise InputError(out, expected="a new folder", got="one with files in it", todo="Choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    write_text(place, json.dumps(settings))
    write_text(out / "demo.yaml", CONFIG)
