"""`sage-va faces`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import show
from .extract import face_finder
from .options import face_options, json_option
from .verb import verb

if TYPE_CHECKING:
    from ..extract.faces.people import FaceReport


@verb("sage-va faces clip.mp4 --out crops.mp4")
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
    detect_every: int,
    as_json: bool,
) -> None:
    """Writes a video of the face crops of CLIP.

    It shows what `extract --faces detect` encodes; frames without a face are grey.
    """
    from ..data.manifest import Source
    from ..extract.faces.preview import write_preview

    if person == "all":
        raise click.UsageError("Name one person: largest, left or right.")
    source = Source(clip.name, path=clip, person=person)
    finder = face_finder("detect", face_detector, face_weights, face_margin, detect_every)
    show(write_preview(source, out, finder), as_json, describe_faces)


def describe_faces(report: FaceReport) -> str:
    """Returns the text of a report."""
    return "\n".join(f"{name}: {value}" for name, value in report.to_json().items())
