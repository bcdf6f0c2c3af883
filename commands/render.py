"""`sage-va render`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import Bar, chosen_device, show
from .options import device_option, json_option, moved_cache_option, moved_labels_option
from .verb import verb

if TYPE_CHECKING:
    from ..extract.render import RenderedClip


@verb("sage-va render runs/first talk_00.mp4 --media videos/ --out talk_00-film.mp4")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("clip")
@click.option(
    "--media",
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="Folder or manifest of the recordings.",
)
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The film, an .mp4.")
@moved_cache_option
@moved_labels_option
@device_option
@json_option
def render(
    run: Path, clip: str, media: Path, out: Path, cache: str | None, labels: Path | None, device: str, as_json: bool
) -> None:
    """Writes a film of one clip with its traces.

    The pictures of the clip (its crops where the manifest names a crop folder, else its frames) stand beside the traces
    that `sage-va plot` draws; a playhead moves over them, and the clip's sound plays. Each frame has the time that
    it has in the recording. CLIP is a clip of the cache, see `sage-va cache ls`.
    """
    from ..api import render_clip

    with Bar("frames") as bar:
        film = render_clip(
            run, clip, media, out, cache=cache, labels=labels, device=chosen_device(device), tick=bar.count
        )
    show(film, as_json, describe_film)


def describe_film(film: RenderedClip) -> str:
    """Returns the result of `render` as text."""
    sound = "with sound" if film.audio else "without sound"
    speed = film.num_frames / film.render_s
    return f"{film.out}: {film.num_frames} frames, {film.seconds:.2f} s, {sound}; {speed:.0f} frames per second"
