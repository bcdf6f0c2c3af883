"""`sage-va prepare`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import show
from .options import json_option
from .verb import verb

if TYPE_CHECKING:
    from ..data.corpora.prepare import Header
    from ..data.corpora.report import Preparation, PreparedClip

VISUAL, AUDIO = "--visual vit_small_patch14_dinov2.lvd142m", "--audio facebook/wav2vec2-base"
SHOWN_CLIPS = 3


@verb("sage-va prepare affwild2 Aff-Wild2/ --out prepared/")
@click.argument("corpus", metavar="CORPUS")
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write, which must be new.")
@click.option(
    "--gold",
    type=click.Choice(["mean", "ewe", "aligned"]),
    default="mean",
    show_default=True,
    help="How several annotators become one gold standard: their mean, weighted by agreement (EWE), or shifted in time "
    "onto each other and then weighted. Without effect where a release has one.",
)
@click.option("--dry-run", is_flag=True, help="Only report.")
@json_option
def prepare(corpus: str, root: Path, out: Path, gold: str, dry_run: bool, as_json: bool) -> None:
    """Prepares a published corpus: manifest, labels, split.

    CORPUS: affwild2, muse, recola, sewa, iemocap, a corpus that a package adds, or folder, for own recordings with
    annotations (ELAN, CSV, ARFF, audformat). ROOT: the folder in which its archives were unpacked; folders may be
    nested and named in any way.

    Reports what is missing or odd, clip by clip, and prints the commands that follow. The exit code is 1 if a clip
    lacks something; all others are prepared.
    """
    from ..data.corpora.base import find_corpus
    from ..data.corpora.prepare import prepare as prepare_corpus

    report = prepare_corpus(find_corpus(corpus)(gold), root, out, write=not dry_run, header_of=_header_of())
    show(report, as_json, lambda report: describe_preparation(report, corpus))
    sys.exit(1 if report.num_problems else 0)


def _header_of() -> Callable[[Path], Header] | None:
    """Returns what reads the header of a recording, or None where PyAV is not installed."""
    try:
        from ..extract.decode.container import read_header
    except ModuleNotFoundError:
        return None
    return read_header


def describe_preparation(report: Preparation, corpus: str) -> str:
    """Returns the text of a report: counts, notes, problems, then the commands that follow."""
    parts = {part: report.count(part) for part in ("train", "val", "test")}
    split = ", ".join(f"{count} {part}" for part, count in parts.items() if count) or "no official split"
    lines = [f"{report.title}: {len(report.clips)} clips ({split}), {report.num_sources} with media"]
    if report.num_audio:
        lines.append(f"{report.num_audio} videos without sound; their audio files are extracted by audio.csv")
    restricted = ", restricted: caches, copies and models of it are marked" if report.restricted else ""
    lines += [
        *_shares(report.clips),
        f"subjects: {report.subjects}",
        f"licence: {report.licence or 'not stated'}{restricted}",
    ]
    for target, one in report.agreement.items():
        how = f"CCC {one.ccc:.3f} (mean over pairs and clips), Cronbach's alpha {one.alpha:.3f}; gold: {report.gold}"
        lines.append(f"agreement of {one.num_annotators} annotators, {target}: {how}")
    lines += [f"- {note}" for note in [*report.notes, *_grouped(report.clips)]]
    lines += [f"! {problem}" for problem in report.problems]
    lines += [f"! {clip.clip_id}: {problem}" for clip in report.clips for problem in clip.problems]
    if report.out:
        lines += ["", "next:", *(f"  {command}" for command in next_commands(report, corpus))]
    return "\n".join(lines)


def _shares(clips: Sequence[PreparedClip]) -> list[str]:
    """Returns lines about all clips together: label rows, rows that are not annotated, frames without a crop."""
    rows = _sum(clips, lambda clip: clip.num_label_rows)
    lines = []
    if rows:
        share = 100 * _sum(clips, lambda clip: clip.num_not_annotated) / rows
        lines.append(f"{rows} label rows, {share:.1f} % of them not annotated")
    num_crops = _sum(clips, lambda clip: clip.num_crops)
    if num_crops:
        num_lacking = _sum(clips, lambda clip: clip.num_without_crop)
        worst = max(clips, key=lambda clip: clip.num_without_crop or 0)
        most = f", most of them {worst.clip_id}: {worst.num_without_crop}" if num_lacking else ""
        lines.append(f"{num_crops} crops; {num_lacking} frames have none{most}")
    return lines


def _sum(clips: Sequence[PreparedClip], count: Callable[[PreparedClip], int | None]) -> int:
    return sum(count(clip) or 0 for clip in clips)


def _grouped(clips: Sequence[PreparedClip]) -> list[str]:
    """Returns a line for each kind of note, with a few of its clips."""
    kinds: dict[str, list[str]] = {}
    for clip in clips:
        for kind, detail in clip.notes.items():
            kinds.setdefault(kind, []).append(f"{clip.clip_id}: {detail}")
    shown = {
        kind: f"{'; '.join(texts[:SHOWN_CLIPS])}{'; …' * (len(texts) > SHOWN_CLIPS)}" for kind, texts in kinds.items()
    }
    return [f"{kind}, {len(kinds[kind])} clips ({text})" for kind, text in shown.items()]


def next_commands(report: Preparation, corpus: str) -> list[str]:
    """Returns the commands that follow, ready to be pasted."""
    run = f"runs/{corpus}"
    manifest, audio, cache, labels = (
        shlex.quote(str(Path(report.out or "", name))) for name in ("manifest.csv", "audio.csv", "cache.zarr", "labels")
    )
    faces = f"--faces {'crops' if report.has_crops else 'detect'}"
    encoders = VISUAL if report.num_audio else f"{VISUAL} {AUDIO}"
    extract = [f"sage-va extract {manifest} --out {cache} {encoders} {faces}"] * bool(report.num_sources)
    return [
        *extract,
        *[f"sage-va extract {audio} --out {cache} {AUDIO}"] * bool(report.num_audio),
        f"sage-va sync-check {cache} --labels {labels}",
        f"sage-va train {cache} --labels {labels} --out {run}",
        f"sage-va eval {run}",
        *_submission(report, run),
    ]


def _submission(report: Preparation, run: str) -> list[str]:
    if report.sample is None:
        return []
    sample = f"--sample {shlex.quote(report.sample)}"
    return [
        f"sage-va submission make {run} {sample} --out submission.txt",
        f"sage-va submission check submission.txt {sample}",
    ]
