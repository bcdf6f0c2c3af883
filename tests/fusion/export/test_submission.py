"""A submission holds, for frame k of the sample, the value of the grid at frame k's own time."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from sage_va.cli import main
from sage_va.data import Clip, FrameClock, InputError, Store, Track, open_store, stream_name
from sage_va.data.submission import HEADER, check_submission, read_sample
from sage_va.data.windows.load import choose_streams
from sage_va.fusion.config import check_config
from sage_va.fusion.evaluation.metrics import at_instants
from sage_va.fusion.export.pretrained import SAGE
from sage_va.fusion.export.submission import make_submission
from sage_va.fusion.models.variants import build_model
from sage_va.tests.synthetic import tiny

torch.set_num_threads(1)
FINGERPRINT = {"encoder": {"name": "drawn", "modality": "visual"}}
STREAM = stream_name("visual", "drawn", FINGERPRINT)


def add_clip(store: Store, clip_id: str, clock: FrameClock | None, num_frames: int, seed: int = 0) -> None:
    values = np.random.default_rng(seed).standard_normal((num_frames, 4)).astype(np.float32)
    times_s = clock.times_s if clock else np.arange(num_frames) / 25
    mask = np.arange(num_frames) % 7 != 3  # frames without a crop
    clip = Clip(clip_id, clock=clock)
    store.commit(clip, STREAM, Track.of(values, times_s, mask), fingerprint=FINGERPRINT, source_sha256=clip_id)


def untrained(store: Store, hz: float = 25.0) -> SAGE:
    torch.manual_seed(0)
    config = check_config(tiny(model={"variant": "visual"}, data={"grid_hz": hz}), "test")
    return SAGE(build_model(choose_streams(store, ["visual"]), config.model), config)


def write_sample(path: Path, num_frames: dict[str, int]) -> Path:
    rows = [f"{name}/{k + 1:05d}.jpg,0,0" for name, num in num_frames.items() for k in range(num)]
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two clips: at 30 Hz under its own name, and a person of a recording whose frames are unevenly spaced."""
    store = open_store(tmp_path / "c.zarr", "a")
    add_clip(store, "1-30-640x360", FrameClock.regular(30, 40), 40)
    uneven = np.cumsum(np.random.default_rng(1).integers(20, 90, 30))
    add_clip(store, "batch1/video5.mp4#left", FrameClock(Fraction(1, 1000), uneven), 30, seed=1)
    return store


def values_of(out: Path, name: str) -> np.ndarray:
    rows = [line.split(",") for line in out.read_text().splitlines()[1:]]
    return np.array([[float(v), float(a)] for place, v, a in rows if place.partition("/")[0] == name])


def test_frame_k_has_the_value_of_the_grid_at_its_own_time(store: Store, tmp_path: Path) -> None:
    sample = write_sample(tmp_path / "sample.txt", {"video5_left": 30, "1-30-640x360": 40})
    out, model = tmp_path / "out.txt", untrained(store)
    result = make_submission([model], store, sample, out)
    assert check_submission(out, read_sample(sample)).right
    assert (result.num_rows, result.num_clips, result.num_beyond, result.at) == (70, 2, 0, "frames")
    for name, clip_id in (("video5_left", "batch1/video5.mp4#left"), ("1-30-640x360", "1-30-640x360")):
        (prediction,) = model.predict(store, [clip_id])
        times_s = store.clip(clip_id).clock.times_s
        expected = np.column_stack([np.interp(times_s, prediction.times_s, prediction.va[:, d]) for d in range(2)])
        np.testing.assert_allclose(values_of(out, name), expected, atol=1e-5)


def test_several_models_are_averaged_and_smoothed(store: Store, tmp_path: Path) -> None:
    sample, other = write_sample(tmp_path / "sample.txt", {"1-30-640x360": 40}), untrained(store)
    with torch.no_grad():
        other.model.unimodal[0][1].weight.add_(1)
    model = untrained(store)
    outs = [tmp_path / f"{name}.txt" for name in ("one", "other", "both", "smooth")]
    for models, out in zip(([model], [other], [model, other]), outs, strict=False):
        make_submission(models, store, sample, out)
    result = make_submission([model], store, sample, outs[-1], smooth=0.4)
    assert (result.smoothing_s, result.num_models) == ([0.4], 1)
    one, second, both, smooth = (values_of(out, "1-30-640x360") for out in outs)
    np.testing.assert_allclose(both, (one + second) / 2, atol=2e-5)
    assert np.abs(np.diff(smooth, axis=0)).mean() < np.abs(np.diff(one, axis=0)).mean()


def test_rows_behind_the_last_frame_have_its_value_and_are_counted(store: Store, tmp_path: Path) -> None:
    sample = write_sample(tmp_path / "sample.txt", {"1-30-640x360": 43, "video5_left": 30})
    result = make_submission([untrained(store)], store, sample, tmp_path / "out.txt")
    assert (result.num_beyond, result.clips_beyond) == (3, ["1-30-640x360"])
    values = values_of(tmp_path / "out.txt", "1-30-640x360")
    assert (values[40:] == values[39]).all()


@pytest.mark.parametrize(
    ("num_frames", "message"),
    [
        (
            {"video5_left": 30, **{f"video{k}": 5 for k in range(60, 67)}},
            r"7 of 8 clips of sample.txt are not in it with the streams of the model: "
            r"video60, video61, video62, video63, video64 …\. Extract them",
        ),
        (
            {"1-30-640x360": 60},
            r"1-30-640x360: expected about the 60 frames that the sample lists, got a recording of 40",
        ),
        ({"unclocked": 20}, r"unclocked: expected a recording whose frame times are known"),
        ({"twice": 20}, r"twice: expected one clip of that name in .*, got a/twice and b/twice"),
    ],
)
def test_a_cache_that_does_not_have_the_clips_is_refused(
    num_frames: dict[str, int], message: str, store: Store, tmp_path: Path
) -> None:
    add_clip(store, "unclocked", None, 20)
    for folder in "ab":
        add_clip(store, f"{folder}/twice", FrameClock.regular(25, 20), 20)
    sample = write_sample(tmp_path / "sample.txt", num_frames)
    with pytest.raises(InputError, match=message):
        make_submission([untrained(store)], store, sample, tmp_path / "out.txt")
    assert not (tmp_path / "out.txt").exists()


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_line_needs_runs_and_at_most_one_cache(store: Store, tmp_path: Path) -> None:
    sample = write_sample(tmp_path / "sample.txt", {"1-30-640x360": 40, "video5_left": 30})
    untrained(store).save_pretrained(tmp_path / "model")
    options = ("--sample", sample, "--out", tmp_path / "out.txt")
    done = run("submission", "make", tmp_path / "model", tmp_path / "model", tmp_path / "c.zarr", *options)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        f"70 rows of 2 clips -> {tmp_path / 'out.txt'}, mean of 2 models",
        "values at the time of each frame, interpolated linearly between the steps of 25 Hz",
    ]
    for places, message in (
        ((tmp_path / "model",), "expected a run, which knows its cache, got a saved model"),
        ((tmp_path / "nothing",), "is neither a finished run nor a saved model"),
        ((tmp_path / "model", "a.zarr", "b.zarr"), "at most one cache: a.zarr is no run"),
    ):
        refused = run("submission", "make", *places, *options)
        assert refused.exit_code != 0
        assert message in " ".join(refused.output.split())


@pytest.mark.slow
@pytest.mark.shared
def test_the_miniature_of_affwild2(shared: Path, tmp_path: Path) -> None:
    """Real recordings and crops, with gaps: every frame of the sample has the value of its own time."""
    from sage_va.data.manifest import Source
    from sage_va.extract.encoders.factory import encoders_from
    from sage_va.extract.engine.pipeline import extract
    from sage_va.extract.options import ExtractOptions

    root = tmp_path / "mini"
    subprocess.run([sys.executable, shared / "tools/affwild2_miniature.py", root], check=True)
    sample = root / "CVPR_ABAW_VA_test_set_sample.txt"
    recordings = {path.stem: path for path in root.glob("batch*/*")}
    names = read_sample(sample).names
    sources = [
        Source(name, path=recordings[name.removesuffix("_left")], crops=root / "cropped_aligned" / name)
        for name in names
    ]
    store = open_store(tmp_path / "c.zarr", "a")
    visual, _ = encoders_from(visual="test_resnet.r160_in1k", visual_weights="random", device="cpu")
    summary = extract(sources, store, visual=visual, options=ExtractOptions(faces="crops"))
    assert not summary.failures
    model = untrained(store, hz=10)  # slower than most frames, faster than those of video73
    result = make_submission([model], store, sample, tmp_path / "out.txt")
    assert (result.num_rows, result.num_beyond) == (635, 0)
    assert check_submission(tmp_path / "out.txt", read_sample(sample)).right
    for name in names:
        (prediction,) = model.predict(store, [name])
        clock = store.clip(name).clock
        grid = model_grid(prediction.times_s)
        expected, covered = at_instants(prediction.va, grid, clock.times_s)
        assert covered.all()
        np.testing.assert_allclose(values_of(tmp_path / "out.txt", name), expected, atol=1e-5)
    assert not store.read(names[0], store.streams(names[0])[0]).mask.all()


def model_grid(times_s: np.ndarray) -> Any:
    from sage_va.data import Grid

    return Grid(10, round(times_s[0] * 10), len(times_s))
