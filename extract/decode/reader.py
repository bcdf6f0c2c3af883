"""Recordings and crop folders, decoded once, to images and sound with real timestamps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from numpy.typing import NDArray

from ...data.clip import FrameClock
from ...data.errors import InputError
from ...data.manifest import Source, crop_numbers
from .audio import MAX_BACK_S, Samples, Sound
from .frames import Chunker, Frames, Layer, Timeline, load_crop, sane_aspect
from .keyframes import KeyFrameSkip
from .timestamps import Mender, Timed
from .truncation import TOLERANCE_S, Promise
from .watchdog import STALL_S

DECODER = {"name": "pyav", "version": av.__version__}
_REENCODE = "Repair it or write it again, e.g. `ffmpeg -i IN OUT.mp4`."


@dataclass(frozen=True)
class Wanted:
    """What decoding is to deliver.

    Args:
        shrinker: makes the images; None = no images.
        sampling_rate: of the sound; None = no sound.
        faces: "full" for whole frames, "crops" for the images of a crop folder.
        fps: images per second; None = all of them.
        num_threads: of the video decoder.
        beat: called before the file is opened and for every packet that is read: a sign of life for a watchdog.
    """

    shrinker: Layer | None = None
    sampling_rate: int | None = None
    faces: str = "full"
    fps: float | None = None
    num_threads: int = 1
    beat: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Ending:
    """What is known of a clip once it has been decoded to the end.

    Args:
        clock: the time of every frame of the clip, whatever was kept of them; None without a video stream.
        start_s: first instant of the clip.
        duration_s: from there to the end of its last frame or sample, whichever is later.
        times_s: (T,) of the visual steps.
        shown: (T,) for each visual step the number of the image that it shows, -1 = none.
        sound_start_s: time of the first sample; None = there is no sound.
        visual_report: what the decoder saw of the images, for people.
        audio_report: the same of the sound.
    """

    clock: FrameClock | None
    start_s: float
    duration_s: float
    times_s: NDArray[np.float64]
    shown: NDArray[np.int64]
    sound_start_s: float | None
    visual_report: dict[str, Any]
    audio_report: dict[str, Any]


def decode(source: Source, wanted: Wanted) -> Iterator[Frames | Samples | Ending]:
    """Decodes a clip in one pass: images in chunks, samples in blocks as they come, and the ending last.

    Times are presentation timestamps on the recording's own clock; where some of them are missing, repeated or out of
    order, they are put right and counted in the report (`repaired_times`). Crops beyond the recording's last frame
    are dropped, and counted there too.

    Raises:
        InputError: if anything about the medium is not as it should be.
    """
    _check_faces(source, wanted)
    reader = _Reader(source, wanted)
    wanted.beat()
    if source.path is not None:
        yield from reader.recording(source.path)
    if source.path is None or (wanted.shrinker and wanted.faces == "crops"):
        yield from reader.crops()
    yield reader.ending()


def _check_faces(source: Source, wanted: Wanted) -> None:
    if wanted.shrinker is None:
        return
    if wanted.faces == "full" and source.path is None:
        todo = "Extract with --faces crops."
        raise InputError(source.clip_id, expected="a recording", got="a crop folder alone", todo=todo)
    if wanted.faces == "crops" and source.crops is None:
        todo = "Name the crops in a manifest (column crops), or extract with --faces full."
        raise InputError(source.clip_id, expected="a folder of crops", got="a recording alone", todo=todo)


@dataclass
class _Reader:
    source: Source
    wanted: Wanted
    time_base: Fraction = Fraction(0)
    frames: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])  # pts and duration in ticks, in order
    report: dict[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        source, wanted = self.source, self.wanted
        self.sound = Sound(source.clip_id, wanted.sampling_rate, source.start_s, source.end_s)
        self.timeline = Timeline(wanted.fps)
        self.chunker = Chunker(wanted.shrinker) if wanted.shrinker else None
        self.sees = self.chunker is not None and wanted.faces == "full"
        self.times = Mender()

    def recording(self, path: Path) -> Iterator[Frames | Samples]:
        """Reads the recording: its sound, its frames' times and, where they are wanted, its images."""
        with opened(path, self.source.clip_id) as container:
            video, audio = self._streams(container)
            try:
                yield from self._demux(container, video, audio)
            except FFmpegError as error:
                raise self._damaged(error.strerror or str(error)) from error
            if self.source.end_s is None:
                heard = audio is not None and self.wanted.sampling_rate is not None
                self._check_whole(Promise.of(path, container, video, audio), heard)

    def _streams(self, container: InputContainer) -> tuple[av.VideoStream | None, av.AudioStream | None]:
        video = video_stream(container)
        audio = next(iter(container.streams.audio), None)
        if video is None and (self.chunker or audio is None):
            got = "a file without one" if audio is None else "sound only"
            raise self._error("a video stream", got, "Leave it out, or extract the voice alone (no --visual).")
        for stream in (video, audio):
            if stream is not None and stream.codec_context is None:
                raise self._error(f"{stream.type} that can be decoded", "an unknown codec", _REENCODE)
        if video is not None:
            video.thread_type, video.codec_context.thread_count = "AUTO", self.wanted.num_threads
            self.time_base = video.time_base or Fraction(0)
            if video.average_rate and self.time_base:
                self.times = Mender(round(1 / video.average_rate / self.time_base))
            self.report["num_frames_promised"] = video.frames or None
            self.report["fps_promised"] = float(video.average_rate) if video.average_rate else None
            self.report["container_s"] = container.duration / av.time_base if container.duration else None
        return video, audio

    def _demux(
        self, container: InputContainer, video: av.VideoStream | None, audio: av.AudioStream | None
    ) -> Iterator[Frames | Samples]:
        aspect = sane_aspect(video.sample_aspect_ratio) if video else Fraction(1)
        skip = KeyFrameSkip(self.source.start_s, container.format.name, self.time_base)
        packets: list[tuple[int | None, int]] = []
        seen_s = -np.inf
        for packet in container.demux([stream for stream in (video, audio) if stream]):
            self.wanted.beat()
            if packet.is_corrupt and not _plain(packet):
                raise self._damaged("a damaged packet")
            if packet.stream is audio:
                yield from self._hear(packet)
            elif self.sees:
                for needed in skip.push(packet):
                    yield from self._see(needed, aspect, skip)
                seen_s = self._seconds(self.frames[-1][0]) if self.frames else seen_s
            elif packet.size and not packet.is_discard:
                packets.append((packet.pts, packet.duration or 0))
                seen_s = seen_s if packet.dts is None else self._seconds(packet.dts)
            if self._ends_before(seen_s if video else np.inf) and (audio is None or self.sound.past_end):
                break
        self._note_packets(packets)
        yield from _unless_empty(self.sound.finish())
        if self.sees and self.chunker:
            yield from self._show(self.times.finish(), aspect)
            yield from self.chunker.push(self.timeline.finish(), aspect)
            yield from self.chunker.finish()
        self._note_repairs()

    def _hear(self, packet: av.Packet) -> Iterator[Samples]:
        for block in packet.decode():
            if isinstance(block, av.AudioFrame):
                yield from _unless_empty(self.sound.push(block))

    def _see(self, packet: av.Packet, aspect: Fraction, skip: KeyFrameSkip) -> Iterator[Frames]:
        for frame in packet.decode():
            if not isinstance(frame, av.VideoFrame) or skip.leads(self._time_of(frame)):
                continue
            if frame.is_corrupt:
                raise self._damaged("a damaged frame")
            if self.times.last is None:
                self._note_first(frame, skip)
            yield from self._show(self._timed(frame), aspect)

    def _note_first(self, frame: av.VideoFrame, skip: KeyFrameSkip) -> None:
        self.report |= {"frame_size": f"{frame.width}x{frame.height}", "rotation_degrees": frame.rotation}
        if skip.key_s is not None and self._time_of(frame) != skip.key_s:
            got = f"one at {skip.key_s:.3f} s that cannot be decoded by itself"
            raise self._error("whole key frames, since start_s lies behind one", got, _REENCODE)

    def _show(self, timed: Iterator[Timed], aspect: Fraction) -> Iterator[Frames]:
        for pts, duration, frame in timed:
            self.frames.append((pts, duration))
            if self.chunker and self._inside(self._seconds(pts)):
                yield from self.chunker.push(self.timeline.push(self._seconds(pts), frame), aspect)

    def _timed(self, frame: av.VideoFrame) -> Iterator[Timed]:
        """The frames whose times are settled now that this one has come."""
        last, pts = self.times.last, frame.pts
        if pts is not None and last is not None and self._seconds(last - pts) > MAX_BACK_S:
            got = f"{self._seconds(pts):.3f} s after {self._seconds(last):.3f} s near frame {len(self.frames)}"
            raise self._error("frames with increasing timestamps", got, _REENCODE)
        return self.times.push(pts, frame.duration or 0, frame)

    def _time_of(self, frame: av.VideoFrame) -> float | None:
        return None if frame.pts is None else self._seconds(frame.pts)

    def _note_packets(self, packets: list[tuple[int | None, int]]) -> None:
        """Takes the frames' times from their packets; only where those are not what they should be, by decoding."""
        known = sorted((pts, duration) for pts, duration in packets if pts is not None)
        if len({pts for pts, _ in known}) == len(packets):
            self.frames += known
            return
        assert self.source.path is not None, "it had packets"
        with opened(self.source.path, self.source.clip_id) as container:
            for frame in container.decode(video_stream(container)):
                if isinstance(frame, av.VideoFrame):
                    self.frames += [(pts, duration) for pts, duration, _ in self._timed(frame)]
                if self.frames and self._ends_before(self._seconds(self.frames[-1][0])):
                    return
        self.frames += [(pts, duration) for pts, duration, _ in self.times.finish()]

    def _note_repairs(self) -> None:
        if any(self.times.repaired.values()):
            self.report["repaired_times"] = self.times.repaired

    def crops(self) -> Iterator[Frames]:
        """Reads the crop folder, on the clock of the recording or of the given rate."""
        folder = self.source.crops
        numbers = crop_numbers(folder) if folder and folder.is_dir() else {}
        if not folder or not numbers:
            raise self._error("a folder of crops 00001.jpg, …", f"none in {folder}", "Correct the path.")
        if 0 in numbers:
            raise self._error("crops numbered from 1", numbers[0].name, "Rename them: crop n shows frame n - 1.")
        if self.source.path is None:
            self._count_frames(max(numbers))
        numbers_shown = 0
        for number, (pts, _) in enumerate(self.frames, start=1):
            if self.chunker and self._inside(self._seconds(pts)):
                numbers_shown += number in numbers
                crop = load_crop(numbers[number]) if number in numbers else None
                yield from self.chunker.push(self.timeline.push(self._seconds(pts), crop))
        if self.chunker:
            yield from self.chunker.push(self.timeline.finish())
            yield from self.chunker.finish()
        beyond = sum(number > len(self.frames) for number in numbers) if self.source.end_s is None else None
        self.report |= {"num_crops": len(numbers), "num_crops_shown": numbers_shown, "num_crops_beyond_video": beyond}

    def _count_frames(self, num_frames: int) -> None:
        fps = self.source.fps or self.wanted.fps
        if fps is None:
            todo = "Add a column fps to the manifest, or pass --fps."
            raise self._error("crops with a frame rate", "none: a crop folder alone has no clock", todo)
        clock = FrameClock.regular(fps, num_frames)
        self.time_base = clock.time_base
        self.frames = [(int(pts), 1) for pts in clock.pts]

    def ending(self) -> Ending:
        """What the pass has found out."""
        inside = [(pts, ticks) for pts, ticks in self.frames if self._inside(self._seconds(pts))]
        bounds = [(self._seconds(inside[0][0]), self._frames_end_s(inside))] if inside else []
        if self.sound.start_s is not None and self.sound.end_s is not None:
            bounds.append((self.sound.start_s, self.sound.end_s))
        if not bounds or (self.chunker and not inside):
            raise self._nothing()
        start_s = min(start for start, _ in bounds)
        return Ending(
            clock=FrameClock(self.time_base, np.array([pts for pts, _ in inside], np.int64)) if inside else None,
            start_s=start_s,
            duration_s=max(end for _, end in bounds) - start_s,
            times_s=np.array(self.timeline.times_s, np.float64),
            shown=np.array(self.timeline.shown, np.int64),
            sound_start_s=self.sound.start_s,
            visual_report={"num_frames": len(inside), "first_frame_s": bounds[0][0], **self.report} if inside else {},
            audio_report=self.sound.report(),
        )

    def _check_whole(self, promise: Promise, heard: bool) -> None:
        """A file that was cut off often ends without any error: hold it to what its header promises."""
        if promise.num_frames and not self.frames:
            raise self._broken(f"{promise.num_frames} frames", "none", _REENCODE)
        if heard and promise.sound_s > TOLERANCE_S and self.sound.native_rate is None:
            raise self._broken(f"{promise.sound_s:.2f} s of sound", "none", _REENCODE)
        ends_s = [self._frames_end_s(self.frames)] if self.frames else []
        if not promise.of_frames and self.sound.end_s is not None:
            ends_s.append(self.sound.end_s)
        if ends_s and promise.breaks(max(ends_s)):
            got = f"its end at {max(ends_s):.2f} s: the file was cut off or is damaged"
            raise self._broken(f"{promise.end_s:.2f} s", got, "Get the whole file again.")

    def _broken(self, promised: str, got: str, todo: str) -> InputError:
        return self._error(f"the {promised} that its header promises", got, todo)

    def _frames_end_s(self, frames: list[tuple[int, int]]) -> float:
        pts, ticks = frames[-1]
        gaps = np.diff([pts for pts, _ in frames])
        return self._seconds(pts + (ticks or (int(np.median(gaps)) if len(gaps) else 0)))

    def _seconds(self, ticks: int) -> float:
        return float(ticks * self.time_base)

    def _inside(self, time_s: float) -> bool:
        start_s, end_s = self.source.start_s, self.source.end_s
        return (start_s is None or time_s >= start_s) and (end_s is None or time_s < end_s)

    def _ends_before(self, time_s: float) -> bool:
        return self.source.end_s is not None and time_s >= self.source.end_s

    def _nothing(self) -> InputError:
        if self.frames or self.sound.native_rate:
            got = "none: start_s and end_s lie outside the recording, or it has sound only"
            return self._error("frames between start_s and end_s", got, "Correct them, or leave the clip out.")
        return self._error("frames or sound that can be decoded", "none", _REENCODE)

    def _damaged(self, reason: str) -> InputError:
        where = "at the start" if self.sound.end_s is None else f"after {self.sound.end_s:.2f} s of sound"
        if self.frames:
            where = f"after frame {len(self.frames) - 1} ({self._seconds(self.frames[-1][0]):.2f} s)"
        return self._error("a recording that decodes to its end", f"{reason} {where}", _REENCODE)

    def _error(self, expected: str, got: str, todo: str) -> InputError:
        return InputError(self.source.clip_id, expected=expected, got=got, todo=todo)


def opened(path: Path, clip_id: str) -> InputContainer:
    """A media file, opened.

    Raises:
        InputError: if there is none, or nothing that can be opened.
    """
    if not path.is_file():
        raise InputError(clip_id, expected="a file", got=f"none at {path}", todo="Correct the path.")
    if path.stat().st_size == 0:
        raise InputError(clip_id, expected="a recording", got="an empty file", todo="Get the file again.")
    try:
        options = {"protocol_whitelist": "file"}  # a playlist in disguise must not reach out
        return av.open(f"file:{path}", metadata_errors="replace", options=options, timeout=STALL_S)
    except (FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(clip_id, expected="a recording", got=f"{reason}", todo=_REENCODE) from error


def video_stream(container: InputContainer) -> av.VideoStream | None:
    """The first video stream that is not a cover picture."""
    cover = Disposition.attached_pic
    return next((stream for stream in container.streams.video if not stream.disposition & cover), None)


def _plain(packet: av.Packet) -> bool:
    """Whether it holds samples as they are: then it can be short, which the file's length tells, but not damaged."""
    return packet.stream.codec_context.name.startswith("pcm_")


def _unless_empty(samples: Samples) -> Iterator[Samples]:
    if len(samples):
        yield samples
