"""The drawn corpus: files that decode as stated, labels that fit them, and stages that hide what they should."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")
pytest.importorskip("cv2")

from sage_va.demo.corpus import DrawnClip, draw_corpus, h264_encoder  # noqa: E402
from sage_va.demo.face import draw_frames  # noqa: E402
from sage_va.demo.script import STAGES, Array, Script, cast, write_script  # noqa: E402
from sage_va.demo.voice import speak  # noqa: E402

FPS, SIZE, SECONDS = 25, 64, 4.0


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[DrawnClip]]:
    out = tmp_path_factory.mktemp("corpus")
    return out, draw_corpus(out, num_clips=2, seconds=SECONDS, fps=FPS, size=SIZE, num_subjects=2, seed=3)


@pytest.fixture(scope="module")
def script() -> Script:
    """A minute in which every stage occurs."""
    script = write_script(np.random.default_rng(1), seconds=60, fps=FPS)
    assert set(script.stage) == set(range(len(STAGES)))
    return script


def pictures(path: Path) -> Array:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def inside(script: Script, stage: str, margin_s: float = 0.3) -> Array:
    """Frames of a stage, farther from its edges than the hand and the turn of the head reach."""
    others = script.times_s[script.stage != STAGES.index(stage)]
    return np.array([np.abs(others - time_s).min() > margin_s for time_s in script.times_s])


def test_media_decodes_to_the_stated_frames(corpus):
    for clip in corpus[1]:
        with av.open(str(clip.path)) as container:
            codecs = [container.streams.video[0].codec_context.name, container.streams.audio[0].codec_context.name]
            times_s = [frame.time for frame in container.decode(video=0)]
        assert codecs == ["h264", "aac"]
        np.testing.assert_allclose(times_s, np.arange(SECONDS * FPS) / FPS, atol=1e-9)
        np.testing.assert_array_equal(clip.times_s, np.arange(SECONDS * FPS) / FPS)


def test_sound_decodes_in_time(corpus):
    clip = corpus[1][0]
    with av.open(str(clip.path)) as container:
        frames = list(container.decode(audio=0))
    recorded = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    said = speak(cast(0, seed=3), write_script(np.random.default_rng([3, 0]), seconds=SECONDS, fps=FPS))
    assert len(said) == SECONDS * 16_000
    lags = range(-40, 41)
    start = round(float(frames[0].time) * 16_000)
    match = [np.dot(recorded[2000 + lag - start :][:40_000], said[2000:42_000]) for lag in lags]
    assert lags[int(np.argmax(match))] == 0


def test_labels_have_a_row_for_each_frame(corpus):
    for clip in corpus[1]:
        header, *lines = clip.label_path.read_text().splitlines()
        values = np.array([line.split(",") for line in lines], float)
        assert header == "valence,arousal"
        assert values.shape == clip.va.shape == (SECONDS * FPS, 2)
        annotated = (values != -5).all(axis=1)
        assert 0 < (~annotated).sum() < len(values) / 2
        assert np.abs(clip.va).max() <= 1
        np.testing.assert_allclose(values[annotated], clip.va[annotated], atol=1e-4)


def test_tables_agree_with_the_clips(corpus):
    out, clips = corpus
    listed = rows(out / "manifest.csv")
    assert [(row["clip_id"], out / row["path"], row["subject_id"]) for row in listed] == [
        (clip.name, clip.path, clip.subject_id) for clip in clips
    ]
    assert len({clip.subject_id for clip in clips}) == 2
    spans = defaultdict(list)
    for row in rows(out / "stages.csv"):
        spans[row["clip"]].append((float(row["start_s"]), float(row["end_s"]), STAGES.index(row["stage"])))
    for clip in clips:
        lasts = [round((end - start) * FPS) for start, end, _ in spans[clip.name]]
        np.testing.assert_array_equal(np.repeat([stage for *_, stage in spans[clip.name]], lasts), clip.stage)


def test_a_seed_names_a_corpus(corpus, tmp_path):
    options = {"num_clips": 1, "seconds": SECONDS, "fps": FPS, "size": SIZE, "num_subjects": 2}
    done: list[int] = []
    [again] = draw_corpus(tmp_path / "again", seed=3, progress=done.append, **options)
    [other] = draw_corpus(tmp_path / "other", seed=4, **options)
    first = corpus[1][0]
    assert done == [1]
    assert again.label_path.read_bytes() == first.label_path.read_bytes()
    np.testing.assert_array_equal(pictures(again.path), pictures(first.path))
    assert other.label_path.read_bytes() != first.label_path.read_bytes()
    assert (pictures(other.path) != pictures(first.path)).any()


def test_stages_last_and_are_spread():
    scripts = [write_script(np.random.default_rng([0, k]), seconds=20, fps=FPS) for k in range(60)]
    for script in scripts:
        edges = np.flatnonzero(np.diff(script.stage)) + 1
        lasts_s = np.diff(np.array([0, *edges, len(script.stage)])) / FPS
        assert 2 <= lasts_s.min() <= lasts_s.max() <= 6
    share = np.bincount(np.concatenate([script.stage for script in scripts])) / (60 * 20 * FPS)
    assert 0.4 < share[0] < 0.5
    assert share[1:].min() > 0.1
    va = np.concatenate([script.va for script in scripts])
    assert abs(np.corrcoef(va.T)[0, 1]) < 0.2
    assert (va.max(axis=0) > 0.9).all()
    assert (va.min(axis=0) < -0.9).all()


def test_hidden_and_averted_faces_do_not_tell(script):
    shorter = replace(script, va=-script.va)
    hidden = np.isin(script.stage, [STAGES.index("face_hidden"), STAGES.index("face_away")])
    frames = zip(draw_frames(cast(0), script, SIZE), draw_frames(cast(0), shorter, SIZE), strict=True)
    same = np.array([np.array_equal(one, other) for one, other in frames])
    assert same[hidden].all()
    assert not same[inside(script, "both")].any()


def test_silence_and_noise_bury_the_voice(script):
    sound = speak(cast(0), script)
    level_db = {
        stage: 10 * np.log10((sound.reshape(len(script.stage), -1)[inside(script, stage)] ** 2).mean())
        for stage in STAGES
    }
    assert level_db["silence"] == pytest.approx(-50, abs=1.5)
    assert level_db["both"] > level_db["silence"] + 12
    assert level_db["noise"] > level_db["both"] + 8
    quiet = inside(script, "silence")
    other = speak(cast(0), replace(script, va=-script.va)).reshape(len(quiet), -1)
    np.testing.assert_array_equal(sound.reshape(len(quiet), -1)[quiet], other[quiet])


@pytest.mark.parametrize(
    "wrong", [{"num_clips": 0}, {"seconds": 0.01}, {"size": 63}, {"size": 32}, {"num_subjects": 0}]
)
def test_impossible_corpora_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"draw_corpus: expected .*, got .*\."):
        draw_corpus(tmp_path, **wrong)


def test_a_missing_encoder_is_named(monkeypatch):
    monkeypatch.setattr(av, "codecs_available", set())
    with pytest.raises(ValueError, match="PyAV: expected libx264 or libopenh264, got neither"):
        h264_encoder()
