"""The demo: draws talking faces with synthetic ground truth and runs the public commands on them."""

from __future__ import annotations

import csv
import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from ..data import InputError, open_store
from ..fusion.evaluation.clip_picture import draw_clip
from ..fusion.evaluation.predict import Prediction, predict
from ..fusion.evaluation.score import load_part
from ..fusion.evaluation.style import save_picture
from ..fusion.run_folder import Run, load_run
from .corpus import DrawnClip, draw_corpus

VISUAL = "test_resnet.r160_in1k"
AUDIO = {
    "architectures": ["WhisperModel"], "model_type": "whisper", "d_model": 96, "encoder_layers": 1,
    "encoder_attention_heads": 4, "encoder_ffn_dim": 192, "decoder_layers": 1, "decoder_attention_heads": 4,
    "decoder_ffn_dim": 64, "num_mel_bins": 80, "vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1, "init_std": 0.05,
}  # fmt: skip
FEATURES = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80, "sampling_rate": 16000,
            "hop_length": 160, "chunk_length": 30, "n_fft": 400, "return_attention_mask": False}  # fmt: skip
CONFIG = """\
data: {window_s: 8, hop_s: 4}
split: {by: clip, fractions: [0.6, 0.2, 0.2]}
model: {dim: 48, layers: 1, dropout: 0.2, input_dropout: 0.2}
loss: {calibration: 0.5, ordinal: 0.2}
train: {epochs: 14, batch_size: 8, learning_rate: 3.0e-3, weight_decay: 0.05, crossfit_folds: 2, crossfit_epochs: 8}
"""


def run_demo(out: Path, run_command: Callable[..., None], *, num_clips: int, seconds: float, seed: int) -> None:
    """Draws, extracts, verifies, trains `sage` and `concat`, scores, predicts, draws pictures and writes a report.

    The encoders are small and have random weights: the demo shows that the commands work together, not how well they
    estimate affect.

    Args:
        out: a new folder.
        run_command: runs a command of `sage-va`, given its words.
        num_clips, seconds, seed: as for `draw_corpus`.

    Raises:
        InputError: if `out` has files in it.
    """
    if out.exists() and any(out.iterdir()):
        raise InputError(out, expected="a new folder", got="one with files in it", todo="Choose another --out.")
    started = time.perf_counter()
    click.secho(f"Drawing {num_clips} recordings of {seconds:g} s into {out}/media", bold=True)
    clips = draw_corpus(out, num_clips=num_clips, seconds=seconds, fps=15, num_subjects=4, seed=seed)
    (out / "demo.yaml").write_text(CONFIG, encoding="utf-8")
    cache, labels = str(out / "cache.zarr"), str(out / "labels")
    audio = _write_audio_encoder(out / "encoders" / "tiny-whisper")
    encoders = ["--visual", VISUAL, "--visual-weights", "random", "--audio", audio, "--audio-weights", "random"]
    run_command("extract", str(out / "manifest.csv"), "--out", cache, *encoders, "--licence", "CC0-1.0")
    run_command("cache", "verify", cache)
    for variant in ("sage", "concat"):
        run = str(out / "runs" / variant)
        run_command("train", cache, "--labels", labels, "--out", run, "--config", str(out / "demo.yaml"),
                    "--variant", variant, "--seed", str(seed))  # fmt: skip
    for variant in ("sage", "concat"):
        run_command("eval", str(out / "runs" / variant))
    run_command("predict", str(out / "runs" / "sage"), cache, "--out", str(out / "predictions"))
    draw_pictures(out, clips)
    places = [str(out / "runs" / variant) for variant in ("sage", "concat")]
    run_command("report", *places, "--media", str(out / "manifest.csv"), "--out", str(out / "report.html"))
    click.secho(f"Done in {time.perf_counter() - started:.0f} s. Open {out}/report.html in a browser.", bold=True)


def _write_audio_encoder(folder: Path) -> str:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(AUDIO, indent=2), encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps(FEATURES, indent=2), encoding="utf-8")
    return str(folder)


def draw_pictures(out: Path, clips: list[DrawnClip]) -> None:
    """Draws a picture of each held-out clip, and prints the mean weight of each stream in each drawn stage."""
    sage, concat = load_run(out / "runs" / "sage"), load_run(out / "runs" / "concat")
    corpus = load_part(sage, open_store(sage.cache), Path(sage.labels), "test")
    places = range(len(corpus.clips))
    predictions = predict(sage.model, corpus, places, sage.config.data)
    others = predict(concat.model, corpus, places, concat.config.data)
    spans = _read_stages(out / "stages.csv")
    pictures = out / "pictures"
    pictures.mkdir(exist_ok=True)
    labels = [stream.label for stream in sage.streams]
    for prediction, other, truth in zip(predictions, others, corpus.truths, strict=True):
        name = Path(prediction.clip_id).stem
        figure = draw_clip(
            prediction,
            labels,
            name="sage",
            truth=truth,
            other=("concat", other),
            spans=spans[name],
            title=f"{prediction.clip_id}: drawn face and voice, untrained encoders (random weights)",
        )
        save_picture(figure, pictures / f"{name}.png")
    click.echo(_stage_table(sage, predictions, spans))


def _read_stages(path: Path) -> dict[str, list[tuple[float, float, str]]]:
    spans: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            spans[row["clip"]].append((float(row["start_s"]), float(row["end_s"]), row["stage"]))
    return spans


def _stage_table(run: Run, predictions: list[Prediction], spans: dict[str, list[tuple[float, float, str]]]) -> str:
    weights: dict[str, list[np.ndarray]] = defaultdict(list)
    for prediction in predictions:
        assert prediction.weights is not None
        for start, end, stage in spans[Path(prediction.clip_id).stem]:
            inside = (prediction.times_s >= start) & (prediction.times_s < end)
            weights[stage].append(prediction.weights[inside])
    labels = [stream.label for stream in run.streams]
    lines = ["\nWeight of each stream in the drawn stages of the held-out clips (untrained encoders, random weights)",
             f"  {'stage':<12}" + "".join(f"{label:>10}" for label in labels)]  # fmt: skip
    for stage, parts in sorted(weights.items()):
        lines.append(f"  {stage:<12}" + "".join(f"{share:10.2f}" for share in np.concatenate(parts).mean(axis=0)))
    return "\n".join(lines)
