"""Text files of users: UTF-8, or one line that names what is wrong."""

from __future__ import annotations

from pathlib import Path

from .errors import InputError


def read_utf8(path: Path) -> str:
    """Returns the text of a file, without a byte order mark.

    Raises:
        InputError: if it is no file (a pipe would be waited for), or not UTF-8.
    """
    if path.exists() and not path.is_file():
        raise InputError(path, expected="a file", got="something else", todo="Remove it, or check the path.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(path, f"it is not UTF-8 ({error.reason})", todo="Save it as UTF-8.") from error
