"""`sage-va eval` and `sage-va calibrate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from .console import Bar, chosen_device, show
from .options import device_option, json_option
from .verb import verb


@verb("sage-va eval runs/first --split test", name="eval")
@click.argument(
    "runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--cache", help="Cache other than that of the training.")
@click.option(
    "--labels",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Labels other than those of the training.",
)
@click.option(
    "--split", type=click.Choice(["train", "val", "test"]), help="Default: test, or val where there is no test."
)
@click.option(
    "--robustness",
    "robust",
    is_flag=True,
    help="Score with masked, noisy and delayed streams; takes several runs.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="With --robustness: folder for JSON, CSV and plot.",
)
@device_option
@json_option
def evaluate(runs: tuple[Path, ...], robust: bool, out: Path | None, device: str, as_json: bool, **places: Any) -> None:
    """Scores a run by CCC.

    One CCC per target over all labelled instants of a split, raw and smoothed. For a cross-validation run, the held-out
    clips of all folds are pooled.
    """
    from ..fusion.evaluation.report import write_robustness
    from ..fusion.evaluation.robustness import robustness
    from ..fusion.evaluation.score import score_run

    first, *others = runs
    if not robust and (others or out):
        raise click.UsageError("Several runs and --out need --robustness.")
    places["device"] = chosen_device(device)
    if not robust:
        show(score_run(first, **places), as_json, describe_score)
        return
    with Bar("corruptions") as bar:
        result = {"runs": [robustness(run, **places, tick=bar.tick) for run in runs]}
    if out:
        write_robustness(out, result)
    show(result, as_json, describe_robustness)


@verb("sage-va calibrate runs/first --out runs/first-calibrated")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the new run.")
@click.option("--cache", help="Cache other than that of the training.")
@click.option(
    "--labels",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Labels other than those of the training.",
)
@device_option
@json_option
def calibrate(run: Path, out: Path, cache: str | None, labels: Path | None, device: str, as_json: bool) -> None:
    """Refits the reliability of a run on its validation clips.

    Only the mapping from the evidence of the gate to reliability changes.
    """
    from ..fusion.training.calibrate import calibrate as refit

    show(refit(run, out, cache=cache, labels=labels, device=chosen_device(device)), as_json, describe_calibration)


def describe_score(result: dict[str, Any]) -> str:
    """Returns the result of `score_run` as text."""
    from ..fusion.evaluation.predict import TARGETS
    from ..fusion.evaluation.report import cautions

    folds = f", {result['num_folds']} folds pooled" if result["num_folds"] else ""
    lines = [f"{result['run']} ({result['variant']}), {result['split']}: {result['num_clips']} clips, "
             f"{result['num_labels']} labels{folds}"]  # fmt: skip
    lines += cautions(result["random_weights"], result["split"])
    lines.append("CCC (95 % interval, bootstrap over clips)   valence               arousal               mean")
    for name in ("raw", "smoothed"):
        row, title = result[name], name
        if name == "smoothed":
            widths = sorted(set(result["smoothing_s"]))
            title = f"smoothed over {'/'.join(f'{w:g}' for w in widths)} s (chosen on validation)"
        lines.append(f"  {title:<40}  " + "  ".join(_cell(row, key) for key in (*TARGETS, "mean")))
        if "face_frames_only" in row:
            only = "  ".join(f"{_number(row['face_frames_only'][key], 6, 3)}{'':14}" for key in (*TARGETS, "mean"))
            lines.append(f"  {'  face frames only':<40}  {only}")
    lines += _reliability_lines(result["trust"])
    width = max(len(clip["clip_id"]) for clip in result["clips"])
    lines += [f"  {clip['clip_id']:<{width}}  V {_number(clip['valence'], 6, 3)}  A {_number(clip['arousal'], 6, 3)}  "
              f"({clip['num_labels']} labels)" for clip in result["clips"]]  # fmt: skip
    return "\n".join(lines)


def _reliability_lines(reports: list[dict[str, Any]]) -> list[str]:
    """Returns the lines about reliability, for each stream the mean over folds."""
    lines = []
    for label in reports[0]["streams"] if reports else ():
        parts = [report["streams"][label] for report in reports]
        means = []
        for name in ("spearman", "ece"):
            known = [part[name] for part in parts if part[name] is not None]
            means.append(_number(sum(known) / len(known) if known else None, 5, 2))
        lines.append(f"  reliability of {label}: Spearman(1 - r, error) {means[0]}, calibration error (ECE) {means[1]}")
    return lines


def _cell(row: dict[str, Any], key: str) -> str:
    low, high = row["interval"][key]
    return f"{_number(row['ccc'][key], 6, 3)} [{_number(low, 5, 2)}, {_number(high, 5, 2)}]"


def describe_robustness(result: dict[str, Any]) -> str:
    """Returns `{"runs": …}` of `robustness` as text: the curves of one run, or a table of the areas of several."""
    from ..fusion.evaluation.report import cautions, untrained

    runs = result["runs"]
    lines = cautions(untrained(runs))
    if len({(*run["clip_ids"], run["num_labels"]) for run in runs}) > 1:
        lines.append("These runs are scored on different clips or labels: their areas do not compare.")
    return "\n".join([*lines, *(_curves(runs[0]) if len(runs) == 1 else _areas(runs))])


def _curves(run: dict[str, Any]) -> list[str]:
    from ..fusion.evaluation.predict import TARGETS
    from ..fusion.evaluation.report import title_of

    folds = f", {run['num_folds']} folds pooled" if run["num_folds"] else ""
    strengths = "".join(f"{strength:7g}" for strength in run["strengths"])
    lines = [
        f"{title_of(run)}, {run['split']}: {len(run['clip_ids'])} clips, {run['num_labels']} labels{folds}",
        f"mean CCC by strength {strengths}   area (valence, arousal)   weight         reliability",
    ]
    for name, kind in run["kinds"].items():
        if not kind["taken"]:
            lines.append(f"  {name:<19}{kind['modality']} not taken: the score does not change")
            continue
        curve = "".join(_number(value, 7, 3) for value in kind["ccc"]["mean"])
        mean, *each = (_number(kind["area"][key], 6, 3) for key in ("mean", *TARGETS))
        trust = "   ".join(_first_and_last(kind[key]) for key in ("weight", "reliability"))
        lines.append(f"  {name:<19}{curve}  {mean} ({', '.join(each)})   {trust}".rstrip())
    return [*lines, "weight, reliability: of the corrupted modality, at the first and the last strength",
            *(f"{name}: {kind['means']}" for name, kind in run["kinds"].items())]  # fmt: skip


def _first_and_last(values: Sequence[float | None] | None) -> str:
    return f"{'–':^12}" if values is None else f"{_number(values[0], 4, 2)} -> {_number(values[-1], 4, 2)}"


def _areas(runs: Sequence[dict[str, Any]]) -> list[str]:
    from ..fusion.evaluation.report import title_of

    width = max(len(title_of(run)) for run in runs)
    kinds = list(runs[0]["kinds"])
    lines = ["Area under the mean CCC by strength of corruption, raw",
             f"  {'':<{width}}   clean  {'  '.join(kinds)}"]  # fmt: skip
    for run in runs:
        cells = [
            _number(kind["area"]["mean"], len(name), 3) if kind["taken"] else f"{'not taken':>{len(name)}}"
            for name, kind in run["kinds"].items()
        ]
        lines.append(f"  {title_of(run):<{width}}  {_number(run['clean']['mean'], 6, 3)}  {'  '.join(cells)}")
    return lines


def describe_calibration(result: dict[str, Any]) -> str:
    """Returns the result of `calibrate` as text."""
    lines = ["Reliability on the validation clips       ECE before  after   Spearman with the error before  after"]
    for run in result["runs"]:
        lines.append(run["run"])
        for label, before in run["before"]["streams"].items():
            after = run["after"]["streams"][label]
            ece, rank = ([_number(part[name], 6, 3) for part in (before, after)] for name in ("ece", "spearman"))
            lines.append(f"  {label:<40}{'  '.join(ece):>18}{'':24}{'  '.join(rank)}")
    return "\n".join(lines)


def _number(value: float | None, width: int, digits: int) -> str:
    return f"{'–':>{width}}" if value is None else f"{value:{width}.{digits}f}"
