"""The files of a comparison's table: JSON, CSV, Markdown and a picture; and the parts of its text."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...data.atomic import replacing, write_text
from ..evaluation.metrics import NAMES, Interval
from ..evaluation.report import cautions
from ..evaluation.style import save_pictures
from ..result import plain
from .table import KINDS, ComparisonTable, Difference, SeedScores, VariantRow
from .table_picture import SIGNIFICANT, draw_table

NO_DIFFERENCE = math.nan, Interval(math.nan, math.nan), math.nan, math.nan
LEGEND = """Best in bold. Differences: of the raw score, averaged over seeds, with 95 % interval by paired bootstrap
over clips; * means p < 0.05 by the same bootstrap, after Holm's correction for all variants."""


def write_table(table: ComparisonTable, folder: Path, about: Mapping[str, Any] | None = None) -> list[Path]:
    """Writes `table.json`, `table.csv`, `table.md`, `table.tex` and the picture in three formats.

    Returns their paths; the picture is `table.png`, `table.svg` and `table.pdf`.

    Args:
        table: the table.
        folder: where to write.
        about: plain values that stand before the table in `table.json`.
    """
    paths = [folder / f"table.{suffix}" for suffix in ("json", "csv", "md", "tex", "png", "svg", "pdf")]
    write_text(paths[0], json.dumps({**(about or {}), **table.to_json()}, indent=2, ensure_ascii=False))
    with replacing(paths[1]) as part, part.open("w", newline="", encoding="utf-8") as file:
        lines = [_csv_row(row, table.base) for row in table.rows]
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    write_text(paths[2], as_markdown(table))
    write_text(paths[3], as_latex(table))
    save_pictures(draw_table(table, [title(row, table) for row in table.rows], heading(table)), folder / "table")
    return paths


def _csv_row(row: VariantRow, base: str) -> dict[str, Any]:
    cells: dict[str, Any] = {"variant": row.variant, "num_seeds": len(row.seeds)}
    for kind, scores in zip(KINDS, (row.raw, row.smoothed), strict=True):
        for name in NAMES:
            cells |= {f"{kind}_{name}_mean": scores[name].mean, f"{kind}_{name}_std": scores[name].std}
            low, high = scores[name].interval
            cells |= {f"{kind}_{name}_low": low, f"{kind}_{name}_high": high}
    for kind, differences in zip(KINDS, (row.raw_difference, row.smoothed_difference), strict=True):
        for name in NAMES:
            one = (differences or {}).get(name, Difference(*NO_DIFFERENCE))
            column = f"{kind}_{name}_difference"
            cells |= {column: one.mean, f"{column}_low": one.interval.low, f"{column}_high": one.interval.high}
            cells |= {f"{column}_p": one.p, f"{column}_p_holm": one.p_holm}
    cells |= {"base": base, "num_parameters": row.num_parameters, "seconds_per_cell": row.seconds_per_cell}
    return plain({**cells, "random_weights": " ".join(row.random_weights)})


def as_markdown(table: ComparisonTable) -> str:
    """Returns the table as a page."""
    base = table.base
    titles = ["variant", *(f"CCC {name}" for name in NAMES), "CCC mean, smoothed"]
    titles += [*(f"{name} − {base}" for name in NAMES), "parameters", "s per run"]
    lines = [*(f"{line}\n" for line in heading(table))]
    lines += [f"| {' | '.join(titles)} |", f"|---|{'---:|' * (len(titles) - 1)}"]
    for row in table.rows:
        scores = [(row.raw[name], best(table, "raw", name)) for name in NAMES]
        scores.append((row.smoothed["mean"], best(table, "smoothed", "mean")))
        cells = [title(row, table), *(f"**{spread(s)}**" if s.mean == top else spread(s) for s, top in scores)]
        cells += [gain(row.raw_difference[name]) if row.raw_difference else "–" for name in NAMES]
        lines.append(f"| {' | '.join([*cells, *cost(row).split()])} |")
    lines.append("\nCCC: mean ± standard deviation over seeds. Smoothed: widths chosen on validation clips.")
    return "\n".join([*lines, LEGEND]) + "\n"


def best(table: ComparisonTable, kind: str, name: str) -> float:
    """Returns the highest mean score of the table for a target; NaN if there is none."""
    means = [getattr(row, kind)[name].mean for row in table.rows]
    return max((mean for mean in means if not math.isnan(mean)), default=math.nan)


def as_latex(table: ComparisonTable) -> str:
    """Returns the table for a paper (booktabs): mean and interval per target, best in bold, stars by Holm's p."""
    head = " & ".join(["variant", *(f"CCC {name}" for name in NAMES), f"mean $-$ {_latex(table.base)}"])
    lines = [*(f"% {line}" for line in heading(table)), r"\begin{tabular}{l" + "c" * (len(NAMES) + 1) + "}"]
    lines += [r"\toprule", head + r" \\", r"\midrule"]
    for row in table.rows:
        cells = [_latex(title(row, table)), *(_latex_score(row.raw[name], best(table, "raw", name)) for name in NAMES)]
        cells.append(_latex_gain(row.raw_difference["mean"]) if row.raw_difference else "--")
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines.append("% CCC: mean over seeds, with 95 % interval by bootstrap over clips.")
    return "\n".join([*lines, *(f"% {line}" for line in LEGEND.splitlines())]) + "\n"


def _latex(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "_%&#$" else letter for letter in text)


def _latex_score(scores: SeedScores, top: float) -> str:
    if math.isnan(scores.mean):
        return "--"
    mean = f"{scores.mean:.3f}"
    low, high = scores.interval
    shown = rf"\textbf{{{mean}}}" if scores.mean == top else mean
    return shown + ("" if math.isnan(low) else f" [{low:.3f}, {high:.3f}]").replace("-", "$-$")


def _latex_gain(difference: Difference) -> str:
    return gain(difference).replace("-", "$-$").replace("+", "$+$").replace("*", "$^*$")


def heading(table: ComparisonTable) -> list[str]:
    """Returns the lines above the table: its clips, folds, seeds and base, and cautions."""
    lines = [f"{table.num_clips} clips, {table.num_labels} labels ({table.split or 'no score'}), "
             f"{_folds(table)}, {_num_seeds(table)} seeds; base {table.base}"]  # fmt: skip
    return [*lines, *cautions(table.random_weights, table.split)]


def _folds(table: ComparisonTable) -> str:
    return f"{table.num_folds} folds pooled" if table.num_folds else "no folds"


def _num_seeds(table: ComparisonTable) -> int:
    return max(len(row.seeds) for row in table.rows)


def title(row: VariantRow, table: ComparisonTable) -> str:
    """A variant's name, and how many seeds it has where others have more."""
    short = len(row.seeds) < _num_seeds(table)
    return f"{row.variant} ({len(row.seeds)} seeds)" if short else row.variant


def spread(scores: SeedScores) -> str:
    """Returns a mean and its standard deviation over seeds as text."""
    if math.isnan(scores.mean):
        return "–"
    return f"{scores.mean:.3f}" + ("" if math.isnan(scores.std) else f" ± {scores.std:.3f}")


def gain(difference: Difference) -> str:
    """Returns a difference and its interval as text."""
    if math.isnan(difference.mean):
        return "–"
    low, high = difference.interval
    star = "*" if difference.p_holm < SIGNIFICANT else ""
    return f"{difference.mean:+.3f}" + ("" if math.isnan(low) else f" [{low:+.3f}, {high:+.3f}]{star}")


def cost(row: VariantRow) -> str:
    """Returns the number of parameters and the seconds of a training as text."""
    if row.num_parameters is None:
        return f"  {'–':>10}  {'–':>7}"
    return f"  {row.num_parameters:>10,}  {row.seconds_per_cell:>7.1f}"
