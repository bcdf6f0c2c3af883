"""Files of arrays by name: `.npz`, `.h5` and `.safetensors`; nothing in a file is ever executed."""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

INFLATED_BYTES, INFLATED_TIMES = 64 << 20, 100  # an array beyond both holds next to nothing, and fills the memory


@dataclass(frozen=True)
class Arrays:
    """An open file of arrays.

    Args:
        names: of all arrays, sorted.
        read: returns one of them.
    """

    names: list[str]
    read: Callable[[str], NDArray[Any]]


class OpenFiles(AbstractContextManager["OpenFiles"]):
    """Keeps the file of arrays that was asked for last open.

    All clips of one file come one after another. Its directory is as long as there are clips, so to read it again for
    each of them would take time with the square of their number.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._arrays = Arrays([], lambda name: np.empty(0))
        self._stack = ExitStack()

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def arrays(self, path: Path) -> Arrays:
        """Returns the arrays of a file, and closes the file before."""
        if path != self._path:
            self._stack.close()
            self._path = None
            self._arrays = self._stack.enter_context(opened(path))
            self._path = path
        return self._arrays


@contextmanager
def opened(path: Path) -> Iterator[Arrays]:
    """Opens a file by its suffix."""
    kind = path.suffix.lower()
    if kind == ".npz":
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            yield Arrays(sorted(names), lambda name: _read_npy(archive, f"{name}.npy"))
    elif kind == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="numpy") as tensors:
            yield Arrays(sorted(tensors.keys()), tensors.get_tensor)
    else:
        import h5py

        with h5py.File(path, "r") as file:
            names: list[str] = []
            file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
            yield Arrays(names, lambda name: _read_dataset(file[name]))


def _read_npy(archive: zipfile.ZipFile, member: str) -> NDArray[Any]:
    """Reads one array of an `.npz`. `numpy.load` would look each name up in a list of all."""
    info = archive.getinfo(member)
    _check_inflation(member, info.compress_size, info.file_size)
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _read_dataset(dataset: Any) -> NDArray[Any]:
    from ..store.hdf5_layout import own_dataset

    own = own_dataset(dataset)
    _check_inflation(own.name or "", own.id.get_storage_size(), own.nbytes)
    return np.asarray(own[()])


def _check_inflation(name: str, num_stored: int, num_bytes: int) -> None:
    """Refuses an array that is far larger in memory than in its file; features shrink to a tenth at best.

    Raises:
        ValueError: stating both.
    """
    if num_bytes > max(INFLATED_BYTES, INFLATED_TIMES * num_stored):
        raise ValueError(f"{name!r} of {num_stored:,} bytes that inflate to {num_bytes:,}")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns any error of a library, about a file that is not what its name promises, into one line."""
    from safetensors import SafetensorError

    known = (
        ValueError,
        TypeError,
        KeyError,
        OSError,
        EOFError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
        csv.Error,
        MemoryError,
    )
    try:
        yield
    except (*known, SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        todo = "Save it again as plain arrays; pickled objects are never loaded."
        raise InputError(path, expected="a file of features", got=reason_of(error), todo=todo) from None


def reason_of(error: Exception) -> str:
    """Returns the first line of an error, or its kind where it has no text."""
    return (str(error).splitlines() or [type(error).__name__])[0]
