"""Windows of audio: each step once, in its place, whatever the blocks; signals as a second implementation has them."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_va.data import InputError, open_store
from sage_va.data.manifest import Source
from sage_va.extract.decode.reader import decode
from sage_va.extract.decode.request import DecodeOptions
from sage_va.extract.encoders import vad
from sage_va.extract.encoders.audio_windows import Windower, WindowPlan, measure_audio
from sage_va.extract.encoders.transformers_encoder import TransformersEncoder
from sage_va.extract.encoders.vad import VoiceDetector, voice_fingerprint
from sage_va.extract.engine.pipeline import extract
from sage_va.extract.identity import stream_of
from sage_va.extract.options import ExtractOptions
from sage_va.tests.encoders import write_wav2vec2
from sage_va.tests.media import tone, write_media

RAW = WindowPlan(16_000, 320 * 20 + 80, 320, 400, 200, 20, 3, padded=False)
PADDED = WindowPlan(16_000, 320 * 20, 320, 400, 0, 20, 3, padded=True)
BASE = WindowPlan(16_000, 320_080, 320, 400, 200, 1000, 50, padded=False)


def cut(plan, samples, blocks):
    windower = Windower(plan)
    windows = []
    for block in np.split(samples, np.cumsum(blocks)):
        windows += windower.push(block)
    return [*windows, *windower.finish()]


@settings(max_examples=300)
@given(st.sampled_from([RAW, PADDED]), st.integers(0, 40_000), st.lists(st.integers(0, 9_000), max_size=8))
def test_every_step_comes_once_with_its_own_sound(plan, num_samples, blocks):
    samples = np.arange(1, num_samples + 1, dtype=np.float32)
    windows = cut(plan, samples, blocks)
    place = 0
    for window in windows:
        first_step = (int(window.samples[0]) - 1) // plan.step  # sample n has the value n + 1
        assert (int(window.samples[0]) - 1) % plan.step == 0
        assert first_step + window.first == place
        place = first_step + window.end
        assert window.end > window.first
        assert len(window.quality) == len(window.audible) == window.end - window.first
        assert len(window.samples) == plan.window or (not plan.padded and len(windows) == 1)
    assert place == plan.num_steps(num_samples)
    for before, after in pairwise(windows):
        assert before.end == plan.window_steps - plan.context_steps
        assert after.first >= plan.context_steps


def test_raw_windows_end_where_the_recording_ends():
    last = cut(RAW, np.arange(1, 20_001, dtype=np.float32), [1000] * 20)[-1]
    assert 20_000 - int(last.samples[-1]) < RAW.step


def test_one_second_has_49_steps_of_wav2vec2():
    assert BASE.num_steps(16_000) == 49
    assert BASE.num_steps(399) == 0
    np.testing.assert_allclose(BASE.times_s(3, 2.5), [2.5125, 2.5325, 2.5525])


def test_absent_sound_has_at_least_one_step():
    assert RAW.absent_steps(0.0) == 1
    assert RAW.absent_steps(1.0) == 49
    assert PADDED.absent_steps(1.0) == 50


@pytest.mark.parametrize("plan", [RAW, PADDED])
def test_loudness_and_clipping(plan):
    samples = np.zeros(6_400, np.float32)
    samples[3_200:] = 0.5
    samples[4_800:] = 1.0
    quality = measure_audio(samples, plan)
    np.testing.assert_allclose(quality[[0, -2]], [[-120, 0], [0, 1]], atol=1e-4)
    assert quality[11, 0] == pytest.approx(-6.02, abs=0.01)


def test_a_gap_in_the_sound_is_not_audible():
    samples = np.full(12_800, 0.1, np.float32)
    samples[3_200:6_400] = 0
    audible = np.concatenate([window.audible for window in cut(RAW, samples, [5_000])])
    times = RAW.times_s(len(audible), 0)
    assert not audible[(times > 0.22) & (times < 0.38)].any()
    assert audible[(times < 0.18) | (times > 0.42)].all()


@pytest.mark.slow
def test_loudness_as_librosa_has_it():
    from sage_va.extract.encoders.librosa_encoders import librosa

    samples = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    for plan, centred in ((RAW, False), (PADDED, True)):
        theirs = librosa.feature.rms(y=samples, frame_length=400, hop_length=320, center=centred, pad_mode="constant")
        mine = measure_audio(samples, plan)[:, 0]
        np.testing.assert_allclose(mine, 20 * np.log10(theirs[0][: len(mine)]), atol=1e-3)


def voices(plan, samples, blocks=()):
    windows = cut(replace(plan, voice={"name": "silero-vad"}), samples, blocks)
    return np.concatenate([window.quality for window in windows])


@pytest.fixture
def silero():
    pytest.importorskip("silero_vad.data", reason="no silero-vad")


def test_voice_is_a_third_signal_only_when_asked(silero):
    samples = np.random.default_rng(0).standard_normal(20_000).astype(np.float32) * 0.01
    plain = np.concatenate([window.quality for window in cut(RAW, samples, [])])
    quality = voices(RAW, samples)
    assert (plain.shape[1], quality.shape[1], quality.dtype) == (2, 3, np.float32)
    np.testing.assert_array_equal(quality[:, :2], plain)
    assert ((quality[:, 2] >= 0) & (quality[:, 2] < 0.5)).all()
    assert RAW.quality_units.keys() == {"rms_dbfs", "clipping"}
    with_voice = replace(RAW, voice={"name": "silero-vad"})
    assert list(with_voice.quality_units.items())[2] == ("voice", "probability")
    assert with_voice.to_json() == {**RAW.to_json(), "voice": {"name": "silero-vad"}}
    assert "voice" not in RAW.to_json()


@pytest.mark.parametrize("plan", [RAW, PADDED, BASE])
@pytest.mark.parametrize("num_samples", [400, 511, 513, 33_333])
def test_voice_does_not_depend_on_blocks_or_windows(silero, plan, num_samples):
    samples = np.random.default_rng(0).standard_normal(num_samples).astype(np.float32) * 0.3
    detector = VoiceDetector()
    detector.push(samples)
    detector.finish()
    centres = np.arange(plan.num_steps(num_samples)) * plan.step + plan.first_centre
    probabilities = voices(plan, samples, [160, 1_000, 3, 9_000])[:, 2]
    np.testing.assert_array_equal(probabilities, detector.at(centres))


@pytest.mark.shared
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize(
    ("name", "speech"), [("grid_bbaf2n.mpg", 0.41), ("torchcodec_nasa_13013.mp4", 0.83), ("liveportrait_d18.mp4", 0.0)]
)
def test_voice_is_that_of_the_package_on_real_recordings(silero, shared, name, speech):
    """Against the package's own pass over the whole recording, and the share of speech in the list of the media."""
    from silero_vad import load_silero_vad

    recording = decode(Source("a", path=shared / "media" / name), DecodeOptions(sampling_rate=16_000))
    blocks = [part for part in recording if isinstance(part, np.ndarray)]
    samples = np.concatenate([np.zeros(0, np.float32), *blocks])
    reference = load_silero_vad().audio_forward(torch.from_numpy(samples), 16_000)[0].numpy()
    centres = np.arange(BASE.num_steps(len(samples))) * BASE.step + BASE.first_centre
    probabilities = voices(BASE, samples, [len(block) for block in blocks])[:, 2]
    np.testing.assert_array_equal(probabilities, reference[centres // 512])
    assert (probabilities >= 0.5).mean() == pytest.approx(speech, abs=0.06)


def test_recordings_at_once_do_not_share_a_model(silero):
    """Each model holds the state of one recording; a finished one is used again, from the start."""
    noise = np.random.default_rng(0).standard_normal((2, 512 * 20)).astype(np.float32) * 0.3
    places = np.arange(0, noise.shape[1], 512)
    alone = []
    for samples in noise:
        detector = VoiceDetector()
        detector.push(samples)
        detector.finish()
        alone.append(detector.at(places))
    together = [VoiceDetector(), VoiceDetector()]
    for first in range(0, noise.shape[1], 1000):
        for detector, samples in zip(together, noise, strict=True):
            detector.push(samples[first : first + 1000])
    for detector, probabilities in zip(together, alone, strict=True):
        detector.finish()
        np.testing.assert_array_equal(detector.at(places), probabilities)


def test_the_number_of_threads_stays(silero, monkeypatch):
    monkeypatch.setattr(vad, "_idle_models", [])
    num_threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        VoiceDetector()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(num_threads)


def test_voice_needs_its_package_and_its_rate(monkeypatch):
    with pytest.raises(InputError, match=r"vad: silero-vad takes audio at 16000 Hz, and the encoder takes 8000 Hz"):
        voice_fingerprint(8_000)
    monkeypatch.setattr(vad, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package silero-vad 6\.2 or newer; installed is .*pip install"):
        voice_fingerprint(16_000)


def test_what_a_windower_holds_does_not_grow_with_the_recording(silero):
    """Its samples and voices: a recording ten times as long takes no more, but for the answers themselves."""
    most = []
    for seconds in (90, 900):
        windower, held = Windower(replace(BASE, voice={"name": "silero-vad"})), 0
        block = np.full(16_000, 0.1, np.float32)
        for _ in range(seconds):
            for window in windower.push(block):
                held = max(held, window.num_bytes)
            held = max(held, sum(piece.nbytes for piece in (*windower._pieces, windower._voice._rest)))
        most.append(held)
    assert most[1] <= 1.05 * most[0]


def test_voice_reaches_the_cache_and_names_the_stream(silero, tmp_path):
    folder = str(write_wav2vec2(tmp_path / "w2v"))
    wav2vec2, plain = (
        TransformersEncoder(folder, weights="random", device="cpu", vad=voice) for voice in (True, False)
    )
    path = write_media(tmp_path / "a.wav", audio=tone(1.0))
    store = open_store(tmp_path / "a.zarr", "a")
    assert extract([Source("a", path=path)], store, audio=wav2vec2).failures == []
    track = store.read("a", stream_of(wav2vec2, ExtractOptions()))
    assert track.quality_units["voice"] == "probability"
    assert (track.quality[:, 2] < 0.5).all()  # a hum
    asked, unasked = wav2vec2.fingerprint["preprocessing"], plain.fingerprint["preprocessing"]
    assert asked["voice"] == voice_fingerprint(16_000)
    assert {key: value for key, value in asked.items() if key != "voice"} == unasked
    assert stream_of(wav2vec2, ExtractOptions()) != stream_of(plain, ExtractOptions())
