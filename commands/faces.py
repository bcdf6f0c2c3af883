"""`sage-va faces`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import Bar, failures, show
from .extract import face_finder
from .options import face_options, json_option
from .verb import verb

if TYPE_CHECKING:
    from ..extract.faces.crop_folder import CropFolders
    from ..extract.faces.finder import FaceFinder
    from ..extract.faces.people import FaceReport

PREVIEW_MARGIN = 0.2


@verb("sage-va faces videos/ --out crops/")
@click.argument("media", nargs=-1, required=True)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder for a folder of crops per clip; or, for a single clip, a video to write, an .mp4.",
)
@face_options(margin=None)
@json_option
def faces(media: tuple[str, ...], out: Path, person: str, face_margin: float | None, as_json: bool, **how: Any) -> None:
    """Writes the face crops of recordings as images or a video.

    As folders in the way of Aff-Wild2: NAME/00001.jpg shows frame 1 of NAME.mp4, aligned by five landmarks to the
    ArcFace template in 112 x 112 pixels; a frame without the face has no file. --person left, right and all write
    NAME_left, NAME_right, NAME_0 …. Folders that are there already are left alone.

    As a video (--out FILE.mp4) it shows what `extract --faces detect` encodes; frames without a face are grey.
    """
    from ..data.manifest import find_sources

    sources = find_sources(media)
    detector = (how["face_detector"], how["face_weights"])
    if out.suffix.lower() == ".mp4":
        if person == "all" or len(sources) > 1:
            raise click.UsageError("Name one clip and one person (largest, left or right), or a folder as --out.")
        margin = PREVIEW_MARGIN if face_margin is None else face_margin
        _show_preview(sources[0], out, person, face_finder("detect", *detector, margin, how["detect_every"]), as_json)
        return
    from ..data.crops import AFFWILD2, CropTemplate
    from ..data.machine import num_cores
    from ..extract.faces.crop_folder import write_crop_folders

    template = CropTemplate(margin=AFFWILD2.margin if face_margin is None else face_margin)
    finder = face_finder("detect", *detector, template.margin, how["detect_every"])
    with Bar("clips") as bar:
        options = {"person": person, "template": template, "num_threads": num_cores(), "tick": bar.count}
        result = write_crop_folders(sources, out, finder, **options)
    show(result, as_json, describe_folders)
    sys.exit(1 if result.failures else 0)


def _show_preview(source: Any, out: Path, person: str, finder: FaceFinder, as_json: bool) -> None:
    from dataclasses import replace

    from ..extract.faces.preview import write_preview

    chosen = source if source.person else replace(source, person=person)
    show(write_preview(chosen, out, finder), as_json, describe_faces)


def describe_faces(report: FaceReport) -> str:
    """Returns the text of a report."""
    return "\n".join(f"{name}: {value}" for name, value in report.to_json().items())


def describe_folders(result: CropFolders) -> str:
    """Returns the text of the result of `write_crop_folders`."""
    there = f", {len(result.skipped)} there already" if result.skipped else ""
    lines = [f"{len(result.written)} folders of crops -> {result.out}{there}, {len(result.failures)} failed"]
    for name, report in sorted(result.written.items()):
        share = 100 * report.num_images_with_face / report.num_images
        people = f"{report.num_people} {'person' if report.num_people == 1 else 'people'}"
        lines.append(f"  {name}: {report.num_images_with_face} of {report.num_images} frames ({share:.0f} %), {people}")
    return "\n".join([*lines, *failures((row["clip_id"], row["reason"]) for row in result.failures)])
