"""The experiment of docs/experiment.md: who keeps its score under shift? Cell by cell, so that it can be resumed.

    python benchmarks/shift.py [--seeds 20-39] [--sizes 28,12,6] [--variants sage,concat-quality,…] [--jobs 1]
                               [--time-limit MINUTES] [--out benchmarks/results/shift.jsonl]
    python benchmarks/shift.py --page

A cell is one training: a row of `ROWS`, a number of training clips, a seed. Each seed draws its own data
(benchmarks/synthetic.py). A trained model is scored on the test clips of its seed under all conditions of
benchmarks/shift_kinds.py. Each finished cell appends one line to --out; cells that are there are skipped. All cells of
a seed run one after the other, seeds in their order. At the end tables are printed, with intervals
(benchmarks/shift_table.py); --page trains nothing and writes them into docs/results.md, docs/results-detail.md and
docs/pictures/shift.svg.
"""

from __future__ import annotations

import argparse
import fcntl
import functools
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sage_va.benchmarks.frame import RESULTS, commit
from sage_va.benchmarks.shift_ceilings import true_ratio_estimates, with_true_ratio
from sage_va.benchmarks.shift_kinds import CLEAN, CONDITIONS, RATIOS, TestClips, draw, load_drawn
from sage_va.benchmarks.shift_lines import TRUE, Line, pack, read_lines
from sage_va.benchmarks.shift_table import page, report
from sage_va.benchmarks.synthetic import SyntheticData
from sage_va.data import open_store
from sage_va.data.hashing import json_sha256
from sage_va.data.windows.corpus import Stream
from sage_va.data.windows.splits import Role
from sage_va.fusion.config import Config, load_config
from sage_va.fusion.evaluation.metrics import va_moments
from sage_va.fusion.evaluation.predict import predict_va
from sage_va.fusion.models.variants import build_model, resolve
from sage_va.fusion.run_folder import load_run, origin_of, start_run
from sage_va.fusion.training.labelled import assign_roles
from sage_va.fusion.training.shared_errors import SharedErrors
from sage_va.fusion.training.train import train_one

SETTINGS = Path(__file__).with_name("reliability.yaml")
OUT = RESULTS / "shift.jsonl"
FULL = 28  # training clips of the drawn data, whose 16 epochs are the budget of every cell
VALIDATION = {6: 2, 12: 4, FULL: 8}
WIDEST = 0.05  # how far the number of parameters may differ from that of `sage`
DATA = SyntheticData()


@dataclass(frozen=True)
class Row:
    """A row of the tables: a variant, and what is set differently. true_ratio: it reads the true ratio as quality."""

    variant: str
    settings: tuple[str, ...] = ()
    true_ratio: bool = False


NOISE = "train.noise=0.1"
ROWS: dict[str, Row] = {
    "sage": Row("sage"),
    "concat-quality-noise": Row("concat-quality", (NOISE,)),
    "concat-quality": Row("concat-quality"),
    "concat": Row("concat"),
    "late": Row("late", ("model.quality_input=true",)),
    "sage-plain": Row("sage-plain"),
    "concat-quality-dropout.1": Row("concat-quality", ("train.modality_dropout=0.1",)),
    "sage-noise": Row("sage", (NOISE,)),
    "sage-no-veto": Row("sage-no-veto"),
    "sage-no-gaps": Row("sage-no-gaps"),
    "sage-shares": Row("sage-shares"),
    "concat-true-ratio": Row("concat-quality", true_ratio=True),
}


def config_of(name: str, size: int, seed: int) -> Config:
    """Returns the configuration of a cell: as many steps for every size, as many parameters for every row."""
    row, share = ROWS[name], FULL / size
    assignments = [*row.settings, "model.heads=2", f"model.variant={row.variant}", f"seed={seed}"]
    config = load_config(SETTINGS, assignments)
    train = config.train
    scaled = {key: round(getattr(train, key) * share) for key in ("epochs", "patience", "crossfit_epochs")}
    config = resolve(config.model_copy(update={"train": train.model_copy(update=scaled)}))
    if row.variant.startswith("sage"):
        return config
    return config.model_copy(update={"model": config.model.model_copy(update={"dim": _matched_dim(config)})})


@functools.cache
def _num_parameters(variant: str, dim: int, quality_input: bool) -> int:
    model = load_config(SETTINGS, ["model.heads=2"]).model
    changes = {"variant": variant, "dim": dim, "quality_input": quality_input}
    streams = [Stream(n, n, n.split("/")[0], DATA.dim, ("clarity", "idle"), {}) for n in DATA.streams]
    built = build_model(streams, model.model_copy(update=changes))
    return sum(weight.numel() for weight in built.parameters())


def _matched_dim(config: Config) -> int:
    """Returns the width at which a model has as many parameters as `sage`, within 5 %."""
    model, target = config.model, _num_parameters("sage", load_config(SETTINGS).model.dim, True)
    counts = {dim: _num_parameters(model.variant, dim, model.quality_input) for dim in range(20, 80, 2)}
    dim = min(counts, key=lambda dim: abs(counts[dim] - target))
    assert abs(counts[dim] / target - 1) <= WIDEST, f"{model.variant}: {counts[dim]} parameters, not {target}"
    return dim


class Seed:
    """The drawn data of one seed, on which all of its cells are trained and scored."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.folder, self.settings = folder, replace(DATA, seed=seed)
        config = config_of("sage", FULL, seed)
        self.drawn = draw(folder / "drawn", self.settings)
        self.origin = origin_of(open_store(self.drawn / "cache.zarr"), self.drawn / "labels")
        self.corpus = load_drawn(self.drawn, None, config.data.hz)
        roles = assign_roles(self.corpus.clips, {}, config.split, seed)
        self.parts = {role: [c for c in sorted(roles) if roles[c] == role] for role in ("train", "val", "test")}
        self.test = TestClips(folder, self.settings, self.drawn, self.parts["test"], config.data.hz)
        self.errors = SharedErrors(folder / "errors", {s.name: str(seed) for s in self.corpus.streams}, "cpu")

    def roles(self, size: int) -> dict[str, Role]:
        """Returns the split with fewer training and validation clips: those of the first subjects."""
        order = sorted(self.parts["train"], key=self._subject), sorted(self.parts["val"], key=self._subject)
        parts: dict[Role, list[str]] = {"train": order[0][:size], "val": order[1][: VALIDATION[size]]}
        parts["test"] = self.parts["test"]
        return {clip_id: role for role, clips in parts.items() for clip_id in clips}

    def _subject(self, clip_id: str) -> tuple[str, str]:
        return str(self.corpus.clips[self.corpus.find([clip_id])[0]].subject_id), clip_id

    def do(self, name: str, size: int) -> Line:
        """Trains and scores one cell."""
        started, config, roles = time.process_time(), config_of(name, size, self.settings.seed), self.roles(size)
        place = self.folder / f"{name}-{size}"
        corpus = with_true_ratio(self.corpus, self.drawn) if ROWS[name].true_ratio else self.corpus
        start_run(place, config, roles)
        train_one(corpus, roles, config, place, self.origin, lambda event: None, self.errors)
        model = load_run(place).model
        trained = time.process_time()
        moments = {condition: self._moments(name, model, config, condition) for condition in self.conditions(name)}
        if name == "late":
            moments |= self._ceiling(model, config, [c for c, role in roles.items() if role == "val"])
        return Line(
            seed=self.settings.seed,
            size=size,
            row=name,
            settings=settings_of(name, size),
            commit=commit(),
            num_parameters=sum(weight.numel() for weight in model.parameters()),
            seconds=(round(trained - started, 1), round(time.process_time() - trained, 1)),
            **pack(moments),
        )

    @staticmethod
    def conditions(name: str) -> Sequence[str]:
        """Returns the conditions of a row; one that reads the true ratio is scored where that is defined."""
        return (CLEAN, *RATIOS) if ROWS[name].true_ratio else CONDITIONS

    def _moments(self, name: str, model: Any, config: Config, condition: str) -> torch.Tensor:
        corpus = self.test.under(condition, model.feature_scales)
        if ROWS[name].true_ratio:
            corpus = with_true_ratio(corpus, self.test.folders[condition])
        clips = range(len(corpus.clips))
        return torch.stack(va_moments(predict_va(model, corpus, clips, config.data), corpus, clips))

    def _ceiling(self, model: Any, config: Config, validation: Sequence[str]) -> dict[str, torch.Tensor]:
        """Scores the average of both streams' estimates with weights from the true ratio."""
        tests = {name: (self.test.corpora[name], self.test.folders[name]) for name in (CLEAN, *RATIOS)}
        known = self.corpus, self.drawn, self.corpus.find(validation)
        estimates = true_ratio_estimates(model, config.data, known, tests)
        return {
            f"{TRUE}{name}": torch.stack(va_moments(va, tests[name][0], range(len(va))))
            for name, va in estimates.items()
        }


@functools.cache
def settings_of(name: str, size: int) -> str:
    """Returns a hash of all that a cell depends on but its seed and the code."""
    facts = [config_of(name, size, 0).flat(), asdict(DATA), asdict(ROWS[name]), CONDITIONS]
    return json_sha256(facts)[:12]


def append(path: Path, line: Line) -> None:
    """Adds a line at once, also where several processes write."""
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"  # a writer was killed in the middle of a line
        else:
            torn = False
        file.write((b"\n" if torn else b"") + json.dumps(asdict(line)).encode() + b"\n")


def do_seed(seed: int, cells: Sequence[tuple[str, int]], out: Path, until: float) -> bool:
    """Does the cells of a seed until the time is over; returns True if all are done."""
    torch.set_num_threads(1)
    done = {(line.row, line.size) for line in read_lines(out) if line.seed == seed}
    left = [cell for cell in cells if cell not in done]
    if not left:
        return True
    if time.monotonic() > until:
        return False
    with tempfile.TemporaryDirectory(prefix="shift-") as folder:
        drawn = Seed(seed, Path(folder))
        for name, size in left:
            if time.monotonic() > until:
                return False
            line = drawn.do(name, size)
            append(out, line)
            print(f"seed {seed}, {size} clips, {name}: {line.ccc[CLEAN]:.3f} clean, {line.seconds} CPU s", flush=True)
    return True


def check_settings(lines: Sequence[Line], cells: Sequence[tuple[str, int]], seeds: Sequence[int]) -> None:
    """Refuses to add cells to others of other settings, such as those of an earlier version.

    Raises:
        SystemExit: naming the version that can go on.
    """
    done = {(line.row, line.size, line.seed) for line in lines}
    if all((*cell, seed) in done for cell in cells for seed in seeds):
        return
    for line in lines:
        if (line.row, line.size) in cells and line.settings != settings_of(line.row, line.size):
            what = f"{line.row} with {line.size} clips was trained with other settings, at commit {line.commit}"
            raise SystemExit(f"{what}. Check out that commit, or choose another --out.")


def seeds_of(text: str) -> list[int]:
    """`20-39` or `0,1,5` -> seeds."""
    spans = [[int(end) for end in part.split("-")] for part in text.split(",")]
    return [seed for span in spans for seed in range(span[0], span[-1] + 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="20-39", help="20-39 or 0,1; below 20 is exploration")
    parser.add_argument("--sizes", default="28,12,6", help="numbers of training clips")
    parser.add_argument("--variants", default=",".join(ROWS), help="rows of the tables")
    parser.add_argument("--jobs", type=int, default=1, help="processes, each with a seed")
    parser.add_argument("--time-limit", type=float, default=float("inf"), help="minutes; begins no cell after them")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--page", action="store_true", help="train nothing; write the pages and the picture")
    options = parser.parse_args()
    cells = [(name, int(size)) for size in options.sizes.split(",") for name in options.variants.split(",")]
    seeds = seeds_of(options.seeds)
    if options.page:
        page([line for line in read_lines(options.out) if line.seed in seeds])
        return
    check_settings(read_lines(options.out), cells, seeds)
    until = time.monotonic() + 60 * options.time_limit
    work = functools.partial(do_seed, cells=cells, out=options.out, until=until)
    if options.jobs == 1:
        ended = [work(seed) for seed in seeds]
    else:
        with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
            ended = list(pool.map(work, seeds))
    if not all(ended):
        print(f"{ended.count(False)} of {len(ended)} seeds have open cells: run the same command again")
    print(report([line for line in read_lines(options.out) if line.seed in seeds]))


if __name__ == "__main__":
    main()
