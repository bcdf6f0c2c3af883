"""Checks of decoders and encoders: what PyAV reads, and encoders whose batch changes their features."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("av")
from sage_va.extract import AudioEncoder, VisualEncoder, plan_of
from sage_va.extract.checkup import check_batch, decoders


class MeanColour(VisualEncoder):
    name, dim, size = "mean-colour", 3, (16, 16)

    def embed(self, items: Any) -> Any:
        return items.mean(axis=(1, 2)).astype(np.float32)


class BatchMean(MeanColour):
    def embed(self, items: Any) -> Any:
        return super().embed(items) + items.mean()


class Undefined(MeanColour):
    def embed(self, items: Any) -> Any:
        return super().embed(items) * np.float32("nan")


class Loudness(AudioEncoder):
    name, dim, plan = "loudness", 1, plan_of(16_000, step=320, receptive_field=400)

    def embed(self, items: Any) -> Any:
        num_steps = self.plan.num_steps(items.shape[1])
        return np.abs(items[:, : num_steps * 320]).reshape(len(items), num_steps, 320).mean(axis=2, keepdims=True)


def test_the_usual_codecs_are_read() -> None:
    codecs = decoders()
    assert "h264" in codecs.present["video"]
    assert not set(codecs.present["audio"]) & set(codecs.missing["audio"])
    assert codecs.libraries["libavcodec"][0].isdigit()


@pytest.mark.parametrize("encoder", [MeanColour(), Loudness()])
def test_features_that_are_the_same_in_a_batch(encoder: Any) -> None:
    check = check_batch(encoder)
    assert (check.within, check.deviation, check.dtype) == (True, 0.0, "float32")
    assert check.items_per_s > 0


@pytest.mark.parametrize("encoder", [BatchMean(), Undefined()])
def test_features_that_depend_on_the_batch_or_are_not_finite(encoder: Any) -> None:
    assert not check_batch(encoder).within
