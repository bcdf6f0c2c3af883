"""The lines that benchmarks/shift.py appends: one finished cell each, with what a bootstrap over clips needs."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sage_va.fusion.ccc import ccc_of_moments

TRUE = "true-ratio:"  # before a condition: `late` with weights from the true ratio of signal to noise
UNIT = 3e4  # means, variances and covariances of numbers within ±1 are kept as integers of 16 bits


@dataclass(frozen=True)
class Line:
    """One finished cell.

    row, size, seed: which; settings: hash of its configuration and data. seconds: CPU time of training and scoring.
    ccc: condition -> mean of valence and arousal, rounded, for readers. labels: for each of the C test clips number,
    and for valence and arousal mean and variance of its labels. estimates: (conditions, C, 2, 3) mean, variance and
    covariance with the labels, zlib in base64.
    """

    seed: int
    size: int
    row: str
    settings: str
    commit: str
    num_parameters: int
    seconds: tuple[float, float]
    ccc: Mapping[str, float]
    labels: list[list[float]]
    estimates: str

    def moments(self) -> dict[str, Tensor]:
        """Returns condition -> (C, 2, 6) moments, as `ccc_of_moments` takes them."""
        labels = torch.tensor(self.labels, dtype=torch.float64)
        n, mean_y, var_y = labels[:, :1].expand(-1, 2), labels[:, 1:3], labels[:, 3:]
        shape = len(self.ccc), len(labels), 2, 3
        raw = np.frombuffer(zlib.decompress(base64.b64decode(self.estimates)), "<i2").reshape(shape)
        mean_x, var_x, cov = (torch.from_numpy(raw / UNIT)).unbind(-1)
        means = [torch.ones(()), mean_x, mean_y, var_x + mean_x**2, var_y + mean_y**2, cov + mean_x * mean_y]
        sums = torch.stack([mean.expand(shape[:-1]) for mean in means], dim=-1) * n[..., None]
        return dict(zip(self.ccc, sums, strict=True))


def pack(moments: Mapping[str, Tensor]) -> dict[str, Any]:
    """Condition -> (C, 2, 6) moments of the test clips -> `ccc`, `labels` and `estimates` of a line."""
    sums = torch.stack(list(moments.values())).double()
    n = sums[..., 0]
    mean_x, mean_y, square_x, square_y, product = (sums[..., 1:] / n[..., None]).unbind(-1)
    estimates = torch.stack([mean_x, square_x - mean_x**2, product - mean_x * mean_y], dim=-1)
    labels = torch.cat([n[0, :, :1], mean_y[0], (square_y - mean_y**2)[0]], dim=-1)
    scores = ccc_of_moments(sums.sum(1)).mean(-1)
    packed = zlib.compress((estimates * UNIT).round().numpy().astype("<i2").tobytes(), 9)
    return {
        "ccc": {name: round(float(score), 4) for name, score in zip(moments, scores, strict=True)},
        "labels": [[round(cell, 6) for cell in row] for row in labels.tolist()],
        "estimates": base64.b64encode(packed).decode(),
    }


def read_lines(path: Path) -> list[Line]:
    """Reads all whole lines of a file; a torn one, of a writer that was killed, is left out."""
    lines: list[Line] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            lines.append(Line(**json.loads(text)))
        except (ValueError, TypeError):
            continue
    return lines
