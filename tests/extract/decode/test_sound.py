"""Audio that recordings get wrong: AVI chunks, surround, an inverted channel, empty tracks beside the microphone's."""

from pathlib import Path

import av
import numpy as np
import pytest

from sage_va.data import InputError
from sage_va.data.manifest import Source
from sage_va.extract.decode.audio import mono
from sage_va.extract.decode.reader import decode
from sage_va.extract.decode.request import DecodeOptions, DecodeResult
from sage_va.tests.media import RATE, grey_frames, tone, write_audio, write_media


def decoded(path: Path, **options):
    """All samples, and the decoder's report on the audio."""
    parts = list(decode(Source(path.name, path), DecodeOptions(sampling_rate=RATE, **options)))
    samples = [part for part in parts if isinstance(part, np.ndarray)]
    (result,) = (part for part in parts if isinstance(part, DecodeResult))
    return np.concatenate([*samples, np.zeros(0, np.float32)]), result.audio_report


def block_of(layout: str, channels) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.asarray(channels, np.float32), format="fltp", layout=layout)
    frame.sample_rate = RATE
    return frame


def write_avi(path: Path, seconds: float, frames_per_chunk: int) -> Path:
    """An AVI with MP3, of which several frames lie in one chunk: FFmpeg's timestamps, which count chunks, repeat."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        track = container.add_stream("mp3", rate=RATE)
        track.layout = "mono"
        for pixels in grey_frames(round(10 * seconds)):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(tone(seconds)[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        packets = [*track.encode(frame), *track.encode(None)]
        for first in range(0, len(packets), frames_per_chunk):
            group = packets[first : first + frames_per_chunk]
            packet = av.Packet(b"".join(map(bytes, group)))
            packet.stream, packet.time_base = track, group[0].time_base
            packet.pts, packet.dts, packet.is_keyframe = group[0].pts, group[0].dts, True
            container.mux(packet)
    return path


@pytest.mark.parametrize("frames_per_chunk", [1, 8])
def test_audio_of_an_avi_is_counted_whatever_its_chunks_hold(tmp_path: Path, frames_per_chunk: int) -> None:
    samples, report = decoded(write_avi(tmp_path / "a.avi", 6.0, frames_per_chunk))
    assert len(samples) / RATE == pytest.approx(6.0, abs=0.1)
    assert report["audio_dropped_s"] == 0


def test_an_avi_cut_between_two_chunks_is_refused(tmp_path: Path) -> None:
    content = write_avi(tmp_path / "whole.avi", 6.0, 1).read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(content[: content.index(b"00dc", len(content) // 2)])
    with pytest.raises(InputError, match=r"expected the 6\.\d+ s that its header declares, got its end at"):
        decoded(cut)


def test_an_inverted_channel_does_not_silence_stereo() -> None:
    voice = tone(0.1)
    np.testing.assert_allclose(mono(block_of("stereo", [voice, -voice])), voice, atol=1e-6)
    np.testing.assert_allclose(mono(block_of("stereo", [voice, voice])), voice, atol=1e-6)
    np.testing.assert_allclose(mono(block_of("stereo", [voice, 0 * voice])), voice / 2, atol=1e-6)


@pytest.mark.parametrize("layout", ["5.1", "5.1(side)"])  # PyAV makes no blocks of more channels
def test_surround_is_folded_down_with_the_voice_of_the_centre_and_without_the_rumble(layout: str) -> None:
    names = [channel.name for channel in av.AudioLayout(layout).channels]
    voice, rumble = tone(0.1), tone(0.1, hz=40.0)
    sources = {"FC": voice, "LFE": rumble}
    mixed = mono(block_of(layout, [sources.get(name, 0 * voice) for name in names]))
    share = mixed @ voice / (voice @ voice)
    assert share == pytest.approx(0.7071 / (0.5 + 0.5 + 0.7071 + 0.3536 * 2), rel=1e-3)
    np.testing.assert_allclose(mixed, share * voice, atol=1e-6)
    loud = mono(block_of(layout, np.ones((len(names), 100))))
    assert np.abs(loud).max() <= 1 + 1e-6


def write_tracks(path: Path, *tracks) -> Path:
    """A recording with one audio track for each array."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in tracks]
        for stream, samples in zip(streams, tracks, strict=True):
            write_audio(container, stream, samples, 0.0)
    return path


def test_the_first_track_with_sound_is_taken_and_named(tmp_path: Path) -> None:
    voice, silence = tone(2.0), np.zeros(2 * RATE, np.float32)
    samples, report = decoded(write_tracks(tmp_path / "a.mkv", silence, voice, 0.5 * voice))
    np.testing.assert_allclose(samples, voice, atol=1e-3)
    assert report["audio_track"] == "2 of 3, the first with sound"
    samples, report = decoded(write_tracks(tmp_path / "b.mkv", 0.5 * voice, voice))
    np.testing.assert_allclose(samples, 0.5 * voice, atol=1e-3)
    assert "audio_track" not in report
    samples, report = decoded(write_tracks(tmp_path / "c.mkv", silence, silence))
    assert not samples.any()
    assert "audio_track" not in report


def test_one_track_is_not_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sage_va.extract.decode import audio_track

    path = write_media(tmp_path / "a.mp4", grey_frames(25), audio=tone(1.0))
    monkeypatch.setattr(audio_track, "open_media", None)
    assert len(decoded(path)[0])
