"""`sage-va eval` and `sage-va calibrate`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import Bar, chosen_device, show
from .options import (
    device_option,
    encoder_place_options,
    json_option,
    moved_cache_option,
    moved_labels_option,
    split_option,
)
from .verb import verb

if TYPE_CHECKING:  # these import torch
    from ..fusion.evaluation.groups import GroupReport
    from ..fusion.evaluation.media_robustness import MediaReport, MediaRobustness, MediaScore
    from ..fusion.evaluation.metrics import Interval
    from ..fusion.evaluation.paired import Gain
    from ..fusion.evaluation.reliability import ReliabilityReport
    from ..fusion.evaluation.robustness import Robustness, RobustnessReport
    from ..fusion.evaluation.score import Score
    from ..fusion.training.calibrate import CalibrationReport


@verb("sage-va eval runs/first --split test", name="eval")
@click.argument(
    "runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@moved_cache_option
@moved_labels_option
@split_option
@click.option(
    "--by",
    metavar="COLUMN",
    help="Score groups of clips too: subject, or a column of --groups such as gender, age (by ten years), language.",
)
@click.option(
    "--groups",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The manifest, or another CSV or JSONL with clip_id or subject_id and the column of --by.",
)
@click.option(
    "--robustness",
    "robust",
    is_flag=True,
    help="Score with masked, noisy, delayed and wrong streams; compares several runs.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="With --robustness: folder for JSON, CSV and plots.",
)
@click.option(
    "--media",
    multiple=True,
    metavar="PLACE",
    help="With --robustness: corrupt these recordings (as `extract` was given them) instead of the cached streams.",
)
@encoder_place_options
@device_option
@json_option
def evaluate(
    runs: tuple[Path, ...],
    by: str | None,
    groups: Path | None,
    robust: bool,
    out: Path | None,
    media: tuple[str, ...],
    visual_weights: str | None,
    audio: str | None,
    face_weights: str | None,
    device: str,
    as_json: bool,
    **places: Any,
) -> None:
    """Scores a run by CCC, or several runs together.

    One CCC per target over all labelled instants of a split, raw and smoothed. For a cross-validation run, the held-out
    clips of all folds are pooled. Of several runs, the mean of their predictions is scored, as `predict` averages them;
    they must be scored on the same clips. With --robustness, each is scored by itself.
    """
    local = {"visual_weights": visual_weights, "audio": audio, "face_weights": face_weights}
    _check_options(runs, robust, out, media, local)
    if (groups and not by) or (by and robust):
        raise click.UsageError("--groups goes with --by, and --by with a plain score.")
    places["device"] = chosen_device(device)
    if not robust:
        from ..fusion.evaluation.ensemble import score_ensemble
        from ..fusion.evaluation.groups import Grouping
        from ..fusion.evaluation.score import score_run

        places["grouping"] = Grouping.of(by, groups) if by else None
        score = score_run(runs[0], **places) if len(runs) == 1 else score_ensemble(runs, **places)
        show(score, as_json, describe_score)
    elif media:
        _evaluate_media(runs, media, out, as_json, {**places, **local})
    else:
        _evaluate_streams(runs, out, as_json, places)


def _check_options(
    runs: Sequence[Path], robust: bool, out: Path | None, media: Sequence[str], local: Mapping[str, str | None]
) -> None:
    if not robust and (out or media):
        raise click.UsageError("--out and --media need --robustness.")
    if not media and any(local.values()):
        raise click.UsageError("--visual-weights, --audio and --face-weights need --media.")


def _evaluate_streams(runs: Sequence[Path], out: Path | None, as_json: bool, places: Mapping[str, Any]) -> None:
    from ..fusion.evaluation.robustness import RobustnessReport, robustness
    from ..fusion.evaluation.robustness_files import write_robustness

    with Bar("corruptions") as bar:
        result = RobustnessReport.of([robustness(run, **places, tick=bar.tick) for run in runs])
    if out:
        write_robustness(out, result)
    show(result, as_json, describe_robustness)


def _evaluate_media(
    runs: Sequence[Path], media: Sequence[str], out: Path | None, as_json: bool, options: Mapping[str, Any]
) -> None:
    from ..data.atomic import write_text
    from .media_robustness import media_robustness

    with Bar("corruptions") as bar:
        result = media_robustness(runs, media, **options, tick=bar.tick)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "media.json", json.dumps(result.to_json(), indent=2, ensure_ascii=False))
    show(result, as_json, describe_media)


@verb("sage-va calibrate runs/first --out runs/first-calibrated")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the new run.")
@moved_cache_option
@moved_labels_option
@device_option
@json_option
def calibrate(run: Path, out: Path, cache: str | None, labels: Path | None, device: str, as_json: bool) -> None:
    """Refits the reliability of a run on its validation clips.

    Only the mapping from the evidence of the gate to reliability changes.
    """
    from ..fusion.training.calibrate import calibrate as refit

    show(refit(run, out, cache=cache, labels=labels, device=chosen_device(device)), as_json, describe_calibration)


def describe_score(score: Score) -> str:
    """Returns the result of `score_run` as text."""
    from ..fusion.evaluation.metrics import NAMES
    from ..fusion.evaluation.report import cautions

    folds = f", {score.num_folds} folds pooled" if score.num_folds else ""
    lines = [f"{score.run} ({score.variant}), {score.split}: {score.num_clips} clips, {score.num_labels} labels{folds}"]
    lines += cautions(score.random_weights, score.split)
    lines.append("CCC (95 % interval, bootstrap over clips)   valence               arousal               mean")
    widths = "/".join(f"{width:g}" for width in sorted(set(score.smoothing_s)))
    for title, row in (("raw", score.raw), (f"smoothed over {widths} s (chosen on validation)", score.smoothed)):
        cells = [f"{_number(row.ccc[name], 6, 3)} {_interval(row.interval[name])}" for name in NAMES]
        lines.append(f"  {title:<40}  {'  '.join(cells)}")
        if row.face_frames_only is not None:
            only = "  ".join(f"{_number(row.face_frames_only[name], 6, 3)}{'':14}" for name in NAMES)
            lines.append(f"  {'  face frames only':<40}  {only}")
    lines += _group_lines(score.groups)
    lines += _reliability_lines(score.reliability)
    width = max(len(clip.clip_id) for clip in score.clips)
    for clip in score.clips:
        valence, arousal = (_number(clip.ccc[target], 6, 3) for target in ("valence", "arousal"))
        lines.append(f"  {clip.clip_id:<{width}}  V {valence}  A {arousal}  ({clip.num_labels} labels)")
    return "\n".join(lines)


def _group_lines(report: GroupReport | None) -> list[str]:
    """Returns the lines about groups of clips."""
    if report is None:
        return []
    from ..fusion.evaluation.metrics import NAMES

    names = ["not known" if row.group is None else row.group for row in report.groups]
    width, lines = max(map(len, names)), [f"by {report.by} (raw)"]
    for name, row in zip(names, report.groups, strict=True):
        intervals = {target: f"{'':15}" if row.too_few else _interval(row.interval[target]) for target in NAMES}
        cells = "  ".join(f"{_number(row.ccc[target], 6, 3)} {intervals[target]}" for target in NAMES)
        about = f"{name:<{width}}  {row.num_clips} clips, {row.num_labels} labels"
        few = "  too few clips for an interval" if row.too_few else ""
        lines.append(f"  {about:<40}  {cells.rstrip()}{few}")
    return lines


def _reliability_lines(reports: Sequence[ReliabilityReport]) -> list[str]:
    """Returns the lines about reliability, for each stream the mean over folds."""
    lines = []
    for label in reports[0].streams if reports else ():
        streams = [report.streams[label] for report in reports]
        rank, error = _mean(stream.spearman for stream in streams), _mean(stream.ece for stream in streams)
        lines.append(f"  reliability of {label}: Spearman(1 - r, error) {_number(rank, 5, 2)}, "
                     f"calibration error (ECE) {_number(error, 5, 2)}")  # fmt: skip
    return lines


def _mean(values: Iterable[float]) -> float:
    """The mean of the values that are defined; NaN where none is."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _interval(interval: Interval) -> str:
    return f"[{_number(interval.low, 5, 2)}, {_number(interval.high, 5, 2)}]"


def describe_robustness(report: RobustnessReport) -> str:
    """Returns robustness as text: the curves of one run, or a table of the areas of several."""
    from ..fusion.evaluation.report import cautions
    from ..fusion.evaluation.robustness_files import untrained

    runs = report.runs
    lines = cautions(untrained(runs))
    if len({(*run.clip_ids, run.num_labels) for run in runs}) > 1:
        paired = " The differences are paired by seed and clip." if report.differences else ""
        lines.append(f"These runs are scored on different clips or labels: their areas do not compare.{paired}")
    return "\n".join([*lines, *(_curves(runs[0]) if len(runs) == 1 else [*_areas(runs), *_area_gains(report)])])


def _curves(run: Robustness) -> list[str]:
    from ..fusion.evaluation.predict import TARGETS
    from ..fusion.evaluation.robustness_files import title_of

    folds = f", {run.num_folds} folds pooled" if run.num_folds else ""
    strengths = "".join(f"{strength:7g}" for strength in run.strengths)
    lines = [
        f"{title_of(run)}, {run.split}: {len(run.clip_ids)} clips, {run.num_labels} labels{folds}",
        f"mean CCC by strength {strengths}   area (valence, arousal)   weight         reliability",
    ]
    for name, kind in run.kinds.items():
        if kind.ccc is None or kind.area is None:
            lines.append(f"  {name:<19}{kind.modality} not taken: the score does not change")
            continue
        curve = "".join(_number(value, 7, 3) for value in kind.ccc["mean"])
        mean, *each = (_number(kind.area[target], 6, 3) for target in ("mean", *TARGETS))
        ends = "   ".join(_first_and_last(values) for values in (kind.weight, kind.reliability))
        lines.append(f"  {name:<19}{curve}  {mean} ({', '.join(each)})   {ends}".rstrip())
    return [*lines, "weight, reliability: of the corrupted modality, at the first and the last strength",
            *(f"{name}: {kind.means}" for name, kind in run.kinds.items())]  # fmt: skip


def _first_and_last(values: Sequence[float | None] | None) -> str:
    return f"{'–':^12}" if values is None else f"{_number(values[0], 4, 2)} -> {_number(values[-1], 4, 2)}"


def _areas(runs: Sequence[Robustness]) -> list[str]:
    from ..fusion.evaluation.robustness_files import title_of

    width = max(len(title_of(run)) for run in runs)
    lines = ["Area under the mean CCC by strength of corruption, raw",
             f"  {'':<{width}}   clean  {'  '.join(runs[0].kinds)}"]  # fmt: skip
    for run in runs:
        cells = [
            f"{'not taken':>{len(name)}}" if kind.area is None else _number(kind.area["mean"], len(name), 3)
            for name, kind in run.kinds.items()
        ]
        lines.append(f"  {title_of(run):<{width}}  {_number(run.clean['mean'], 6, 3)}  {'  '.join(cells)}")
    return lines


def _area_gains(report: RobustnessReport) -> list[str]:
    """Returns a line per kind and variant: the gain in area over the base, with its interval."""
    lines = []
    for difference in report.differences:
        seeds = f"{len(difference.seeds)} seed{'s' * (len(difference.seeds) != 1)}"
        title = f"{difference.variant} − {difference.base}, {seeds}: area (95 % interval, paired bootstrap over clips)"
        lines += [title, *(f"  {kind:<19}{_gain(gains['mean'])}" for kind, gains in difference.kinds.items())]
    return lines


def _gain(gain: Gain) -> str:
    return f"{gain.mean:+.3f} [{gain.interval.low:+.3f}, {gain.interval.high:+.3f}]".replace("+nan", "–")


def describe_media(report: MediaReport) -> str:
    """Returns the robustness to corrupted recordings as text: for each run a table of kinds."""
    from ..fusion.evaluation.report import cautions

    lines = cautions(sorted({name for run in report.runs for name in run.random_weights}))
    for run in report.runs:
        lines += _media_table(run)
    kinds = {kind: each.means for run in report.runs for kind, each in run.kinds.items()}
    notes = "valid: share of the steps; weight: mean over all steps; reliability: over the valid ones"
    return "\n".join([*lines, notes, *(f"{kind}: {means}" for kind, means in kinds.items())])


def _media_table(run: MediaRobustness) -> list[str]:
    labels = list(run.clean.valid)
    columns = "".join(f"  {label + ': valid, weight, reliability':<38}" for label in labels)
    lines = [
        f"{run.run} ({run.variant}), {run.split}: {len(run.clip_ids)} recordings, {run.num_labels} labels",
        f"  {'':<12}   CCC  - clean (95 % interval)    {columns}".rstrip(),
        f"  {'clean':<12}{_number(run.clean.ccc['mean'], 6, 3)}{'':27}{_media_cells(run.clean, labels)}",
    ]
    for name, kind in run.kinds.items():
        change = f"  {_gain(kind.difference['mean']):<25}"
        lines.append(f"  {name:<12}{_number(kind.score.ccc['mean'], 6, 3)}{change}{_media_cells(kind.score, labels)}")
    return lines


def _media_cells(score: MediaScore, labels: Sequence[str]) -> str:
    rows = (score.valid, score.weight or {}, score.reliability or {})
    return "".join(f"  {'  '.join(_number(row.get(label), 5, 2) for row in rows):<38}" for label in labels).rstrip()


def describe_calibration(report: CalibrationReport) -> str:
    """Returns the result of `calibrate` as text."""
    lines = ["Reliability on the validation clips       ECE before  after   Spearman with the error before  after"]
    for run in report.runs:
        lines.append(run.run)
        for label, before in run.before.streams.items():
            both = (before, run.after.streams[label])
            ece = "  ".join(_number(stream.ece, 6, 3) for stream in both)
            rank = "  ".join(_number(stream.spearman, 6, 3) for stream in both)
            lines.append(f"  {label:<40}{ece:>18}{'':24}{rank}")
    return "\n".join(lines)


def _number(value: float | None, width: int, digits: int) -> str:
    return f"{'–':>{width}}" if value is None or math.isnan(value) else f"{value:{width}.{digits}f}"
