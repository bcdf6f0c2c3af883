"""The variables of a model file of CTranslate2, a library that runs transformers; it has no reader for Python."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data.errors import InputError

VERSION = 6
_DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)


def read_variables(path: Path, prefix: str = "") -> dict[str, NDArray[np.generic]]:
    """Returns the variables whose names begin with a prefix, without it.

    Format, little-endian: version u32; name of the specification; its revision u32; number of variables u32; then for
    each a name, rank u8, lengths u32 each, dtype u8, number of bytes u32, values. A name is its length u16 and bytes,
    the last of them 0. Source: `ctranslate2/specs/model_spec.py` of CTranslate2 (MIT), version 6 of the format.

    Raises:
        InputError: if the file is of another format or cut off.
    """
    content = memoryview(path.read_bytes())
    try:
        return {name.removeprefix(prefix): array for name, array in _variables(content) if name.startswith(prefix)}
    except (struct.error, ValueError, IndexError) as error:
        todo = "Install the package anew."
        raise InputError(path, f"it is no model of CTranslate2, format {VERSION}: {error}", todo=todo) from error


def _variables(content: memoryview) -> Iterator[tuple[str, NDArray[np.generic]]]:
    version, place = _number("I", content, 0)
    if version != VERSION:
        raise ValueError(f"format {version}")
    _, place = _text(content, place)
    _, place = _number("I", content, place)
    num_variables, place = _number("I", content, place)
    for _ in range(num_variables):
        name, place = _text(content, place)
        rank, place = _number("B", content, place)
        shape = struct.unpack_from(f"<{rank}I", content, place)
        dtype, place = _number("B", content, place + 4 * rank)
        num_bytes, place = _number("I", content, place)
        yield name, np.frombuffer(content[place : place + num_bytes], _DTYPES[dtype]).reshape(shape)
        place += num_bytes


def _number(kind: str, content: memoryview, place: int) -> tuple[int, int]:
    """Returns a number and the place behind it."""
    return struct.unpack_from(f"<{kind}", content, place)[0], place + struct.calcsize(f"<{kind}")


def _text(content: memoryview, place: int) -> tuple[str, int]:
    length, place = _number("H", content, place)
    return bytes(content[place : place + length - 1]).decode(), place + length
