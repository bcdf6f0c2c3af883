"""One pass over a recording: packets to the video and the audio reader, and a check that the file is complete."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.error import ArgumentError, FFmpegError

from ...data.errors import InputError
from ...data.manifest import Source
from .audio import MonoAudio, Samples
from .audio_track import audio_track
from .bounds import MAX_PIXELS, check_pixels
from .completeness import Decoded, findings, on_gaps
from .container import REENCODE, open_media, video_stream
from .frame_times import FrameTimes
from .frames import Frames, sane_aspect
from .keyframes import KeyFrameSkip
from .request import DecodeOptions
from .steps import ImageSink
from .truncation import TOLERANCE_S, DeclaredLength
from .video import DamagedFrameError, FrameDecoder, FrameSettler, PacketTimes, VideoReader


class RecordingReader:
    """Reads a recording once: its audio, its frames' times and, where they are wanted, its images.

    Args:
        source: the clip.
        path: of the recording.
        options: what to decode.
        times: gets the times of all frames.
        audio: takes the decoded audio.
        sink: takes the images of whole frames.
        report: gets what the header declares, and the number of repaired timestamps.
    """

    def __init__(
        self,
        source: Source,
        path: Path,
        options: DecodeOptions,
        times: FrameTimes,
        audio: MonoAudio,
        sink: ImageSink,
        report: dict[str, Any],
    ) -> None:
        self._source, self._path, self._options = source, path, options
        self._times, self._audio, self._sink, self._report = times, audio, sink, report
        self._num_packets = 0  # of video

    def read(self) -> Iterator[Frames | Samples]:
        """Yields images in chunks and samples in blocks, as they come.

        Raises:
            InputError: if the recording is absent, damaged or cut off, or has no stream that is wanted.
        """
        with open_media(self._path, self._source.clip_id) as container:
            video, audio = self._streams(container)
            try:
                yield from self._demux(container, video, audio)
            except DamagedFrameError as error:
                raise self._damaged("a damaged frame") from error
            except ArgumentError as error:  # FFmpeg's for an image beyond `max_pixels`
                raise self._damaged(f"invalid data, or an image of over {MAX_PIXELS:,} pixels,") from error
            except FFmpegError as error:
                raise self._damaged(error.strerror or str(error)) from error
            if self._source.end_s is None:
                declared = DeclaredLength.of(self._path, container, video, audio)
                self._check_complete(declared, audio is not None and self._options.sampling_rate is not None)
            if lines := self._findings(container, video, audio):
                self._report["findings"] = lines

    def _streams(self, container: InputContainer) -> tuple[av.VideoStream | None, av.AudioStream | None]:
        video = video_stream(container)
        audio = audio_track(self._path, container, self._source.clip_id, self._options.beat)
        self._audio.only_counts = container.format.name == "avi"  # it has no timestamps: FFmpeg counts its chunks
        if audio is not None and (number := list(container.streams.audio).index(audio)):
            self._audio.track = f"{number + 1} of {len(container.streams.audio)}, the first with sound"
        if video is None and (self._sink.active or audio is None):
            got = "a file without one" if audio is None else "audio only"
            raise self._error("a video stream", got, "Leave it out, or extract the audio alone (no --visual).")
        for stream in (video, audio):
            if stream is not None and stream.codec_context is None:
                raise self._error(f"{stream.type} that can be decoded", "an unknown codec", REENCODE)
        if video is not None:
            self._prepare(container, video)
        return video, audio

    def _prepare(self, container: InputContainer, video: av.VideoStream) -> None:
        check_pixels(self._source.clip_id, video.codec_context.width, video.codec_context.height, REENCODE)
        video.thread_type, video.codec_context.thread_count = "AUTO", self._options.num_threads
        self._times.time_base = video.time_base or self._times.time_base
        self._report["num_frames_promised"] = video.frames or None
        self._report["fps_promised"] = float(video.average_rate) if video.average_rate else None
        self._report["container_s"] = container.duration / av.time_base if container.duration else None

    def _demux(
        self, container: InputContainer, video: av.VideoStream | None, audio: av.AudioStream | None
    ) -> Iterator[Frames | Samples]:
        settler = FrameSettler(self._source.clip_id, self._times, _usual_gap(video))
        reader = self._video_reader(container, video, settler)
        for packet in container.demux([stream for stream in (video, audio) if stream]):
            self._options.beat()
            if packet.is_corrupt and not _is_pcm(packet):
                raise self._damaged("a damaged packet")
            self._num_packets += packet.stream is video and packet.size > 0 and not packet.is_discard
            yield from self._decode_audio(packet) if packet.stream is audio else reader.push(packet)
            if self._times.end_s is not None and self._is_over(reader if video else None, audio is not None):
                break
        yield from _unless_empty(self._audio.finish())
        yield from reader.finish()
        if any(settler.repair.repaired.values()):
            self._report["repaired_times"] = settler.repair.repaired

    def _is_over(self, reader: VideoReader | None, has_audio: bool) -> bool:
        """True if all streams have been read to the end of the cut."""
        video_over = self._times.is_past(reader.reached_s if reader else math.inf)
        return video_over and (self._audio.past_end or not has_audio)

    def _video_reader(
        self, container: InputContainer, video: av.VideoStream | None, settler: FrameSettler
    ) -> VideoReader:
        clip_id, times = self._source.clip_id, self._times
        if video is None or not self._sink.active or self._options.faces != "full":
            return PacketTimes(clip_id, self._path, times, settler, self._options)
        skip = KeyFrameSkip(self._source.start_s, container.format.name, times.time_base)
        aspect = sane_aspect(video.sample_aspect_ratio)
        return FrameDecoder(clip_id, times, settler, self._sink, aspect, skip, self._report)

    def _decode_audio(self, packet: av.Packet) -> Iterator[Samples]:
        for block in packet.decode():
            if isinstance(block, av.AudioFrame):
                yield from _unless_empty(self._audio.push(block))

    def _check_complete(self, declared: DeclaredLength, decoded_audio: bool) -> None:
        """Compares what was decoded with the header: a file that was cut off often ends without any error."""
        times, audio = self._times, self._audio
        if declared.num_frames and not times.frames:
            raise self._incomplete(f"{declared.num_frames} frames", "none", REENCODE)
        if decoded_audio and declared.audio_s > TOLERANCE_S and audio.native_rate is None:
            raise self._incomplete(f"{declared.audio_s:.2f} s of audio", "none", REENCODE)
        ends_s = [times.end_of(times.frames)] if times.frames else []
        if not declared.of_frames and audio.end_s is not None:
            ends_s.append(audio.end_s)
        if ends_s and declared.is_missed_by(max(ends_s)):
            got = f"its end at {max(ends_s):.2f} s: the file was cut off or is damaged"
            raise self._incomplete(f"{declared.end_s:.2f} s", got, "Get the whole file again.")

    def _findings(
        self, container: InputContainer, video: av.VideoStream | None, audio: av.AudioStream | None
    ) -> list[str]:
        """Returns contradictions of the recording; of a cut, whose rest was not read, only gaps between its frames."""
        if self._source.start_s is not None or self._source.end_s is not None:
            return list(on_gaps(self._times.gaps_s(), video.frames if video else 0))
        decoded = Decoded(
            self._times,
            self._audio,
            num_packets=self._num_packets,
            codec=video.codec_context.name if video else "",
            rate=self._report.get("fps_promised"),
            repaired=self._report.get("repaired_times", {}),
            has_track=audio is not None,
        )
        return findings(self._path, container, DeclaredLength.of(self._path, container, video, audio), decoded)

    def _incomplete(self, declared: str, got: str, todo: str) -> InputError:
        return self._error(f"the {declared} that its header declares", got, todo)

    def _damaged(self, reason: str) -> InputError:
        frames, audio_s = self._times.frames, self._audio.end_s
        place = "at the start" if audio_s is None else f"after {audio_s:.2f} s of audio"
        if frames:
            place = f"after frame {len(frames) - 1} ({self._times.last_s:.2f} s)"
        return self._error("a recording that decodes to its end", f"{reason} {place}", REENCODE)

    def _error(self, expected: str, got: str, todo: str) -> InputError:
        return InputError(self._source.clip_id, expected=expected, got=got, todo=todo)


def _usual_gap(video: av.VideoStream | None) -> int:
    """Returns ticks from frame to frame by the container's rate; 0 = unknown."""
    if video is None or not video.average_rate or not video.time_base:
        return 0
    return round(1 / video.average_rate / video.time_base)


def _is_pcm(packet: av.Packet) -> bool:
    """True if a packet holds plain samples: it can then be short, which the file's length shows, but not damaged."""
    return packet.stream.codec_context.name.startswith("pcm_")


def _unless_empty(samples: Samples) -> Iterator[Samples]:
    if len(samples):
        yield samples
