"""Real recordings by others, and files that broke other projects: what decoding finds equals what was measured once."""

import csv

import numpy as np
import pytest

from sage_va.data import InputError
from sage_va.data.manifest import Source
from sage_va.extract.decode.frames import Frames, Letterbox
from sage_va.extract.decode.reader import decode
from sage_va.extract.decode.request import DecodeOptions, DecodeResult
from sage_va.extract.encoders.audio_windows import SILENCE_DBFS, Windower, WindowPlan

pytestmark = pytest.mark.shared
BASE = WindowPlan(16_000, 320_080, 320, 400, 200, 1000, 50, padded=False)


def rows(folder):
    with (folder / "manifest.csv").open() as file:
        return list(csv.DictReader(file))


def seen(path):
    """Number of images, samples and the result."""
    num_images, samples, result = 0, [np.zeros(0, np.float32)], None
    for part in decode(Source(path.name, path=path), DecodeOptions(Letterbox((64, 64), (0, 0, 0)), 16_000)):
        if isinstance(part, Frames):
            num_images += len(part.pixels)
        elif isinstance(part, DecodeResult):
            result = part
        else:
            samples.append(part)
    return num_images, np.concatenate(samples), result


@pytest.mark.slow
def test_real_recordings(shared):
    for row in rows(shared / "media"):
        num_images, samples, result = seen(shared / "media" / row["file"])
        assert num_images == len(result.clock.pts) == int(row["frames_decoded"]), row["file"]
        assert len(set(np.diff(result.clock.pts))) == int(row["n_distinct_dt"]), row["file"]
        assert result.times_s[0] == pytest.approx(float(row["v_first_pts"]), abs=1e-9)
        assert (result.audio_start_s is None) == (row["a_first_pts"] == ""), row["file"]
        if result.audio_start_s is not None:
            assert result.audio_start_s == pytest.approx(float(row["a_first_pts"]), abs=1e-9)
            assert len(samples) / 16_000 == pytest.approx(float(row["a_seconds"]), abs=2e-3)
            windower = Windower(BASE)
            windows = [*windower.push(samples), *windower.finish()]
            audible = np.concatenate([window.audible for window in windows])
            assert audible.any() == (float(row["a_rms"]) > 10 ** (SILENCE_DBFS / 20)), row["file"]


def test_nasty_files(shared):
    for row in rows(shared / "media_nasty"):
        path = shared / "media_nasty" / row["file"]
        good = row["error"] == "" and int(row["frames_decoded"] or 0) > 0
        if not good:
            with pytest.raises(InputError, match=r"expected .* got .*\."):
                seen(path)
            continue
        num_images, _, result = seen(path)
        assert num_images == len(result.clock.pts) == int(row["frames_decoded"]), row["file"]
        assert result.times_s[0] == pytest.approx(float(row["v_first_pts"]), abs=1e-9)
        assert result.visual_report["rotation_degrees"] == int(row["rotation"]), row["file"]


def test_turned_recordings_lie_upright(shared):
    """A landscape recording turned a quarter is portrait: the padding stands left and right."""
    for name, portrait in (("decord_video_180.mov", False), ("decord_video_270.mov", True)):
        parts = decode(
            Source(name, path=shared / "media_nasty" / name), DecodeOptions(Letterbox((64, 64), (255, 0, 255)))
        )
        image = next(part.pixels[0] for part in parts if isinstance(part, Frames))
        padding = (image == (255, 0, 255)).all(axis=-1)
        assert padding[:, 0].all() == portrait
        assert padding[0].all() != portrait
