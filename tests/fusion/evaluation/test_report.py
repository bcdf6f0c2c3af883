"""The score as text."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from sage_va.commands.evaluate import describe_score
from sage_va.data import Grid
from sage_va.data.labels import Truth
from sage_va.fusion.evaluation.metrics import clip_moments, summarise
from sage_va.fusion.evaluation.predict import Prediction
from sage_va.fusion.evaluation.reliability import ReliabilityReport, StreamReliability, diagram
from sage_va.fusion.evaluation.score import Score, ScoredModel

GRID = Grid(25.0, 0, 100)
VA = np.column_stack([np.sin(GRID.times_s), np.cos(GRID.times_s)])
PREDICTION = Prediction(
    "clip",
    GRID.times_s,
    0.8 * VA,
    np.ones((100, 2), bool),
    np.full((100, 2), 0.7),
    np.full((100, 2), 0.5),
    np.ones((100, 1)),
    np.zeros((100, 2, 2)),
)
TRUTH = Truth(GRID.times_s, VA.astype(np.float32), np.arange(100) > 10)


def score_of(num_clips: int, **changes: Any) -> Score:
    face = np.arange(100) < 50
    moments = clip_moments(PREDICTION, GRID, TRUTH, face, 0.0)
    clips = [dataclasses.replace(moments, clip_id=f"clip{i}") for i in range(num_clips)]
    score = Score.of(ScoredModel("runs/a", "sage", "test", None, []), summarise(clips, clips), [0.5], [])
    return dataclasses.replace(score, **changes)


def test_score_as_text() -> None:
    lines = describe_score(score_of(3)).splitlines()
    assert lines[0] == "runs/a (sage), test: 3 clips, 267 labels"
    assert "UNTRAINED" not in "\n".join(lines)
    assert [line.split()[0] for line in lines[2:]] == ["raw", "face", "smoothed", "face", "clip0", "clip1", "clip2"]
    assert "smoothed over 0.5 s (chosen on validation)" in lines[4]
    assert lines[-1].endswith("(89 labels)")


def test_reliability_is_averaged_over_folds() -> None:
    empty = diagram([], [])
    reports = [ReliabilityReport(1.0, {"face": StreamReliability(5, s, 0.1, empty)}) for s in (0.2, 0.4, math.nan)]
    text = describe_score(score_of(2, reliability=reports))
    assert "reliability of face: Spearman(1 - r, error)  0.30, calibration error (ECE)  0.10" in text


def test_untrained_encoders_and_folds_are_named() -> None:
    text = describe_score(
        score_of(2, random_weights=["visual/a-1", "audio/b-2"], num_folds=5, smoothing_s=[1.0, 0.5, 1.0])
    )
    assert "2 clips, 178 labels, 5 folds pooled" in text
    assert "UNTRAINED ENCODER (random weights): visual/a-1, audio/b-2" in text
    assert "smoothed over 0.5/1 s" in text


@pytest.mark.parametrize(("split", "caution"), [("train", "was trained on"), ("val", "chose the epoch"), ("test", "")])
def test_a_score_on_clips_that_decided_something_has_a_caution(split: str, caution: str) -> None:
    second = describe_score(score_of(2, split=split)).splitlines()[1]
    assert ("too good for" in second) == bool(caution)
    assert caution in second


def test_numbers_that_are_not_defined_are_dashes() -> None:
    score = score_of(1)
    score.clips[0].ccc["valence"] = math.nan
    text = describe_score(score)
    assert "[    –,     –]" in text
    assert "V      –  A" in text
    assert "nan" not in text.lower()
