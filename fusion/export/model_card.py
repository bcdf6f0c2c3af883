"""The page that goes with a model: what it is, what it takes, how good it is, what it must not be used for."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ...data.hashing import json_sha256
from ...data.transfer.dataset_card import KNOWN_LICENCES
from ...data.windows.corpus import Stream
from ..config import Config
from ..evaluation.predict import TARGETS
from ..models.variants import find_variant

MARK = "<!-- Written by sage-va, which writes it anew. Take this line out to keep your own text. -->"
GATE = (
    "This model was trained on data under terms of use. By asking for access you confirm that you have the right to "
    "use that data, and that you will not pass the model on."
)
LIMITS = """\
- It estimates how pleasant and how aroused a person **appears to annotators**, moment by moment. It does not know
  what a person feels, thinks, wants or is, and it is no lie detector.
- It must not decide anything about a person, nor help to: no hiring, grading, insurance, credit, policing, border,
  court, diagnosis or treatment. It must not watch people at work or in education, nor anyone who has not agreed to it.
  Laws may forbid more (in the European Union, the AI Act).
- It knows the recordings described above. Other cameras, rooms, languages, cultures, ages or kinds of conversation can
  make it far worse, and nothing in its output says so: score it on labelled clips of your own before you use it.
- How its errors differ between groups of people has not been measured.
- Reliability is the model's own estimate of how far it can trust a stream, not how likely a value is right."""


def card_of(config: Config, streams: Sequence[Stream], told: Mapping[str, Any]) -> str:
    """The text of `README.md`, with the metadata that the hub reads.

    Args:
        config: that the model was trained with.
        streams: its inputs.
        told: `smoothing_s`, `licence`, `restricted`, `data` and `scores`, as `SAGE` holds them.
    """
    variant = config.model.variant
    parts = [
        f"---\n{_header(variant, told).to_yaml()}\n---",
        MARK,
        f"# Valence and arousal: `{variant}`",
        *_untrained(streams),
        _what(config, streams),
        f"## What it takes\n\n{_inputs(config, streams)}",
        f"## Data\n\n{_data(told)}",
        f"## Scores\n\n{_scores(told)}",
        f"## Limits\n\n{LIMITS}",
        f"## Load it\n\n{_LOAD}",
        f"## Terms\n\n{_terms(told)}",
    ]
    return "\n\n".join(parts) + "\n"


def _header(variant: str, told: Mapping[str, Any]) -> ModelCardData:
    licence = (told["licence"] or "").lower()
    known = licence in KNOWN_LICENCES
    scores, results = told["scores"], list[EvalResult]()
    for target in TARGETS if scores else ():
        value = scores["raw"]["ccc"][target]
        if value is not None:
            results.append(_result(scores["split"], target, value))
    return ModelCardData(
        license=licence if known else "other",
        license_name=None if known else _slug(licence),
        library_name="sage-va",
        tags=["sage-va", "valence-arousal", "emotion-recognition", "affective-computing", "audio-visual"],
        metrics=["ccc"],
        model_name=f"sage-va {variant}",
        eval_results=results or None,
        extra_gated_prompt=GATE if told["restricted"] else None,
    )


def _slug(licence: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", licence or "not stated").strip("-") or "other"


def _result(split: str, target: str, value: float) -> EvalResult:
    return EvalResult(
        task_type="valence-arousal-estimation",
        dataset_type="sage-va-cache",
        dataset_name="the cache that it was trained on",
        dataset_split=split,
        metric_type="ccc",
        metric_name=f"concordance correlation coefficient, {target}",
        metric_value=round(value, 4),
    )


def _untrained(streams: Sequence[Stream]) -> list[str]:
    names = ", ".join(stream.name for stream in streams if stream.random_weights)
    return (
        [f"> **UNTRAINED ENCODER (random weights): {names}.** This model is for trying the software."] if names else []
    )


def _what(config: Config, streams: Sequence[Stream]) -> str:
    data = config.data
    sources = {"visual": "face", "audio": "voice"}
    seen = " and ".join(dict.fromkeys(sources.get(stream.modality, stream.modality) for stream in streams))
    sees = "only itself and the past" if config.model.causal else "the past and the future of a window"
    return (
        f"Estimates continuous valence and arousal, each in [-1, 1], {data.grid_hz:g} times a second, from cached "
        f"embeddings of {seen}. Trained in windows of {data.window_steps / data.grid_hz:g} s; a step sees {sees}. "
        f"The variant `{config.model.variant}`: {_cell(find_variant(config.model.variant).source)}. "
        f"Made with sage-va {version('sage-va')}."
    )


def _inputs(config: Config, streams: Sequence[Stream]) -> str:
    head = ("stream", "encoder", "weights", "rate", "dimensions", "quality signals", "SHA-256 of the fingerprint")
    table = _table(head, [_input(stream) for stream in streams])
    grid = f"All streams are put on a grid of {config.data.grid_hz:g} Hz by their own times."
    return f"{table}\n\n{grid} Features of any other encoder, or of other settings, are refused by their fingerprint."


def _input(stream: Stream) -> list[str]:
    encoder = stream.fingerprint.get("encoder", {})
    rate = stream.fingerprint.get("fps")
    fps = "as recorded" if rate == "native" else "its encoder's own" if rate is None else f"{rate:g} images a second"
    signals = ", ".join(stream.quality_names) or "none"
    named, weights = str(encoder.get("name", "?")), str(encoder.get("weights", "?"))
    sha256 = json_sha256(dict(stream.fingerprint))[:16]
    return [stream.name, named, weights, fps, str(stream.dim), signals, sha256]


def _data(told: Mapping[str, Any]) -> str:
    data = told["data"]
    if data is None:
        return "Not recorded."
    names = {"train": "to train on", "val": "for validation", "test": "for the test"}
    counts = ", ".join(f"{data['num_clips'][role]} {name}" for role, name in names.items())
    hours = "their length is not recorded" if data["hours"] is None else f"{data['hours']:.2f} h in all"
    return f"Clips: {counts}; {hours}. No clip and no person is named in this folder."


def _scores(told: Mapping[str, Any]) -> str:
    scores = told["scores"]
    if scores is None:
        return "**Not scored**: cache or labels were not at hand when this card was written."
    what = f"{scores['num_clips']} {scores['split']} clips with {scores['num_labels']} labels"
    names = {"raw": "CCC", "smoothed": f"CCC, moving average of {told['smoothing_s']:g} s"}
    head = ["target", *(f"{name} [95 % interval over clips]" for name in names.values())]
    rows = [[target, *(_number(scores[kind], target) for kind in names)] for target in (*TARGETS, "mean")]
    lines = [f"Concordance correlation (CCC) on {what}; one number over all of them.", _table(head, rows)]
    if scores["split"] != "test":
        lines.append(
            f"**There is no test score.** The {scores['split']} clips also decided when to stop and how to smooth, so "
            "these numbers are too good."
        )
    return "\n\n".join(lines)


def _number(found: Mapping[str, Any], target: str) -> str:
    value, interval = found["ccc"][target], found["interval"][target]
    return f"{_plain(value)} [{_plain(interval[0])}, {_plain(interval[1])}]"


def _plain(value: float | None) -> str:
    return "not defined" if value is None or math.isnan(value) else f"{value:.3f}"


def _terms(told: Mapping[str, Any]) -> str:
    licence = _cell(told["licence"] or "not stated")
    if not told["restricted"]:
        return f"Licence of the data that it was trained on: {licence}."
    return (
        f"Licence of the data that it was trained on: {licence}. **Restricted:** the data are gated, and their terms "
        "may cover what was made from them. Keep this model private unless they allow more."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return re.sub(r"[\r\n|<>]", " ", text)


_LOAD = """\
```python
from sage_va import SAGE, open_store

model = SAGE.from_pretrained("FOLDER OR USER/NAME")
predictions = model.predict(open_store("cache.zarr"))  # each with times_s, va and, where it has a gate, reliability
```

```sh
sage-va predict FOLDER new-videos/ --out predictions/
```"""
