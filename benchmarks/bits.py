"""Hashes of a small extraction and of trained weights at a fixed seed: a refactoring must leave them as they are.

    make demo
    python benchmarks/bits.py demo-out    # before the change and after it, on one machine: the same lines

The encoders are the untrained ones of the demo.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

from safetensors.numpy import load_file

from sage_va import open_store
from sage_va.demo.encoders import untrained_encoders

VARIANTS = ("sage", "concat", "late", "gmu", "linear")
SMALL = ("seed=1", "split.by=clip", "train.epochs=3", "train.crossfit_epochs=2", "train.batch_size=4",
         "data.window_steps=100", "data.hop_steps=50", "train.deterministic=true")  # fmt: skip


def main() -> None:
    """Extracts the demo's recordings, trains five variants for three epochs, and prints a hash of each result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path, help="what `sage-va demo --out` left")
    demo = parser.parse_args().demo
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoders = untrained_encoders(folder)
        for layout in ("zarr", "h5"):
            cache = str(folder / f"cache.{layout}")
            sage_va("extract", str(demo / "manifest.csv"), "--out", cache, *encoders.options)
            print(f"content {layout} {open_store(cache).content_sha256()}", flush=True)
        for variant in VARIANTS:
            run = folder / variant
            keys = [word for key in SMALL for word in ("--set", key)]
            sage_va("train", str(folder / "cache.zarr"), "--labels", str(demo / "labels"), "--out", str(run),
                    "--variant", variant, "--device", "cpu", *keys)  # fmt: skip
            print(f"weights {variant} {weights_sha256(run / 'model.safetensors')}", flush=True)


def sage_va(*arguments: str) -> None:
    code = "from sage_va.cli import main; main()"
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, stdout=subprocess.DEVNULL)


def weights_sha256(path: Path) -> str:
    digest = sha256()
    for name, values in sorted(load_file(path).items()):
        digest.update(name.encode() + values.tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
