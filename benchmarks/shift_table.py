"""Tables and the picture of benchmarks/shift.py: areas by family, and paired differences with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sage_va.benchmarks.frame import ROOT
from sage_va.benchmarks.shift_kinds import CLEAN, KINDS
from sage_va.benchmarks.shift_lines import TRUE, Line
from sage_va.data.atomic import replacing, write_text
from sage_va.fusion.ccc import ccc_of_moments
from sage_va.fusion.evaluation.report import COLOURS
from sage_va.fusion.experiments.table import holm

PAGE, DETAIL = ROOT / "docs" / "results.md", ROOT / "docs" / "results-detail.md"
PICTURE = ROOT / "docs" / "pictures" / "shift.svg"
BEGIN, END = "<!-- shift: begin -->", "<!-- shift: end -->"
DRAWS = 2000
BASES, OURS = ("concat-quality-noise", "concat-quality"), "sage"
BASE = BASES[0]
FULL, SMALL = 28, (6, 12)
EQUIVALENT = 0.005
LATE_TRUE = "late-true-ratio"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measure:
    """A number of the tables: the mean over some sizes of the mean over some kinds."""

    title: str
    kinds: tuple[str, ...]
    sizes: tuple[int, ...]


def _of_family(family: str) -> tuple[str, ...]:
    return tuple(name for name, kind in KINDS.items() if kind.family == family)


FAMILIES = (
    Measure("noise", _of_family("noise"), (FULL,)),
    Measure("missing", _of_family("missing"), (FULL,)),
    Measure("small data", (CLEAN,), SMALL),
)
IN_DISTRIBUTION = Measure("clean", (CLEAN,), (FULL,))


class Results:
    """Finished cells, and the bootstrap over them: seeds are drawn and, within each, test clips, the same for all rows.

    Args:
        lines: of finished cells; of several for one cell, the last counts.
    """

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = {(line.row, line.size, line.seed): line for line in lines}
        for line in list(self.lines.values()):
            if any(name.startswith(TRUE) for name in line.ccc):
                self.lines[LATE_TRUE, line.size, line.seed] = replace(line, row=LATE_TRUE)
        self.rows = list(dict.fromkeys(row for row, _, _ in self.lines))
        self.areas: dict[tuple[str, int, int], dict[str, Floats]] = {}

    def seeds(self, rows: Sequence[str], sizes: Sequence[int]) -> list[int]:
        """Returns the seeds that have a cell for all of these rows and sizes."""
        every = sorted({seed for _, _, seed in self.lines})
        return [seed for seed in every if all((row, size, seed) in self.lines for row in rows for size in sizes)]

    def has(self, row: str, measure: Measure) -> bool:
        """Returns True if a row has all cells and kinds of a measure for some seed."""
        seeds = self.seeds([row], measure.sizes)
        return bool(seeds) and all(kind in self._areas(row, measure.sizes[0], seeds[0]) for kind in measure.kinds)

    def drawn(self, row: str, measure: Measure, seeds: Sequence[int]) -> Floats:
        """Returns (1 + DRAWS,): the measure of a row, then that of each draw; the draws depend on the seeds alone."""
        by_seed = []
        for seed in seeds:
            of_sizes = [self._areas(row, size, seed) for size in measure.sizes]
            by_seed.append(np.mean([areas[kind] for areas in of_sizes for kind in measure.kinds], axis=0))
        chosen = np.random.default_rng(0).integers(len(seeds), size=(DRAWS, len(seeds)))
        chosen = np.concatenate([np.arange(len(seeds))[None], chosen])
        return np.take_along_axis(np.stack(by_seed, 1), chosen, axis=1).mean(1)

    def _areas(self, row: str, size: int, seed: int) -> dict[str, Floats]:
        """Kind -> (1 + DRAWS,) areas of a cell: of its test clips, and of those that are drawn."""
        key = row, size, seed
        if key not in self.areas:
            moments = self.lines[key].moments()
            if row == LATE_TRUE:
                moments = {name.removeprefix(TRUE): m for name, m in moments.items() if name.startswith(TRUE)}
            num_clips = len(next(iter(moments.values())))
            times = np.random.default_rng([seed]).multinomial(num_clips, np.full(num_clips, 1 / num_clips), size=DRAWS)
            times = torch.from_numpy(np.concatenate([np.ones((1, num_clips)), times]))
            scores = {
                name: ccc_of_moments(torch.tensordot(times, m, dims=1)).mean(-1).numpy() for name, m in moments.items()
            }
            self.areas[key] = {
                name: np.sum([weight * scores[c] for c, weight in kind.weights.items()], axis=0)
                for name, kind in KINDS.items()
                if kind.weights.keys() <= scores.keys()
            }
        return self.areas[key]

    def compared(self, row: str, base: str, measure: Measure) -> Compared | None:
        """Returns a row against another; None where they have no seed in common."""
        seeds = self.seeds([row, base], measure.sizes)
        if not (seeds and self.has(row, measure) and self.has(base, measure)):
            return None
        return Compared(self.drawn(row, measure, seeds) - self.drawn(base, measure, seeds))


@dataclass(frozen=True)
class Compared:
    """A paired difference: first that of all seeds and clips, then that of each draw."""

    drawn: Floats

    @property
    def mean(self) -> float:
        """The difference."""
        return float(self.drawn[0])

    def interval(self, share: float = 0.95) -> tuple[float, float]:
        """Returns the percentile interval."""
        low, high = np.percentile(self.drawn[1:], [50 * (1 - share), 50 * (1 + share)])
        return float(low), float(high)

    @property
    def p(self) -> float:
        """Two-sided p-value: twice the share of draws on the rarer side of 0, one draw more than there are."""
        rarer = min(int((self.drawn[1:] <= 0).sum()), int((self.drawn[1:] >= 0).sum()))
        return min(1.0, 2 * (rarer + 1) / (DRAWS + 1))

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{_signed(self.mean)} [{_signed(low)}, {_signed(high)}]"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("0.", ".", 1).replace("-", "−")


def _plain(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1).replace("-", "−")


def report(lines: Sequence[Line]) -> str:
    """Returns all tables as Markdown."""
    results = Results(lines)
    return f"{summary(results)}\n\n{kind_by_kind(results)}" if lines else "No finished cells."


def summary(results: Results) -> str:
    """Returns the tables of families and tests as Markdown."""
    parts = [_heading(results), _families(results)]
    parts += [_tests(results, base) for base in BASES if {OURS, base} <= {*results.rows}]
    return "\n\n".join(parts)


def kind_by_kind(results: Results) -> str:
    """Returns a table of all kinds for each number of training clips as Markdown."""
    sizes = sorted({size for _, size, _ in results.lines}, reverse=True)
    return "\n\n".join(_cells(results, size) for size in sizes)


def _heading(results: Results) -> str:
    seeds = sorted({seed for _, _, seed in results.lines})
    commits = ", ".join(dict.fromkeys(line.commit for line in results.lines.values()))
    num_cells = sum(row != LATE_TRUE for row, _, _ in results.lines)
    return f"Seeds {', '.join(map(str, seeds))}; {num_cells} cells; commits {commits}."


def _families(results: Results) -> str:
    """A line per row: areas, and differences to the base."""
    measures = (IN_DISTRIBUTION, *FAMILIES)
    titles = ["row", "parameters", *(m.title for m in measures), *(f"{m.title} − `{BASE}`" for m in measures), "seeds"]
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for row in results.rows:
        sizes = next(line for (name, _, _), line in results.lines.items() if name == row)
        values, gains, counts = [], [], []
        for measure in measures:
            known = results.has(row, measure)
            seeds = results.seeds([row], measure.sizes)
            values.append(_plain(results.drawn(row, measure, seeds)[0]) if known else "–")
            counts += [len(seeds)] if known else []
            one = results.compared(row, BASE, measure) if row != BASE and known else None
            gains.append(str(one) if one else "–")
        count = str(counts[0]) if len(set(counts)) == 1 else "/".join(map(str, counts))
        lines.append(f"| {' | '.join([f'`{row}`', f'{sizes.num_parameters:,}', *values, *gains, count])} |")
    return "\n".join(lines)


def _tests(results: Results, base: str) -> str:
    """The primary comparison: three families with Holm's correction, and equivalence in distribution."""
    compared = {m.title: results.compared(OURS, base, m) for m in FAMILIES}
    known = {title: one for title, one in compared.items() if one}
    corrected = dict(zip(known, holm([one.p for one in known.values()]), strict=True))
    lines = [f"| `{OURS}` − `{base}` | difference | p | p, Holm |", "| --- | --- | --- | --- |"]
    lines += [f"| {title} | {one} | {one.p:.4f} | {corrected[title]:.4f} |" for title, one in known.items()]
    clean = results.compared(OURS, base, IN_DISTRIBUTION)
    if clean:
        low, high = clean.interval(0.9)
        within = low >= -EQUIVALENT and high <= EQUIVALENT
        verdict = "equivalent" if within else "ahead" if low > 0 else "behind" if high < 0 else "not shown equivalent"
        lines.append(
            f"\nIn distribution: {_signed(clean.mean)}, 90 % interval [{_signed(low)}, {_signed(high)}], "
            f"bounds ±{_plain(EQUIVALENT)}: {verdict}."
        )
    return "\n".join(lines)


def _cells(results: Results, size: int) -> str:
    """All kinds of one size: a line per kind, a column per row, differences to the base beside the values."""
    rows = [row for row in results.rows if results.seeds([row], [size])]
    lines = [f"{size} training clips:", "", f"| kind | {' | '.join(f'`{row}`' for row in rows)} |"]
    lines.append(f"|{' --- |' * (len(rows) + 1)}")
    for kind in KINDS:
        measure, cells = Measure(kind, (kind,), (size,)), []
        for row in rows:
            if not results.has(row, measure):
                cells.append("–")
                continue
            one = results.compared(row, BASE, measure) if row != BASE else None
            value = _plain(results.drawn(row, measure, results.seeds([row], [size]))[0])
            cells.append(f"{value} ({one})" if one else value)
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page(lines: Sequence[Line]) -> None:
    """Writes the tables into two pages of docs/, between their marks, and the picture beside them."""
    results = Results(lines)
    for path, tables in ((PAGE, summary(results)), (DETAIL, kind_by_kind(results))):
        head, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
        _, _, tail = rest.partition(END)
        write_text(path, f"{head}{BEGIN}\n\n{tables}\n\n{END}{tail}")
    plot(results, PICTURE)


def plot(results: Results, path: Path) -> None:
    """Draws, for each family, a dot per row at its area; the bar is the interval of its difference to the base."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "sage-va"
    from matplotlib import pyplot as plt

    rows = [row for row in results.rows if any(results.has(row, m) for m in FAMILIES)]
    figure, axes = plt.subplots(1, 3, figsize=(10, 1.6 + 0.3 * len(rows)), sharey=True, layout="constrained")
    for axis, measure in zip(axes, FAMILIES, strict=True):
        base = results.drawn(BASE, measure, results.seeds([BASE], measure.sizes))[0]
        axis.axvline(base, color="grey", lw=0.8)
        for height, row in enumerate(rows):
            if not results.has(row, measure):
                continue
            colour = COLOURS[1 if row == OURS else 0 if row.startswith("sage") else 6]
            one = results.compared(row, BASE, measure)
            place = base + (one.mean if one else 0.0)
            if one and row != BASE:
                low, high = one.interval()
                axis.plot([base + low, base + high], [height, height], color=colour, lw=2)
            axis.plot(place, height, "o", color=colour, mfc="white" if row == BASE else colour)
        where = f"{measure.sizes[0]} training clips" if len(measure.sizes) == 1 else "6 and 12 training clips, clean"
        axis.set_title(f"{measure.title}\n{where}", fontsize="medium")
        axis.set(xlabel="area (CCC)")
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(rows)), rows)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.supxlabel(f"bars: 95 % interval of the paired difference to {BASE}", fontsize="small")
    with replacing(path) as part:
        figure.savefig(part, metadata={"Date": None})
    plt.close(figure)
