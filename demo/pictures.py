"""Pictures of the demo's held-out clips, and a table of what the gate does in the drawn stages."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..data import open_store
from ..data.windows.corpus import Corpus
from ..fusion.evaluation.clip_picture import draw_clip
from ..fusion.evaluation.metrics import corpus_moments, pooled_ccc
from ..fusion.evaluation.predict import TARGETS, Prediction, predict
from ..fusion.evaluation.report import cautions
from ..fusion.evaluation.score import load_part, score_run
from ..fusion.evaluation.style import save_picture
from ..fusion.run_folder import Run, load_run

Spans = list[tuple[float, float, str]]
EDGE_S = 0.3  # of a stage, where the hand or the head still moves


def draw_pictures(out: Path, *places: Path) -> str:
    """Draws a picture of each held-out clip; returns a table of the mean weight and reliability in each drawn stage.

    Args:
        out: folder of the demo.
        places: of two runs; the first has a gate.
    """
    runs = [load_run(place) for place in places]
    corpus = load_part(runs[0], open_store(runs[0].cache), Path(runs[0].labels), "test")
    clips = range(len(corpus.clips))
    each = [predict(run.model, corpus, clips, run.config.data) for run in runs]
    spans = _read_stages(out / "stages.csv")
    subtitle = [_scores(places), *cautions(runs[0].random_weights)]
    for number, (prediction, other) in enumerate(zip(*each, strict=True)):
        name = Path(prediction.clip_id).stem
        figure = draw_clip(
            prediction,
            [stream.label for stream in runs[0].streams],
            name=runs[0].config.model.variant,
            truth=corpus.truths[number],
            other=(runs[1].config.model.variant, other),
            spans=spans[name],
            title="\n".join([f"{prediction.clip_id}: a drawn face and voice, held out from training", *subtitle]),
            notes=_notes(runs, (prediction, other), corpus),
        )
        save_picture(figure, out / "pictures" / f"{name}.png")
    return _stage_table(runs[0], each[0], spans)


def _scores(places: Sequence[Path]) -> str:
    """Returns the scores of runs as a line: mean CCC and its interval."""
    scores = [score_run(place) for place in places]
    intervals = [score.raw.interval["mean"] for score in scores]
    parts = [
        f"{score.variant} {score.raw.ccc['mean']:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
        for score, interval in zip(scores, intervals, strict=True)
    ]
    return f"CCC on {scores[0].num_clips} held-out clips, 95 % interval: {', '.join(parts)}"


def _notes(runs: Sequence[Run], predictions: Sequence[Prediction], corpus: Corpus) -> dict[str, str]:
    """Returns what stands beside the name of a target: the CCC of each run on this clip."""
    scores = [pooled_ccc([clip.all for clip in corpus_moments([one], corpus)]) for one in predictions]
    names = [run.config.model.variant for run in runs]
    return {
        target: "CCC " + ", ".join(f"{name} {score[target]:.2f}" for name, score in zip(names, scores, strict=True))
        for target in TARGETS
    }


def _read_stages(path: Path) -> dict[str, Spans]:
    spans: dict[str, Spans] = defaultdict(list)
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            spans[row["clip"]].append((float(row["start_s"]), float(row["end_s"]), row["stage"]))
    return spans


def _stage_table(run: Run, predictions: Sequence[Prediction], spans: dict[str, Spans]) -> str:
    """Returns the mean weight and reliability of each stream in each drawn stage, as lines."""
    values: dict[str, list[np.ndarray]] = defaultdict(list)
    for prediction in predictions:
        assert prediction.weights is not None
        assert prediction.reliability is not None
        for start_s, end_s, stage in spans[Path(prediction.clip_id).stem]:
            inside = (prediction.times_s >= start_s + EDGE_S) & (prediction.times_s < end_s - EDGE_S)
            values[stage].append(np.hstack([prediction.weights[inside], prediction.reliability[inside]]))
    labels = [stream.label for stream in run.streams]
    heads = [f"{part} of {label}" for part in ("weight", "reliability") for label in labels]
    lines = ["\nThe gate in the drawn stages of the held-out clips, means"]
    lines.append(f"  {'stage':<12}" + "".join(f"{head:>23}" for head in heads))
    for stage, parts in sorted(values.items()):
        lines.append(f"  {stage:<12}" + "".join(f"{mean:23.2f}" for mean in np.concatenate(parts).mean(axis=0)))
    return "\n".join([*lines, *cautions(run.random_weights)])
