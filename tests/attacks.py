"""Attacks on memory: small files that ask for gigabytes, and the commands that read them.

Each file is written by a program from nothing, so that a fuzzer can start from it as well.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import h5py
import numpy as np

from ..data.windows.corpus import Stream
from ..fusion.config import Config
from ..fusion.export.pretrained import SAGE
from ..fusion.models.variants import build_model
from .media import noisy_frames, tone, write_crops, write_media
from .synthetic import make_cache

GIGABYTE = 1 << 30
GAP_S = 3_000_000
VISUAL = ("--visual", "test_resnet.r160_in1k", "--visual-weights", "random")
_RUN = "import sys; sys.argv[0] = 'sage-va'; from sage_va.cli import main; main()"


@dataclass(frozen=True)
class Attack:
    """A command that reads a hostile file.

    Args:
        name: of the attack.
        words: of the command line.
        says: what its last lines must hold: a word of the bound, and of the file.
        makes: writes the file before the command runs.
    """

    name: str
    words: tuple[str, ...]
    says: tuple[str, ...]
    makes: Callable[[], object]


@dataclass(frozen=True)
class Ran:
    """End of a command: exit code, all that it printed, its peak of resident memory in bytes, and its seconds."""

    code: int
    output: str
    peak: int
    wall_s: float


def attacks(folder: Path) -> list[Attack]:
    """Returns all attacks, with their files in a folder; the files are written by `makes`."""
    return [*_media(folder), *_images(folder), *_features(folder), *_caches(folder), *_settings(folder)]


def run(words: Sequence[str], *, timeout_s: float = 300) -> Ran:
    """Runs a command of the command line in a process of its own, and watches its memory."""
    start, peak, deadline_s = time.perf_counter(), 0, time.monotonic() + timeout_s
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen([sys.executable, "-c", _RUN, *words], stdout=printed, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, _peak(process.pid))
            time.sleep(0.01)
            if time.monotonic() > deadline_s:
                process.kill()
        printed.seek(0)
        return Ran(process.returncode, printed.read(), peak, time.perf_counter() - start)


def _peak(pid: int) -> int:
    """Returns the largest resident memory of a process so far, in bytes; 0 where it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


def _media(folder: Path) -> list[Attack]:
    def make() -> None:
        media = folder / "media"
        media.mkdir(exist_ok=True)
        write_wav(media / "slow.wav", 1, 86_400)
        write_gap(media / "gap.mkv", audio=tone(0.5))
        write_audio_gaps(media / "gaps.mka", num=200, gap_s=590)
        write_wide(media / "wide.mov")
        write_media(media / "good.mkv", noisy_frames(25), audio=tone(1.0))

    def extract(name: str, *words: str) -> tuple[str, ...]:
        return ("extract", str(folder / "media"), "--out", str(folder / f"{name}.zarr"), *words)

    jump = "failed: gap.mkv: expected at most 4 hours without frames"
    wide = "got invalid data, or an image of over 40,000,000 pixels, at the start"
    sound = (
        "failed: slow.wav: expected a sampling rate from 1000",
        "failed: gaps.mka: expected at most 4 hours without a",
    )
    return [
        Attack("recordings, images", extract("images", *VISUAL), (jump, wide), make),
        Attack("recordings, images at a rate", extract("rate", *VISUAL, "--fps", "25"), (jump, wide), make),
        Attack("recordings, audio", extract("audio", "--audio", "logmel"), (jump, *sound), make),
    ]


def _images(folder: Path) -> list[Attack]:
    def make() -> None:
        (folder / "large").mkdir(exist_ok=True)
        write_png(folder / "large" / "00001.png", 13_000)
        write_crops(folder / "far", [1, 2, 999_999_999])
        (folder / "crops.csv").write_text("clip_id,crops,fps\na,large,25\nb,far,25\n", encoding="utf-8")

    words = ("extract", str(folder / "crops.csv"), "--out", str(folder / "crops.zarr"), "--faces", "crops", *VISUAL)
    says = ("failed: a: ", "got 13000 x 13000", "failed: b: expected at most 4 hours without crops")
    return [Attack("crops of 13,000 x 13,000 pixels, and of frame 999,999,999", words, says, make)]


def _features(folder: Path) -> list[Attack]:
    def imported(name: str, *more: str) -> tuple[str, ...]:
        out = str(folder / f"{name}.zarr")
        return ("cache", "import", str(folder / name), "--stream", "visual/x", "--hz", "25", "--out", out, *more)

    return [
        Attack(
            "an .npz that inflates to 1 GB",
            imported("bomb.npz"),
            ("bomb.npz",),
            lambda: write_npz_bomb(folder / "bomb.npz"),
        ),
        Attack(
            "an HDF5 file that inflates to 4 GB",
            imported("bomb.h5"),
            ("bomb.h5",),
            lambda: write_hdf5_bomb(folder / "bomb.h5"),
        ),
        Attack(
            "an array of 4 GB by its header",
            imported("bomb.npy"),
            ("bomb.npy",),
            lambda: write_npy_bomb(folder / "bomb.npy"),
        ),
        Attack(
            "tensors of 1e9 columns by their header",
            imported("bomb.safetensors"),
            ("bomb.safetensors",),
            lambda: write_safetensors_bomb(folder / "bomb.safetensors"),
        ),
    ]


def _caches(folder: Path) -> list[Attack]:
    pack, month = folder / "bomb.zarr.zip", folder / "month"

    def predict(name: str) -> tuple[str, ...]:
        return ("predict", str(folder / name), str(folder / "media"), "--out", str(folder / f"{name}-out"))

    return [
        Attack(
            "a pack that inflates to 1 GB",
            ("cache", "verify", str(pack)),
            ("bomb.zarr.zip", "zarr.json is compressed"),
            lambda: write_pack_bomb(pack),
        ),
        Attack(
            "features with a step in a month",
            (
                *("train", str(month / "cache.zarr"), "--labels", str(month / "labels"), "--out", str(month / "run")),
                *("--set", "model.variant=visual"),
            ),
            ("features without gaps of hours",),
            lambda: write_month(month),
        ),
        Attack(
            "a model of 10,000,000 inputs",
            predict("broad"),
            ("model.safetensors: expected the ", "numbers that its configuration declares"),
            lambda: write_model(folder / "broad", stream=10_000_000, dim=512),
        ),
        Attack(
            "a model of 100 layers of 32,768",
            predict("deep"),
            ("model.safetensors: expected the ", "numbers that its configuration declares"),
            lambda: write_model(folder / "deep", layers=100, dim=32_768),
        ),
        Attack(
            "a model of 10^9 layers",
            predict("layers"),
            ("model.layers: expected",),
            lambda: write_model(folder / "layers", layers=10**9),
        ),
    ]


def _settings(folder: Path) -> list[Attack]:
    place = folder / "small"

    def make(name: str, text: str) -> Callable[[], None]:
        def write() -> None:
            if not place.exists():
                place.mkdir()
                make_cache(place, num_clips=4, seconds=1)
            (folder / name).write_text(text, encoding="utf-8")

        return write

    names = [f"l{level}" for level in range(9)]
    bomb = "".join(
        f"{name}: &{name} [{','.join([f'*{names[level - 1]}' if level else 'x'] * 9)}]\n"
        for level, name in enumerate(names)
    )
    choices = f"train.learning_rate: [{','.join(f'{1e-6 * k:.9f}' for k in range(1, 30_001))}]\n"
    data = (str(place / "cache.zarr"), "--labels", str(place / "labels"))
    return [
        Attack(
            "30,000 choices",
            ("sweep", *data, "--space", str(folder / "many.yaml"), "--out", str(folder / "sweep1"), "--trials", "2"),
            ("many.yaml", "30000"),
            make("many.yaml", choices),
        ),
        Attack(
            "aliases of aliases in a space",
            ("sweep", *data, "--space", str(folder / "bomb.yaml"), "--out", str(folder / "sweep2"), "--trials", "2"),
            ("bomb.yaml",),
            make("bomb.yaml", bomb + f"train.learning_rate: *{names[-1]}\n"),
        ),
        Attack(
            "aliases of aliases in a configuration",
            ("train", *data, "--config", str(folder / "bomb2.yaml"), "--out", str(folder / "run")),
            ("bomb2.yaml",),
            make("bomb2.yaml", bomb + f"model: *{names[-1]}\n"),
        ),
    ]


def write_wav(path: Path, rate: int, num_samples: int) -> Path:
    """Writes a WAV with another sampling rate than any recording has."""
    samples = (np.random.default_rng(0).standard_normal(num_samples) * 3000).astype("<i2").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    data = struct.pack("<4sI", b"data", len(samples))
    head = struct.pack("<4sI4s", b"RIFF", 36 + len(samples), b"WAVE") + form + data
    path.write_bytes(head + samples)
    return path


def write_gap(path: Path, audio: np.ndarray | None = None) -> Path:
    """Writes ten frames, five of them a month later."""
    ticks = [512 * number for number in range(5)] + [12_800 * GAP_S + 512 * number for number in range(5)]
    return write_media(path, noisy_frames(10), ticks=ticks, audio=audio)


def write_audio_gaps(path: Path, num: int, gap_s: float) -> Path:
    """Writes short blocks of audio, each `gap_s` after the one before."""
    with av.open(str(path), "w") as container:
        track = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for number in range(num):
            block = np.full((1, 160), 3000, np.int16)
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            frame.sample_rate, frame.time_base = 16_000, Fraction(1, 16_000)
            frame.pts = round(number * gap_s * 16_000)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return path


def write_wide(path: Path, size: int = 16_000) -> Path:
    """Writes one PNG of many pixels as a video."""
    png = png_bytes(size)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "rgb24"
        small = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        small.pts = 0
        for packet in [*stream.encode(small), *stream.encode(None)]:
            wide = av.Packet(png)
            wide.pts = wide.dts = 0
            wide.time_base, wide.stream, wide.is_keyframe = packet.time_base, stream, True
            container.mux(wide)
    return path


def write_png(path: Path, size: int) -> Path:
    """Writes a black PNG of `size` x `size` pixels."""
    path.write_bytes(png_bytes(size))
    return path


def png_bytes(size: int) -> bytes:
    """Returns a black PNG, whose lines shrink to a thousandth."""
    packer, lines = zlib.compressobj(1), []
    for _ in range(size):
        lines.append(packer.compress(bytes(1 + 3 * size)))
    lines.append(packer.flush())
    head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"".join(lines)) + chunk(b"IEND", b"")


def write_npz_bomb(path: Path) -> Path:
    """Writes a megabyte that inflates to a gigabyte of features."""
    head = _npy_header("<f4", (GIGABYTE // 4 // 64, 64))
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("a.npy", "w") as file,
    ):
        file.write(head)
        _write_zeros(file, GIGABYTE)
    return path


def write_hdf5_bomb(path: Path) -> Path:
    """Writes datasets of gigabytes of which nothing is stored."""
    with h5py.File(path, "w") as file:
        file.create_dataset("a", shape=(1 << 24, 64), dtype="f4", chunks=(1 << 16, 64), compression="gzip")
    return path


def write_npy_bomb(path: Path) -> Path:
    """Writes a header that declares 4 GB, and nothing else."""
    path.write_bytes(_npy_header("<f4", (1 << 24, 64)))
    return path


def write_safetensors_bomb(path: Path) -> Path:
    """Writes a header that declares 10^9 columns of nothing."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [4, 10**9], "data_offsets": [0, 16 * 10**9]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    return path


def write_month(folder: Path) -> None:
    """Writes a cache of features whose last step is a month after the others, and labels."""
    rows = [f"{number / 25},{number}" for number in range(10)] + [f"{GAP_S},1"]
    (folder / "features").mkdir(parents=True)
    (folder / "labels").mkdir()
    for name in ("a", "b", "c", "d"):
        (folder / "features" / f"{name}.csv").write_text("time_s,x\n" + "\n".join(rows) + "\n", encoding="utf-8")
        (folder / "labels" / f"{name}.csv").write_text("time_s,valence,arousal\n0,0,0\n0.2,1,0\n", encoding="utf-8")
    words = ("cache", "import", folder / "features", "--stream", "visual/x", "--out", folder / "cache.zarr")
    assert run([str(word) for word in words]).code == 0


def write_model(folder: Path, **changes: int) -> Path:
    """Writes a small saved model, then other sizes into its configuration: `stream` of its input, or of the model."""
    stream = Stream("visual/x-12345678", "visual", "visual", 4, (), {})
    config = Config.model_validate({"model": {"variant": "concat", "dim": 8}, "data": {"grid_hz": 25}})
    SAGE(build_model([stream], config.model), config).save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    values["streams"][0]["dim"] = changes.pop("stream", 4)
    values["config"]["model"].update(changes)
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


def write_pack_bomb(path: Path) -> Path:
    """Writes a cache in a ZIP whose first member inflates to a gigabyte."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("zarr.json", "w") as file,
    ):
        _write_zeros(file, GIGABYTE)
    return path


def _npy_header(descr: str, shape: tuple[int, ...]) -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text = text.ljust(118 - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def _write_zeros(file: object, num_bytes: int) -> None:
    for _ in range(num_bytes >> 24):
        file.write(bytes(1 << 24))  # pyright: ignore[reportAttributeAccessIssue]
