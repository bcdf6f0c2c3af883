"""`sage-va plot`."""

from __future__ import annotations

from pathlib import Path

import click

from .console import chosen_device, echo
from .options import device_option, moved_cache_option, moved_labels_option
from .verb import verb


@verb("sage-va plot runs/first talk_00 --out talk_00.svg")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("clip")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="A .png, .svg or .pdf.")
@moved_cache_option
@moved_labels_option
@device_option
def plot(run: Path, clip: str, out: Path, cache: str | None, labels: Path | None, device: str) -> None:
    """Draws one clip of a run over time.

    The picture shows valence and arousal with the gold standard, reliability and weight of each stream, masked steps
    and stages. CLIP is a clip of the cache, see `sage-va cache ls`.
    """
    from ..api import plot_clip
    from ..fusion.evaluation.style import check_picture, save_picture

    check_picture(out)
    save_picture(plot_clip(run, clip, cache=cache, labels=labels, device=chosen_device(device)), out)
    echo(str(out))
