"""Drawn contents of a report, for tests of its page."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

NUM_STEPS = 100


def media_score() -> dict[str, Any]:
    shares = {"visual": 0.5, "audio": None}
    return {"ccc": {"mean": 0.4}, "valid": shares, "weight": shares, "reliability": shares}


def two_pictures() -> str:
    file = io.BytesIO()
    Image.new("RGB", (48, 24), "orange").save(file, "jpeg")
    return base64.b64encode(file.getvalue()).decode()


def clip_trace(rng: np.random.Generator) -> dict[str, Any]:
    from sage_va.fusion.report.traces import _pair, _shares

    pair = _pair([rng.uniform(-1, 1, NUM_STEPS) for _ in range(2)])
    share = [_shares(rng.random(NUM_STEPS)) for _ in range(2)]
    return {
        "start_s": 0.0, "step_s": 0.1, "width": 1, "num": NUM_STEPS, "truth": pair, "va": pair, "low": pair,
        "high": pair,
        "others": [{"title": "concat", "va": pair}], "mask": [[10, 30], []], "reliability": share, "weights": share,
        "stage": {"num": 3, "starts": [0, 40], "stages": [0, 2]},
        "pictures": {"times_s": [0.0, 5.0], "jpeg": two_pictures(), "size": [24, 24]},
        "wave": {"peaks": base64.b64encode(bytes(range(100))).decode(), "span_s": [0.0, 10.0]},
    }  # fmt: skip


def drawn_contents() -> dict[str, Any]:
    """Returns contents as `fusion.report.contents` does, of three clips."""
    rng = np.random.default_rng(0)
    ends = {"value": 0.5, "std": None, "low": 0.4, "high": 0.6, "p": 0.001, "p_holm": 0.001}
    each = dict.fromkeys(("valence", "arousal", "mean"), ends)
    row = {"is_model": True, "num_runs": 1, "num_parameters": 9, "raw": each, "smoothed": each, "face_only": None}
    clips = [
        {"id": name, "seconds": 10.0, "labels": 100, "ccc": {"valence": score, "arousal": 0.1, "mean": score},
         "rmse": {"valence": 0.2, "arousal": 0.2, "mean": 0.2}, "valid": [0.8, 1.0]}
        for name, score in (("clip10", 0.3), ("clip2", None), ("other", 0.9))
    ]  # fmt: skip
    bins = {"count": [0, 100], "reliability": [None, 0.7], "target": [None, 0.6]}
    return {
        "made": "2026-01-01", "version": "0", "split": "val", "num_folds": None, "cautions": ["scored on val"],
        "random_weights": ["visual/x"], "restricted": True,
        "streams": [{"label": "visual", "modality": "visual"}, {"label": "audio", "modality": "audio"}],
        "standing": {"base": "sage", "num_clips": 3, "num_labels": 300, "too_few": False, "rows": [
            {**row, "title": "sage", "lead": None, "not_compared": None},
            {**row, "title": "concat", "lead": each, "not_compared": None},
            {**row, "title": "late", "lead": None, "not_compared": "no seed in common"}]},
        "clips": clips, "traces": {clip["id"]: clip_trace(rng) for clip in clips},
        "calibration": [{"label": "visual", "sigma": 0.5, "ece": 0.1, "spearman": 0.3, **bins}],
        "robustness": [{"title": "a", "strengths": [0, 1], "kinds": {"noise": {"means": "m", "ccc": [0.5, None]}}}],
        "recordings": [{"title": "a", "clean": media_score(), "kinds": [
            {"name": "dark", "means": "dark", **media_score(), "loss": {"value": -0.1, "low": -0.2, "high": 0.0}}]}],
        "learning": [{"model": "sage", "run": "a", "epoch": [0, 1], "loss": [2, 1], "val": [None, 0.5]}],
        "provenance": [{"title": "sage", "runs": ["a"], "seeds": [0], "cache": "c", "labels": "l", "licence": None,
                        "restricted": True, "clips": {"val": 3}, "smoothing_s": [1.0], "labels_sha256": None,
                        "git": None, "versions": {}, "streams": [], "config": {"seed": "0"}}],
        "limits": ["One."],
    }  # fmt: skip
