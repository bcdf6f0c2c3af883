"""`--dry-run`: bytes and time by what a sample really takes, and nothing said where nothing was measured."""

import pytest

from sage_va.data.manifest import Source, find_sources
from sage_va.extract.decode.frames import VISUAL_QUALITY_UNITS
from sage_va.extract.encoders.timm_encoder import TimmEncoder
from sage_va.extract.engine.dry_run import estimate
from sage_va.extract.engine.progress import Tally
from sage_va.extract.faces.finder import FaceFinder
from sage_va.extract.options import ExtractOptions
from sage_va.tests.encoders import TINY_VIT
from sage_va.tests.media import noisy_frames, tone, write_media


class Slow(TimmEncoder):
    """Takes a tenth of a second for each batch, of a clock of its own."""

    num_batches = 0

    def embed(self, items):
        self.num_batches += 1
        return super().embed(items)


@pytest.fixture(scope="module")
def slow():
    return Slow(TINY_VIT, weights="random", device="cpu")


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    for number in range(4):
        write_media(folder / f"{number}.mp4", noisy_frames(20, seed=number), fps=2)
    return folder


def test_time_is_scaled_from_the_first_seconds_of_three_clips(media, slow, monkeypatch):
    monkeypatch.setattr("sage_va.extract.engine.encode_stage.num_cores", lambda: 1)
    monkeypatch.setattr(Tally, "elapsed_s", property(lambda tally: 0.1 * slow.num_batches))
    slow.num_batches = 0
    options = ExtractOptions(batch_size=1, num_decode_threads=1)
    forecast = estimate(find_sources([str(media)]), slow, options=options)
    assert forecast.media_s == pytest.approx(40, abs=2)
    assert slow.num_batches == 3 * 8  # 4 s of 2 images a second
    assert forecast.estimated_s == pytest.approx(forecast.media_s * 2 * 0.1)


def test_what_cannot_be_extracted_is_not_measured(tmp_path, slow):
    (tmp_path / "bad.mp4").write_bytes(b"no")
    assert estimate([Source("bad", path=tmp_path / "bad.mp4")], slow).estimated_s is None
    assert estimate([], slow).estimated_s is None
    sound = write_media(tmp_path / "a.wav", audio=tone(1.0))
    forecast = estimate([Source("a", path=sound)], slow)
    assert (forecast.num_unreadable, forecast.estimated_s) == (0, None)
    assert estimate([Source("a", path=sound)]).estimated_s is None


def test_faces_have_more_signals(media, slow, monkeypatch):
    monkeypatch.setattr("sage_va.extract.engine.dry_run._cost", lambda *_: None)
    finder = object.__new__(FaceFinder)
    sources = find_sources([str(media)])
    whole = estimate(sources, slow, options=ExtractOptions())
    faces = estimate(sources, slow, options=ExtractOptions(faces="detect", finder=finder))
    assert whole.cache_bytes == whole.num_frames * (slow.dim * 2 + (2 + len(VISUAL_QUALITY_UNITS)) * 8)
    assert faces.cache_bytes - whole.cache_bytes == whole.num_frames * (6 - 2) * 8
