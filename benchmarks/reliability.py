"""Does trusting the right stream win? Variants trained on synthetic ground truth, where every step's noise is known.

    python benchmarks/reliability.py [--variants sage,concat,concat-quality,…] [--seeds 5] [--jobs 2] [--out FOLDER]
                                     [--level] [--equal] [--no-quality] [--streams visual/face,audio/voice]
                                     [--set KEY=VALUE] [--base VARIANT] [--shift] [--ambiguous] [--clips 48]
                                     [--first-seed 10]

Each seed makes its own data (benchmarks/synthetic.py), split by subject, and weights. All variants get the same clips,
settings and number of epochs. Scored on the test clips: CCC, the mean of valence and arousal; rank correlation of a
stream's reliability with its true signal-to-noise ratio over all its valid steps, mean over streams; calibration error
and the stream's weight where its ratio is below and above 0 dB. Intervals: 95 %, bootstrap over seeds and, within
each, over clips, the same draws for both sides of a difference. Times are of training steps, the wall clock divided by
how many ran; they mean something with `--jobs 1` on an idle machine. `--shift` adds a table of the scores under
corruptions that training never held: means of the areas that `eval --robustness` reports, over both modalities.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sage_va.benchmarks.synthetic import SyntheticData, snr_on_grid, synthesise
from sage_va.data import open_store
from sage_va.data.store.fingerprint import stream_alias
from sage_va.data.windows.corpus import Corpus
from sage_va.fusion.ccc import ccc_of_moments
from sage_va.fusion.config import Config, load_config
from sage_va.fusion.evaluation.metrics import corpus_moments
from sage_va.fusion.evaluation.predict import Prediction, predict
from sage_va.fusion.evaluation.reliability import (
    ReliabilityDiagram,
    ReliabilityReport,
    StreamReliability,
    reliability_report,
    spearman,
)
from sage_va.fusion.evaluation.report import plot_diagram
from sage_va.fusion.evaluation.robustness import Robustness, robustness
from sage_va.fusion.models.variants import resolve
from sage_va.fusion.result import number_of, plain
from sage_va.fusion.run_folder import Run, load_run, origin_of, start_run
from sage_va.fusion.training.labelled import assign_roles, load_labelled
from sage_va.fusion.training.shared_errors import SharedErrors
from sage_va.fusion.training.train import train_one

SETTINGS = Path(__file__).with_name("reliability.yaml")
BASE = "concat"
DRAWS = 2000
FIRST_SEED = 10  # those below were used to find what a gate should read
SHIFTS = {
    "masked": ("visual-occlusion", "audio-silence"),
    **{
        name: (f"visual-{name}", f"audio-{name}")
        for name in ("dropped", "noise", "zeros", "frozen", "displaced", "gain", "offset", "drift")
    },
}


@dataclass(frozen=True)
class Task:
    """One training: a variant on the data of one seed."""

    variant: str
    seed: int
    data: Path
    out: Path
    assignments: tuple[str, ...]


def run(task: Task) -> dict[str, Any]:
    """Trains and scores: `{"variant", "seed", "num_parameters", "ms_per_step", "ccc", "sums", "trust"}`."""
    torch.set_num_threads(1)
    config = resolve(load_config(SETTINGS, [*task.assignments, f"model.variant={task.variant}", f"seed={task.seed}"]))
    store, place = open_store(task.data / "cache.zarr"), task.out / f"{task.variant}-{task.seed}"
    labelled = load_labelled(store, task.data / "labels", config)
    roles = assign_roles(labelled.corpus.clips, labelled.parts, config.split, config.seed)
    start_run(place, config, roles)
    events: list[dict[str, Any]] = []
    errors_of = SharedErrors(task.out / "crossfit", labelled.features, "cpu")
    train_one(labelled.corpus, roles, config, place, origin_of(store, task.data / "labels"), events.append, errors_of)
    scored = _scores(load_run(place), labelled.corpus, np.load(task.data / "truth.npz"))
    return {"variant": task.variant, "seed": task.seed, **_speed(events, config), **scored}


def _speed(events: Sequence[dict[str, Any]], config: Config) -> dict[str, Any]:
    """Speed of the fastest epoch, which other work on the machine has disturbed least."""
    fastest = max(event["windows_per_s"] for event in events if event["event"] == "epoch")
    parameters = next(event["num_parameters"] for event in events if event["event"] == "model")
    return {"num_parameters": parameters, "ms_per_step": 1000 * config.train.batch_size / fastest}


def _scores(trained: Run, corpus: Corpus, truth: np.lib.npyio.NpzFile) -> dict[str, Any]:
    test = corpus.find([clip_id for clip_id, role in trained.roles.items() if role == "test"])
    tested = predict(trained.model, corpus, test, trained.config.data)
    sums = torch.stack([clip.all for clip in corpus_moments(tested, corpus)])
    scores = ccc_of_moments(sums.sum(0))
    scored = {"ccc": {"valence": float(scores[0]), "arousal": float(scores[1])}, "sums": sums.tolist()}
    return scored if tested[0].weights is None else {**scored, "trust": _trust(tested, corpus, truth, trained.sigma)}


def _trust(
    tested: Sequence[Prediction], corpus: Corpus, truth: np.lib.npyio.NpzFile, sigma: float | None
) -> dict[str, Any]:
    """Each stream's weight against the truth; its reliability too, where there is one; its calibration, if taught."""
    aliases = [stream_alias(stream.name) for stream in corpus.streams]
    ratio = np.concatenate([snr_on_grid(truth, p.clip_id, aliases, p.times_s) for p in tested])
    mask = np.concatenate([p.mask for p in tested]) & np.isfinite(ratio)
    taught = reliability_report(tested, corpus, sigma) if sigma and tested[0].reliability is not None else None
    streams: dict[str, Any] = {}
    for m, stream in enumerate(corpus.streams):
        row, valid = taught.streams[stream.label].to_json() if taught else {}, mask[:, m]
        weights = np.concatenate([p.weights[:, m] for p in tested if p.weights is not None])
        for name, chosen in (("corrupted", ratio[:, m] < 0), ("clean", ratio[:, m] >= 0)):
            counted = weights[valid & chosen]
            row[f"weight_{name}"] = float(counted.mean()) if len(counted) else float("nan")
        if tested[0].reliability is not None:
            reliability = np.concatenate([p.reliability[:, m] for p in tested if p.reliability is not None])
            row["spearman_snr"] = spearman(reliability[valid], ratio[valid, m])
        streams[stream.label] = row
    return {"sigma": sigma, "streams": streams} if taught else {"streams": streams}


def drawn_scores(by_seed: Sequence[np.ndarray], seed: int = 0) -> np.ndarray:
    """(DRAWS,) mean over seeds of the pooled CCC, drawing seeds and, within each, clips.

    by_seed: for each seed (clips, 2, 6) moments. The draws depend on the shapes alone, so that variants are paired.
    """
    rng = np.random.default_rng(seed)
    scores = []
    for sums in by_seed:
        times_drawn = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=DRAWS).astype(np.float64)
        pooled = torch.tensordot(torch.from_numpy(times_drawn), torch.from_numpy(sums), dims=1)
        scores.append(ccc_of_moments(pooled).mean(-1).numpy())
    chosen = rng.integers(len(by_seed), size=(DRAWS, len(by_seed)))
    return np.take_along_axis(np.stack(scores, 1), chosen, axis=1).mean(1)


def interval(draws: np.ndarray) -> list[float]:
    return [float(value) for value in np.percentile(draws, [2.5, 97.5])]


def summarise(results: Sequence[dict[str, Any]], variants: Sequence[str], base: str = BASE) -> list[dict[str, Any]]:
    """One row per variant: means over seeds, and intervals."""
    runs = {name: sorted((r for r in results if r["variant"] == name), key=lambda r: r["seed"]) for name in variants}
    draws = {name: drawn_scores([np.array(r["sums"]) for r in group]) for name, group in runs.items()}
    mean = {name: _mean(r["ccc"][target] for r in repeats for target in r["ccc"]) for name, repeats in runs.items()}
    rows = []
    for name, members in runs.items():
        row = {"variant": name, "num_seeds": len(members), "ccc": mean[name], "interval": interval(draws[name])}
        row |= {target: _mean(r["ccc"][target] for r in members) for target in ("valence", "arousal")}
        if base in runs and name != base:
            row |= {"difference": mean[name] - mean[base], "difference_interval": interval(draws[name] - draws[base])}
        streams = [stream for r in members for stream in r.get("trust", {"streams": {}})["streams"].values()]
        for key in ("spearman_snr", "spearman", "ece", "weight_corrupted", "weight_clean"):
            row[key] = _mean(stream[key] for stream in streams if key in stream)
        if base in runs and name != base:
            row |= _gain(members, runs[base], "spearman_snr")
        row |= {key: _mean(r[key] for r in members) for key in ("num_parameters", "ms_per_step")}
        rows.append(row)
    return rows


def _gain(members: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]], key: str) -> dict[str, Any]:
    """The difference of a figure of the gate to that of the base, seed by seed; empty where one has no gate."""
    if any("trust" not in r for r in (*members, *base)):
        return {}
    own, other = (
        np.array([_mean(s[key] for s in r["trust"]["streams"].values()) for r in group]) for group in (members, base)
    )
    gains = own - other
    drawn = gains[np.random.default_rng(0).integers(len(gains), size=(DRAWS, len(gains)))].mean(1)
    return {f"{key}_difference": float(gains.mean()), f"{key}_difference_interval": interval(drawn)}


def _mean(values: Any) -> float:
    numbers = list(values)
    return statistics.fmean(numbers) if numbers else float("nan")


def table(rows: Sequence[dict[str, Any]], base: str = BASE) -> str:
    """The rows as Markdown."""
    lines = [
        f"| variant | CCC (95 %) | − {base} (95 %) | ρ(r, SNR) | − {base} (95 %) | ρ(1 − r, error) | ECE"
        " | weight if corrupted | if clean | parameters | ms per step |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["variant"], _cell(row["ccc"], row["interval"])]
        cells += [_cell(row["difference"], row["difference_interval"], "+") if "difference" in row else "–"]
        keys = ("spearman_snr", "spearman", "ece", "weight_corrupted", "weight_clean")
        figures = ["–" if np.isnan(row[key]) else f"{row[key]:.3f}" for key in keys]
        gain = "spearman_snr_difference"
        cells += [figures[0], _cell(row[gain], row[f"{gain}_interval"], "+") if gain in row else "–", *figures[1:]]
        cells += [f"{row['num_parameters']:.0f}", f"{row['ms_per_step']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float, bounds: Sequence[float], sign: str = "") -> str:
    return f"{value:{sign}.3f} [{bounds[0]:{sign}.3f}, {bounds[1]:{sign}.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", default="sage,concat,concat-quality,visual,audio")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--streams", default=",".join(SyntheticData.streams))
    parser.add_argument("--equal", action="store_true", help="the same noise everywhere: gates must tie with concat")
    parser.add_argument("--level", action="store_true", help="the size of features does not reveal noise")
    parser.add_argument("--no-quality", dest="quality", action="store_false")
    parser.add_argument("--ambiguous", action="store_true", help="the same evidence means another noise by stage")
    parser.add_argument("--clips", type=int, default=SyntheticData.clips)
    parser.add_argument("--set", dest="assignments", action="append", default=[])
    parser.add_argument("--base", default=BASE, help="the variant that differences are taken from")
    parser.add_argument("--shift", action="store_true", help="score corrupted streams too")
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp(prefix="reliability-"))
    variants, streams = options.variants.split(","), tuple(options.streams.split(","))
    settings = {name: getattr(options, name) for name in ("equal", "level", "quality", "ambiguous", "clips")}
    settings["subjects"] = options.clips // 2
    seeds, tasks = range(options.first_seed, options.first_seed + options.seeds), []
    for seed in seeds:
        data = out / f"data-{seed}"
        data.mkdir(parents=True)
        synthesise(data, SyntheticData(seed=seed, streams=streams, **settings))
        tasks += [Task(variant, seed, data, out, tuple(options.assignments)) for variant in variants]
    results = []
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        for result in pool.map(run, tasks):
            score = ", ".join(f"{target} {value:.3f}" for target, value in result["ccc"].items())
            print(f"{result['variant']} seed {result['seed']}: {score}", flush=True)
            results.append(result)
    report(out, results, variants, options.base)
    if options.shift:
        print(f"\n{shift_table(out, variants, seeds)}")


def shift_table(out: Path, variants: Sequence[str], seeds: Sequence[int]) -> str:
    """Trained runs -> Markdown: the clean score, and the area of each kind of corruption, mean over seeds."""
    titles, lines = ["variant", "clean", *SHIFTS, "mean of all"], list[str]()
    for variant in variants:
        curves = [robustness(out / f"{variant}-{seed}") for seed in seeds]
        areas = [_mean(_area(curve, names) for curve in curves) for names in SHIFTS.values()]
        cells = [_mean(curve.clean["mean"] for curve in curves), *areas, _mean(areas)]
        lines.append(f"| {' | '.join([f'`{variant}`', *(f'{cell:.3f}' for cell in cells)])} |")
    return "\n".join([f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}", *lines])


def _area(curves: Robustness, names: Sequence[str]) -> float:
    """Mean height of the curves of these kinds; a kind of a modality that a run does not take leaves its score."""
    areas = [curves.kinds[name].area for name in names]
    return _mean(area["mean"] if area else curves.clean["mean"] for area in areas)


def report(out: Path, results: Sequence[dict[str, Any]], variants: Sequence[str], base: str = BASE) -> None:
    """Prints the table and writes `reliability.json`, `reliability.md` and a diagram per gate (of its first seed)."""
    rows = summarise(results, variants, base)
    (out / "reliability.json").write_text(json.dumps(plain({"rows": rows, "runs": list(results)})), encoding="utf-8")
    (out / "reliability.md").write_text(table(rows, base) + "\n", encoding="utf-8")
    for result in results:
        if result["seed"] == min(other["seed"] for other in results) and "sigma" in result.get("trust", {}):
            plot_diagram(out / f"diagram-{result['variant']}.png", _read_report(result["trust"]), result["variant"])
    print(f"\n{table(rows, base)}\n\n{out}")


def _read_report(values: dict[str, Any]) -> ReliabilityReport:
    """Returns a report from its JSON, in which None stands for NaN."""
    streams = {}
    for label, row in values["streams"].items():
        bins = {name: np.array(row["diagram"][name], np.float64) for name in ("reliability", "target")}
        diagram = ReliabilityDiagram(**bins, count=np.array(row["diagram"]["count"], np.int64))
        rank_correlation, ece = number_of(row["spearman"]), number_of(row["ece"])
        streams[label] = StreamReliability(row["num_steps"], rank_correlation, ece, diagram)
    return ReliabilityReport(values["sigma"], streams)


if __name__ == "__main__":
    main()
