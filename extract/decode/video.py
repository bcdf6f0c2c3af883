"""The video stream of a recording: its images, or only its frames' times where no images are wanted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import av

from ...data.errors import InputError
from .audio import MAX_BACK_S
from .bounds import EmptyTime
from .container import REENCODE, open_media, video_stream
from .frame_times import FrameTimes
from .frames import Frames
from .keyframes import KeyFrameSkip
from .request import DecodeOptions
from .steps import ImageSink
from .timestamps import TimedFrame, TimestampRepair


class VideoReader(Protocol):
    """Takes the packets of a video stream in file order."""

    @property
    def reached_s(self) -> float:
        """Instant that reading has reached, in seconds."""
        ...

    def push(self, packet: av.Packet) -> Iterator[Frames]:
        """Takes the next packet; yields the chunks that it completes."""
        ...

    def finish(self) -> Iterator[Frames]:
        """Yields the last chunk; after it, the frames' times are complete."""
        ...


class FrameSettler:
    """Repairs the timestamps of decoded frames, and refuses those that run backwards.

    Args:
        clip_id: names the clip in errors.
        times: the frames so far.
        usual_gap: ticks from frame to frame by the container's rate; 0 = unknown.
    """

    def __init__(self, clip_id: str, times: FrameTimes, usual_gap: int) -> None:
        self._clip_id, self._times = clip_id, times
        self.repair = TimestampRepair(usual_gap)
        self._empty = EmptyTime(clip_id, "frames")

    def push(self, frame: av.VideoFrame) -> Iterable[TimedFrame]:
        """Takes a decoded frame; returns the frames whose times are settled now.

        Raises:
            InputError: if time jumps back by more than `MAX_BACK_S`, or on by hours.
        """
        last, pts, seconds = self.repair.last, frame.pts, self._times.seconds
        if pts is not None and last is not None and pts < last and seconds(last - pts) > MAX_BACK_S:
            got = f"{seconds(pts):.3f} s after {seconds(last):.3f} s near frame {len(self._times.frames)}"
            raise InputError(self._clip_id, expected="frames with increasing timestamps", got=got, todo=REENCODE)
        if pts is not None and last is not None:
            self._empty.add(seconds(pts - last), seconds(pts))
        return self.repair.push(pts, frame.duration or 0, frame)

    def check(self, known: Sequence[tuple[int, int]]) -> None:
        """Refuses times of frames, in order, between which hardly anything lies but gaps.

        Raises:
            InputError: as `EmptyTime` does.
        """
        for (before, _), (pts, _) in pairwise(known):
            self._empty.add(self._times.seconds(pts - before), self._times.seconds(pts))


class FrameDecoder:
    """Decodes the images of a video stream, from the last key frame before the cut.

    Args:
        clip_id: names the clip in errors.
        times: gets the times of all frames.
        settler: repairs the timestamps.
        sink: takes the images.
        aspect: width of the images' pixels over their height.
        skip: holds packets back that lie before the cut.
        report: gets size and rotation of the first frame.
    """

    def __init__(
        self,
        clip_id: str,
        times: FrameTimes,
        settler: FrameSettler,
        sink: ImageSink,
        aspect: Fraction,
        skip: KeyFrameSkip,
        report: dict[str, Any],
    ) -> None:
        self._clip_id, self._times, self._settler, self._sink = clip_id, times, settler, sink
        self._aspect, self._skip, self._report = aspect, skip, report

    @property
    def reached_s(self) -> float:
        """Time of the last settled frame in seconds."""
        return self._times.last_s

    def push(self, packet: av.Packet) -> Iterator[Frames]:
        """Takes the next packet; yields the chunks that it completes.

        Raises:
            InputError: if timestamps run backwards, or the key frame before the cut cannot be decoded by itself.
            DamagedFrameError: if a frame is damaged.
        """
        for needed in self._skip.push(packet):
            for frame in needed.decode():
                if isinstance(frame, av.VideoFrame) and not self._skip.leads(frame.pts):
                    for timed in self._settled(frame):
                        yield from self._show(*timed)

    def finish(self) -> Iterator[Frames]:
        """Yields the last chunk."""
        for timed in self._settler.repair.finish():
            yield from self._show(*timed)
        yield from self._sink.finish(self._aspect)

    def _settled(self, frame: av.VideoFrame) -> Iterable[TimedFrame]:
        if frame.is_corrupt:
            raise DamagedFrameError
        if self._settler.repair.last is None:
            self._note_first(frame)
        return self._settler.push(frame)

    def _show(self, pts: int, duration: int, frame: av.VideoFrame) -> Sequence[Frames]:
        self._times.frames.append((pts, duration))
        return self._sink.push(self._times.seconds(pts), frame, self._aspect)

    def _note_first(self, frame: av.VideoFrame) -> None:
        self._report |= {"frame_size": f"{frame.width}x{frame.height}", "rotation_degrees": frame.rotation}
        key_s = self._skip.key_s
        if key_s is not None and self._time_of(frame) != key_s:
            got = f"one at {key_s:.3f} s that cannot be decoded by itself"
            expected = "whole key frames, since start_s lies behind one"
            raise InputError(self._clip_id, expected=expected, got=got, todo=REENCODE)

    def _time_of(self, frame: av.VideoFrame) -> float | None:
        return None if frame.pts is None else self._times.seconds(frame.pts)


class PacketTimes:
    """Reads the frames' times from the packets, without decoding; decodes only where those times are unusable.

    Args:
        clip_id: names the clip in errors.
        path: of the recording.
        times: gets the times of all frames.
        settler: repairs the timestamps of decoded frames.
        options: for its `beat`.
    """

    def __init__(
        self, clip_id: str, path: Path, times: FrameTimes, settler: FrameSettler, options: DecodeOptions
    ) -> None:
        self._clip_id, self._path, self._times, self._settler = clip_id, path, times, settler
        self._beat = options.beat
        self._packets: list[tuple[int | None, int]] = []
        self.reached_s = -math.inf

    def push(self, packet: av.Packet) -> Iterator[Frames]:
        """Takes the next packet; yields nothing."""
        if packet.size and not packet.is_discard:
            self._packets.append((packet.pts, packet.duration or 0))
            self.reached_s = self.reached_s if packet.dts is None else self._times.seconds(packet.dts)
        return iter(())

    def finish(self) -> Iterator[Frames]:
        """Completes the frames' times; yields nothing."""
        known = sorted((pts, duration) for pts, duration in self._packets if pts is not None)
        if len({pts for pts, _ in known}) == len(self._packets):
            self._settler.check(known)
            self._times.frames += known
        else:
            self._decode()
        return iter(())

    def _decode(self) -> None:
        times = self._times
        with open_media(self._path, self._clip_id) as container:
            for frame in container.decode(video_stream(container)):
                self._beat()
                if isinstance(frame, av.VideoFrame):
                    times.frames += [(pts, duration) for pts, duration, _ in self._settler.push(frame)]
                if times.is_past(times.last_s):
                    return
        times.frames += [(pts, duration) for pts, duration, _ in self._settler.repair.finish()]


class DamagedFrameError(Exception):
    """A decoded frame is damaged; the reader of the recording adds where."""
