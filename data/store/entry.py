"""One stream of one clip as it is stored: two arrays and their commit record, the same in every store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ..clip import Clip, Track
from ..errors import DamagedError, InputError
from ..hashing import array_sha256, json_sha256
from .fingerprint import SCHEMA_VERSION, check_stream
from .record_checks import TIME_COLUMNS

STORED_DTYPES = {"float16": np.dtype("<f2"), "bfloat16": np.dtype("<u2"), "float32": np.dtype("<f4")}
REPAIR = "Run `sage-va cache repair`, then extract again."


@dataclass(frozen=True)
class Entry:
    """A Track as a store keeps it.

    Args:
        record: the commit record: what the arrays are, and the SHA-256 of each.
        values: (T, D) float16 or float32; bfloat16 lies there as the uint16 of its bits.
        frames: (T, 2 + Q) float64: time in seconds, mask as 0 or 1, then the quality signals.
    """

    record: dict[str, Any]
    values: NDArray[Any]
    frames: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        clip: Clip,
        stream: str,
        track: Track,
        *,
        fingerprint: Mapping[str, Any],
        source_sha256: str,
        report: Mapping[str, Any] | None = None,
    ) -> Entry:
        """The entry of a Track; arguments as for `Store.commit`."""
        check_name(stream, fingerprint)
        dtype = str(track.values.dtype)
        values = np.ascontiguousarray(track.values).view(STORED_DTYPES[dtype])
        frames = np.column_stack([track.times_s, track.mask, track.quality]).astype("<f8")
        record = {
            "commit": True,
            "schema_version": SCHEMA_VERSION,
            "stream": stream,
            "clip": clip.to_json(),
            "fingerprint": dict(fingerprint),
            "source_sha256": source_sha256,
            "dtype": dtype,
            "shape": list(values.shape),
            "columns": TIME_COLUMNS + [[name, unit] for name, unit in track.quality_units.items()],
            "num_valid": int(track.mask.sum()),
            "checksums": {"values": array_sha256(values), "frames": array_sha256(frames)},
            "report": dict(report or {}),
        }
        plain = json.loads(json.dumps(record, allow_nan=False))  # as it will be read, so that its seal holds
        return cls(plain, values, frames)

    @property
    def clip_id(self) -> str:
        """The clip that the stream belongs to."""
        return self.record["clip"]["clip_id"]

    @property
    def stream(self) -> str:
        """Full name of the stream."""
        return self.record["stream"]

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays."""
        return self.values.nbytes + self.frames.nbytes

    def check(self) -> None:
        """Proves every byte of both arrays by the record.

        Raises:
            DamagedError: if an array is not the one that was committed.
        """
        arrays = {"values": self.values, "frames": self.frames}
        for name, (shape, dtype) in array_types(self.record).items():
            array = arrays[name]
            if array.shape != shape or array.dtype != dtype:
                raise damaged(self, f"{name!r} of shape {shape}, {dtype}", f"{array.shape} {array.dtype}")
            if array_sha256(array) != self.record["checksums"][name]:
                raise damaged(self, f"the bytes of {name!r} that were committed", "others")

    def track(self) -> Track:
        """The Track that was committed.

        Raises:
            DamagedError: if times do not increase, or values and mask disagree.
        """
        stored = self.values
        values: NDArray[Any] = stored.view(ml_dtypes.bfloat16) if self.record["dtype"] == "bfloat16" else stored
        mask = self.frames[:, 1]
        if not np.isin(mask, (0, 1)).all():
            raise damaged(self, "a mask of 0 and 1", "other numbers")
        if mask.sum() != self.record["num_valid"]:
            raise damaged(self, f"{self.record['num_valid']} valid frames", f"{int(mask.sum())}")
        times_s = np.ascontiguousarray(self.frames[:, 0])
        quality = np.ascontiguousarray(self.frames[:, 2:], np.float32)
        units = dict(self.record["columns"][2:])
        try:
            return Track(values, times_s, mask == 1, quality, units)
        except InputError as error:
            raise DamagedError(f"{self.clip_id} {self.stream}", error.problem, todo=REPAIR) from error


def array_types(record: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and stored dtype of each array, by name."""
    num_frames, dim = record["shape"]
    columns = len(record["columns"])
    return {
        "values": ((num_frames, dim), STORED_DTYPES[record["dtype"]]),
        "frames": ((num_frames, columns), np.dtype("<f8")),
    }


def clip_of(records: Sequence[Mapping[str, Any]]) -> Clip:
    """Returns the clip that the records of its streams describe.

    Where they differ, a record made from the recording prevails over an import, and the last stream over the first.
    """
    facts: dict[str, Any] = {}
    for clip in sorted((record["clip"] for record in records), key=lambda clip: "media" in clip):
        facts |= clip
    media = {record["clip"].get("media", {}).get("sha256") for record in records}
    audible = (record for record in records if record["stream"].startswith("audio/") and record["num_valid"])
    hashes = (media - {None}) | {record["checksums"]["values"] for record in audible}
    return replace(Clip.from_json(facts), recording_sha256=tuple(sorted(hashes)))


def expected_bytes(record: Mapping[str, Any]) -> int:
    """Returns the bytes of the two arrays, by their record."""
    return sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in array_types(record).values())


def check_name(stream: str, fingerprint: Mapping[str, Any]) -> None:
    """Refuses a stream name that does not carry its fingerprint."""
    if not check_stream(stream).endswith(f"-{json_sha256(fingerprint)[:8]}"):
        raise InputError(
            f"stream {stream!r}",
            expected="<modality>/<alias>-<first 8 hex of its fingerprint>",
            got=f"fingerprint {json_sha256(fingerprint)[:8]}",
            todo="Name streams with sage_va.data.stream_name.",
        )


def damaged(
    place: Entry | tuple[str, str], expected: str, got: str, kind: type[DamagedError] = DamagedError
) -> DamagedError:
    """The error of a damaged entry, or of a (clip_id, stream)."""
    clip_id, stream = (place.clip_id, place.stream) if isinstance(place, Entry) else place
    return kind(f"{clip_id} {stream}", expected=expected, got=got, todo=REPAIR)
