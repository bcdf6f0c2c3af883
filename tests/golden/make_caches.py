"""Makes the golden caches of this schema: `python tests/golden/make_caches.py FOLDER`. Run once for each schema."""

import sys
from fractions import Fraction
from pathlib import Path

import ml_dtypes
import numpy as np

from sage_va.data import Clip, FrameClock, Store, Track, open_store, stream_name
from sage_va.data.transfer.copy import copy

FINGERPRINTS = {
    "visual": {"modality": "visual", "encoder": {"name": "golden", "weights": "random"}},
    "audio": {"modality": "audio", "encoder": {"name": "golden", "weights": "random"}},
}
STREAMS = {modality: stream_name(modality, "golden", fingerprint) for modality, fingerprint in FINGERPRINTS.items()}
CLIPS = ("one.mp4", "Ordner/zwei ü#left", "x" * 200)


def golden_track(number: int, modality: str) -> Track:
    """Values that need no random numbers."""
    dtype = np.float16 if modality == "visual" else ml_dtypes.bfloat16
    values = (np.arange(12).reshape(6, 2) + number) / 8
    times_s = np.array([0.0, 0.04, 0.08, 0.13, 0.2, 0.24]) + number
    score = np.array([1, 0.5, np.nan, 0.25, 0, 1])
    return Track.of(values.astype(dtype), times_s, np.arange(6) != 2, {"score": ("1", score)})


def fill(store: Store) -> None:
    """All entries."""
    clock = FrameClock(Fraction(1, 1000), np.array([0, 40, 80, 130, 200, 240]))
    for number, clip_id in enumerate(CLIPS):
        media = {"path": clip_id, "bytes": 7, "sha256": "5" * 64}
        for modality, fingerprint in FINGERPRINTS.items():
            clip = Clip(clip_id, "ann", 0.28, clock if modality == "visual" else None, media)
            track = golden_track(number, modality)
            store.commit(
                clip, STREAMS[modality], track, fingerprint=fingerprint, source_sha256="5" * 64, report={"frames": 6}
            )
    store.point(STREAMS["visual"], "visual/paper")
    store.finish()


def main(folder: Path) -> None:
    for url in (folder / "c.zarr", folder / "c.h5", f"icechunk://{folder / 'c.icechunk'}"):
        fill(open_store(url, "a", licence="CC0-1.0", restricted=True))
    for name in ("one.h5", "c.zarr.zip", "c.packs"):
        copy(str(folder / "c.zarr"), str(folder / name))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
