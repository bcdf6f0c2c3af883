"""The audio track of a recording that has several: the first that is not silent throughout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError

from .audio import mono
from .container import open_media

SILENT_PEAK = 10 ** (-80 / 20)  # of full scale


def audio_track(path: Path, container: InputContainer, clip_id: str, beat: Callable[[], None]) -> av.AudioStream | None:
    """Returns the first audio track with sound; the first of all where none has any; None where there is none.

    Cameras and recorders write empty tracks beside the microphone's. Only a recording with several tracks is read for
    this, each from its beginning to its first sound.

    Args:
        path: of the recording.
        container: the recording, opened.
        clip_id: names the clip in errors.
        beat: called at each packet, for the watchdog.
    """
    tracks = container.streams.audio
    if len(tracks) < 2:
        return next(iter(tracks), None)
    for number, track in enumerate(tracks):
        if _has_sound(path, clip_id, number, beat):
            return track
    return tracks[0]


def _has_sound(path: Path, clip_id: str, number: int, beat: Callable[[], None]) -> bool:
    with open_media(path, clip_id) as container:
        track = container.streams.audio[number]
        if track.codec_context is None:
            return False
        try:
            for packet in container.demux(track):
                beat()
                if any(np.abs(mono(block)).max(initial=0.0) > SILENT_PEAK for block in packet.decode()):
                    return True
        except FFmpegError:
            return False  # a damaged track is none to choose; if it is the only one, reading it says what is wrong
    return False
