"""The page of a model: its purpose, inputs, scores, limits and terms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.metadata import version

from huggingface_hub import EvalResult, ModelCardData

from ...data.hashing import json_sha256
from ...data.terms import cell, table, untrained_mark
from ...data.windows.corpus import Stream
from ..config import Config
from ..evaluation.metrics import NAMES, Agreement
from ..evaluation.predict import TARGETS
from ..models.variants import find_variant
from .metadata import ClipCounts, ModelMetadata, PublishedScore

MARK = "<!-- Written by sage-va, which writes it anew. Take this line out to keep your own text. -->"
RESTRICTION = (
    "the data are gated, and their terms may cover what was made from them. Keep this model private unless they allow "
    "more."
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


def card_of(config: Config, streams: Sequence[Stream], metadata: ModelMetadata) -> str:
    """Returns the text of `README.md`, with the metadata that the hub reads.

    Args:
        config: that the model was trained with.
        streams: its inputs.
        metadata: of the model.
    """
    variant = config.model.variant
    parts = [
        f"---\n{_header(variant, metadata).to_yaml()}\n---",
        MARK,
        f"# Valence and arousal: `{variant}`",
        *_untrained(streams),
        _purpose(config, streams),
        f"## What it takes\n\n{_inputs(config, streams)}",
        f"## Data\n\n{_data(metadata.data)}",
        f"## Scores\n\n{_scores(metadata.scores, metadata.smoothing_s)}",
        f"## Limits\n\n{LIMITS}",
        f"## Load it\n\n{_LOAD}",
        f"## Terms\n\n{metadata.terms.paragraph('Licence of the data that it was trained on', RESTRICTION)}",
    ]
    return "\n\n".join(parts) + "\n"


def _header(variant: str, metadata: ModelMetadata) -> ModelCardData:
    scores, terms, results = metadata.scores, metadata.terms, list[EvalResult]()
    if scores:
        values = ((target, scores.raw.ccc[target]) for target in TARGETS)
        results += [_result(scores.split, target, value) for target, value in values if not math.isnan(value)]
    licence = terms.header()
    return ModelCardData(
        license=licence["license"],
        license_name=licence.get("license_name"),
        library_name="sage-va",
        tags=["sage-va", "valence-arousal", "emotion-recognition", "affective-computing", "audio-visual"],
        metrics=["ccc"],
        model_name=f"sage-va {variant}",
        eval_results=results or None,
        extra_gated_prompt=terms.gate("This model was trained on", "the model"),
    )


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
    names = [stream.name for stream in streams if stream.random_weights]
    return [f"> **{untrained_mark(names)}.** This model is for trying the software."] if names else []


def _purpose(config: Config, streams: Sequence[Stream]) -> str:
    data = config.data
    sources = {"visual": "face", "audio": "voice"}
    sources_of_all = " and ".join(dict.fromkeys(sources.get(stream.modality, stream.modality) for stream in streams))
    sees = "only itself and the past" if config.model.causal else "the past and the future of a window"
    return (
        f"Estimates continuous valence and arousal, each in [-1, 1], {data.hz:g} times a second, from cached "
        f"embeddings of {sources_of_all}. Trained in windows of {data.window_s:g} s; a step sees "
        f"{sees}. The variant `{config.model.variant}`: {cell(find_variant(config.model.variant).source)}. "
        f"Made with sage-va {version('sage-va')}."
    )


def _inputs(config: Config, streams: Sequence[Stream]) -> str:
    head = ("stream", "encoder", "weights", "rate", "dimensions", "quality signals", "SHA-256 of the fingerprint")
    rows = [_input(stream) for stream in streams]
    return (
        f"{table(head, rows)}\n\nAll streams are put on a grid of {config.data.hz:g} Hz by their own times. "
        "Features of any other encoder, or of other settings, are refused by their fingerprint."
    )


def _input(stream: Stream) -> list[str]:
    encoder = stream.fingerprint.get("encoder", {})
    rate = stream.fingerprint.get("fps")
    fps = "as recorded" if rate == "native" else "its encoder's own" if rate is None else f"{rate:g} images a second"
    signals = ", ".join(stream.quality_names) or "none"
    named, weights = str(encoder.get("name", "?")), str(encoder.get("weights", "?"))
    sha256 = json_sha256(dict(stream.fingerprint))[:16]
    return [stream.name, named, weights, fps, str(stream.dim), signals, sha256]


def _data(data: ClipCounts | None) -> str:
    if data is None:
        return "Not recorded."
    names = {"train": "to train on", "val": "for validation", "test": "for the test"}
    counts = ", ".join(f"{data.num_clips[role]} {name}" for role, name in names.items())
    hours = "their length is not recorded" if data.hours is None else f"{data.hours:.2f} h in all"
    return f"Clips: {counts}; {hours}. No clip and no person is named in this folder."


def _scores(scores: PublishedScore | None, smoothing_s: float) -> str:
    if scores is None:
        return "**Not scored**: cache or labels were not at hand when this card was written."
    clips = f"{scores.num_clips} {scores.split} clips with {scores.num_labels} labels"
    kinds = {"CCC": scores.raw, f"CCC, moving average of {smoothing_s:g} s": scores.smoothed}
    head = ["target", *(f"{name} [95 % interval over clips]" for name in kinds)]
    rows = [[target, *[_number(kind, target) for kind in kinds.values()]] for target in NAMES]
    lines = [f"Concordance correlation (CCC) on {clips}; one number over all of them.", table(head, rows)]
    if scores.split != "test":
        lines.append(
            f"**There is no test score.** The {scores.split} clips also decided when to stop and how to smooth, so "
            "these numbers are too good."
        )
    return "\n\n".join(lines)


def _number(agreement: Agreement, target: str) -> str:
    value, (low, high) = agreement.ccc[target], agreement.interval[target]
    return f"{_shown(value)} [{_shown(low)}, {_shown(high)}]"


def _shown(value: float) -> str:
    return "not defined" if math.isnan(value) else f"{value:.3f}"


_LOAD = """\
```python
from sage_va import SAGE, open_store

model = SAGE.from_pretrained("FOLDER OR USER/NAME")
predictions = model.predict(open_store("cache.zarr"))  # each with times_s, va and, where it has a gate, reliability
```

```sh
sage-va predict FOLDER new-videos/ --out predictions/
```"""
