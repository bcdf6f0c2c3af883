"""Media files: opening them, and the one video stream that counts."""

from __future__ import annotations

from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition

from ...data.errors import InputError
from .bounds import MAX_PIXELS
from .watchdog import STALL_S

DECODER = {"name": "pyav", "version": av.__version__}
PLAYLISTS = {"concat", "concatf", "dash", "hls", "imf"}  # they could lead to files that are named nowhere else
REENCODE = "Repair it or write it again, e.g. `ffmpeg -i IN OUT.mp4`."


def open_media(path: Path, clip_id: str) -> InputContainer:
    """Opens a media file.

    Args:
        path: of the file.
        clip_id: names the clip in errors.

    Raises:
        InputError: if there is no such file, it is empty, or FFmpeg cannot open it.
    """
    if not path.is_file():
        raise InputError(clip_id, expected="a file", got=f"none at {path}", todo="Correct the path.")
    if path.stat().st_size == 0:
        raise InputError(clip_id, expected="a recording", got="an empty file", todo="Get the file again.")
    try:
        # A playlist in disguise must not reach out, and a small file must not fill the memory while it is probed.
        options = {"protocol_whitelist": "file", "max_pixels": str(MAX_PIXELS)}
        container = av.open(f"file:{path}", metadata_errors="replace", options=options, timeout=STALL_S)
    except (FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(clip_id, expected="a recording", got=f"{reason}", todo=REENCODE) from error
    if container.format.name in PLAYLISTS:
        container.close()
        raise InputError(clip_id, expected="a recording", got="a list of other files", todo="Name those files.")
    return container


def video_stream(container: InputContainer) -> av.VideoStream | None:
    """Returns the first video stream that is not a cover picture; None if there is none. Its images are bounded."""
    cover = Disposition.attached_pic
    stream = next((stream for stream in container.streams.video if not stream.disposition & cover), None)
    if stream is not None and stream.codec_context is not None and not stream.codec_context.is_open:
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    return stream


def read_header(path: Path) -> tuple[int | None, bool]:
    """Returns the number of frames that a recording's header promises, None for none, and whether it has sound.

    Raises:
        InputError: if it cannot be opened.
    """
    with open_media(path, str(path)) as container:
        video = video_stream(container)
        return (video.frames or None) if video else None, bool(container.streams.audio)


def h264_encoder() -> str:
    """Returns the name of an H.264 encoder of this PyAV; InputError where it has none."""
    for name in ("libx264", "libopenh264"):
        if name in av.codecs_available:
            return name
    raise InputError("PyAV", expected="libx264 or libopenh264", got="neither", todo="Run `pip install av`.")
