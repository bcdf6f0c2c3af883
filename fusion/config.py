"""Configuration: everything that changes the numbers of a run, validated, and written beside it.

An unknown key is refused with the nearest known one. What only changes where or how fast a run computes is a flag.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..data.errors import InputError, did_you_mean
from ..data.windows.normalise import Normalise
from .yaml_text import parse_yaml

if TYPE_CHECKING:
    from ..data.windows.corpus import Corpus

Share = Annotated[float, Field(ge=0, le=1)]
MAX_BLOCKS, MAX_WIDTH = 100, 100_000
Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]
Demand = tuple[str, bool, str, str, str]
EARLIER_HZ = 25.0
NOT_KEPT = "stays with its author"
BEFORE_THE_VETO = {"weighting": "shares", "veto": 0.0, "gaps": False}
MAX_LAG_S = 8.0
EARLIER_KEYS = {"window_steps": "window_s", "hop_steps": "hop_s"}

SPLITS = """auto: official where labels lie in Train_Set and Validation_Set (Aff-Wild2), else subject
subject: subjects and recordings stay whole | clip: recordings stay whole, a subject may be in several parts
official: the folders of the labels decide | file: the columns clip_id,split of split.file decide"""
KEEP = """best: the weights of the epoch with the best validation score; train.patience epochs without a better one end
last: those of the last epoch; a few validation clips choose by chance"""


NORMALISE = """training: by the training clips alone | subject: by all clips of the subject | clip: by the clip itself
causal: less the mean of the clip so far, for streaming"""


class Part(BaseModel):
    """A section of the configuration: immutable, no unknown keys, no infinite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for key, right, expected, got, todo in self.demands():
            if not right:
                raise InputError(key, expected=expected, got=got, todo=todo)
        return self

    def demands(self) -> Iterable[Demand]:
        """Yields constraints between keys of the section: (key, True if met, expected, got, what to do)."""
        return ()


class DataConfig(Part):
    """Streams, the grid that they are put on, and windows cut from it.

    streams: names, aliases or modalities; empty = one stream per modality of the cache. grid_hz: steps per second; None
    = the rate of the slowest stream, with which training replaces it. normalise: whose statistics are taken out of the
    features before those of the training clips, see `data.windows.normalise`. window_s, hop_s: length of a window, and
    time between the starts of two, in seconds.

    Earlier configurations had `window_steps` and `hop_steps`. These are read as so many steps of a grid of `grid_hz`,
    and of 25 Hz, the default of then, where they name no rate.
    """

    streams: tuple[str, ...] = ()
    grid_hz: Annotated[
        float | None, Field(gt=0, le=1000, description="steps per second; null: the rate of the slowest stream")
    ] = None
    normalise: Annotated[Normalise, Field(description=NORMALISE)] = "training"
    window_s: Annotated[float, Field(gt=0)] = 12.0
    hop_s: Annotated[float, Field(gt=0)] = 8.0

    @model_validator(mode="before")
    @classmethod
    def _from_steps(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        values = {"grid_hz": EARLIER_HZ, **raw} if raw.keys() & EARLIER_KEYS.keys() else dict(raw)
        for earlier, key in EARLIER_KEYS.items():
            if earlier in values:
                values[key] = _seconds(earlier, values.pop(earlier), values["grid_hz"], key, key in values)
        return values

    @property
    def hz(self) -> float:
        """Steps per second, which training has settled."""
        assert self.grid_hz is not None, "a grid that is settled"
        return self.grid_hz

    def steps(self, hz: float) -> tuple[int, int]:
        """Returns length and hop of windows in steps of a grid."""
        return max(1, round(self.window_s * hz)), max(1, round(self.hop_s * hz))

    def steps_on(self, corpus: Corpus) -> tuple[int, int]:
        """Returns length and hop of windows in steps of a corpus; no window is longer than the longest clip."""
        window, hop = self.steps(corpus.hz)
        return min(window, corpus.longest_steps), hop

    def demands(self) -> Iterable[Demand]:
        hop, window = self.hop_s, self.window_s
        todo = "Lower it: steps between windows would never be used."
        yield "data.hop_s", hop <= window, f"at most window_s = {window:g}", f"{hop:g}", todo


def _seconds(earlier: str, num_steps: Any, hz: Any, key: str, has_both: bool) -> float:
    """The seconds of a key of earlier configurations."""
    numbers = [value for value in (num_steps, hz) if isinstance(value, int | float) and not isinstance(value, bool)]
    right = len(numbers) == 2 and min(numbers) > 0
    if has_both or not right:
        got = f"{earlier} and {key}" if has_both else f"{earlier} = {num_steps} at grid_hz = {hz}"
        raise InputError(f"data.{earlier}", expected="seconds", got=got, todo=f"Write data.{key} alone.")
    return num_steps / hz


class SplitConfig(Part):
    """Division of clips into train, val and test.

    Clips of one recording are never divided: by its bytes, its audio or its name (`NAME`, `NAME_left`, `NAME_right`,
    `NAME#person`). Unless `by` is "clip", neither are the clips of one subject, as far as subjects are known.
    """

    by: Annotated[Literal["auto", "subject", "clip", "official", "file"], Field(description=SPLITS)] = "auto"
    file: Annotated[str | None, Field(description="a CSV of clip_id,split (train, val, test), for split.by=file")] = (
        None
    )
    fractions: Annotated[
        tuple[Weight, Weight, Weight], Field(description="shares of train, val and test, for subject and clip")
    ] = (0.7, 0.15, 0.15)
    folds: Annotated[
        int | None,
        Field(ge=3, description="cross-validation instead of shares: one run per fold, for subject and clip"),
    ] = None
    fold: Annotated[int | None, Field(ge=0, description="this fold alone, counted from 0")] = None
    resample: Annotated[
        bool, Field(description="for official and file: the seed deals the clips anew to parts of the same size")
    ] = False

    def demands(self) -> Iterable[Demand]:
        folds, fold, shares = self.folds, self.fold, self.fractions
        named, drawn = (self.by == "file") == (self.file is not None), self.by in ("auto", "subject", "clip")
        got, todo = f"{self.file} with split.by={self.by}", "Set both split.by=file and split.file, or neither."
        yield "split.file", named, "a file exactly if split.by=file", got, todo
        todo = "Leave split.resample out: the seed draws these splits as it is."
        read = not self.resample or self.by not in ("subject", "clip")
        yield "split.resample", read, "true only where split.by is official or file", f"split.by={self.by}", todo
        todo = "Set split.by to clip or subject, or leave split.folds out."
        yield "split.folds", folds is None or drawn, "folds of clips or subjects", f"split.by={self.by}", todo
        todo = "Set split.folds, and count folds from 0."
        yield "split.fold", fold is None or fold < (folds or 0), "a fold below split.folds", f"{fold} of {folds}", todo
        todo = "The validation clips decide when to stop."
        yield "split.fractions", min(shares[:2]) > 0, "shares of train and val above 0", str(shares), todo


class LabelsConfig(Part):
    """Labels, as they are trained on.

    lag_s: reaction lag of the annotators in seconds, rounded to steps of the grid: a label at t is learnt from the
    features at t - lag_s. "estimate" = the lag at which the features of the training clips explain the labels best,
    with which training replaces it.
    """

    lag_s: Annotated[
        float | Literal["estimate"],
        Field(description="seconds that annotators react late; estimate: from the training clips"),
    ] = 0.0

    @field_validator("lag_s", mode="before")
    @classmethod
    def _in_range(cls, value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_LAG_S
        if not number and value != "estimate":
            expected = f"seconds from 0 to {MAX_LAG_S:g}, or estimate"
            raise InputError("labels.lag_s", expected=expected, got=repr(value), todo="Correct the value.")
        return value

    @property
    def settled_s(self) -> float:
        """The lag in seconds, which training has settled."""
        assert self.lag_s != "estimate", "a lag that is settled"
        return self.lag_s


class ModelConfig(Part):
    """Sizes and switches of the network; the equations are those of docs/model.md.

    dim: width d. tcn_blocks, tcn_kernel: of (2); 0 blocks = no TCN. causal: no step depends on a later one.
    memory_steps: how far attention looks back in a causal model. layers, heads: of the transformer (10).
    dropout, input_dropout: inside the network, and of the features. quality_input: quality signals are features too.
    stage, num_stages: (4). separate_heads: one head (11) per target. separate: the gate sends no gradient into the
    features. calibrated: offset and temperature of (6) are learnt. floor: least weight of a stream in (8).
    weighting: weights are shares of inverse variances or of the reliabilities. veto: how fast reliability falls where
    features lie outside of the training clips, (6a); 0 = never. gaps: a stream keeps some reliability near valid steps.

    A configuration with all keys but the last three was saved before there were these, and is read as what it then was.
    """

    variant: str = "sage"
    dim: Annotated[int, Field(ge=1, le=MAX_WIDTH)] = 256
    tcn_blocks: Annotated[int, Field(ge=0, le=MAX_BLOCKS)] = 4
    tcn_kernel: Count = 5
    causal: bool = False
    memory_steps: Count = 300
    layers: Annotated[int, Field(ge=0, le=MAX_BLOCKS)] = 2
    heads: Count = 4
    dropout: Share = 0.1
    input_dropout: Share = 0.0
    quality_input: bool = False
    stage: Literal["none", "latent", "given", "depth"] = "given"
    num_stages: Count = 3
    separate_heads: bool = False
    separate: bool = True
    calibrated: bool = True
    floor: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    weighting: Literal["precision", "shares"] = "precision"
    veto: Weight = 4.0
    gaps: bool = True

    @model_validator(mode="before")
    @classmethod
    def _from_before_the_veto(cls, raw: Any) -> Any:
        if isinstance(raw, Mapping) and cls.model_fields.keys() - raw.keys() == BEFORE_THE_VETO.keys():
            return {**BEFORE_THE_VETO, **raw}
        return raw

    def demands(self) -> Iterable[Demand]:
        right = not self.layers or self.dim % self.heads == 0
        todo = "Change one of them."
        yield "model.dim", right, f"a multiple of model.heads = {self.heads}", str(self.dim), todo


class LossConfig(Part):
    """Weights of the terms of equations (13) to (16); 0 switches a term off."""

    valence: Share = 0.5
    unimodal: Weight = 0.3
    calibration: Weight = 0.1
    ordinal: Weight = 0.05
    mse: Weight = 0.0
    smoothness: Weight = 0.0
    stage_usage: Weight = 0.0


class TrainConfig(Part):
    """Optimisation: AdamW with warm-up, early stopping, and augmentation of the windows.

    schedule: of the learning rate after the warm-up; "plateau" halves it after `plateau_epochs` epochs without a better
    validation score. warmup: share of all epochs. ema: decay of a moving average of the weights, which then is the
    model; 0 = none. precision: of the network; losses, scores and weights are float32. deterministic: only operations
    that give the same bits each time, on a GPU too. keep: whose weights the run keeps, those of the best epoch or of
    the last. patience: epochs without a better validation score before training stops, if the best are kept.
    modality_dropout, span_dropout: probability that a window loses a stream, or a span of one. noise: standard
    deviation of noise on the features, in units of theirs. crossfit_folds, crossfit_epochs: of out-of-fold errors.
    """

    epochs: Count = 60
    batch_size: Count = 32
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    weight_decay: Weight = 0.01
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    warmup: Share = 0.05
    plateau_epochs: Count = 5
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    deterministic: bool = False
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    keep: Annotated[Literal["best", "last"], Field(description=KEEP)] = "best"
    patience: Count = 15
    modality_dropout: Share = 0.3
    span_dropout: Share = 0.1
    noise: Weight = 0.0
    crossfit_folds: Annotated[int, Field(ge=2)] = 3
    crossfit_epochs: Count = 15


class Config(Part):
    """A whole run. `seed` decides split, weights, window order and corruptions."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    labels: LabelsConfig = LabelsConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()

    def demands(self) -> Iterable[Demand]:
        kind = self.data.normalise
        todo = "Set data.normalise=causal, which looks at earlier steps alone, or model.causal=false."
        right = not self.model.causal or kind in ("training", "causal")
        yield "data.normalise", right, "training or causal with model.causal=true", kind, todo

    def on_grid(self, hz: float) -> Config:
        """Returns the configuration with `data.grid_hz` settled."""
        return self.model_copy(update={"data": self.data.model_copy(update={"grid_hz": hz})})

    def without_places(self) -> Config:
        """Returns the configuration without paths of its author's disk, for whatever leaves the machine."""
        if self.split.file is None:
            return self
        return self.model_copy(update={"split": self.split.model_copy(update={"file": NOT_KEPT})})

    def flat(self) -> dict[str, Any]:
        """Returns `{"seed": 0, "train.epochs": 60, …}`."""
        values: dict[str, Any] = {}
        for name, part in self.model_dump(mode="json").items():
            values |= (
                {f"{name}.{key}": value for key, value in part.items()} if isinstance(part, dict) else {name: part}
            )
        return values

    def to_yaml(self) -> str:
        """Returns the configuration as YAML that `load_config` reads back; descriptions of keys are comments."""
        lines: list[str] = []
        for name, part in self.model_dump(mode="json").items():
            if not isinstance(part, dict):
                lines += yaml.safe_dump({name: part}).splitlines()
                continue
            lines.append(f"{name}:")
            fields = type(getattr(self, name)).model_fields
            for key, value in part.items():
                comments = (fields[key].description or "").splitlines()
                lines += [f"  # {text}" for text in comments]
                lines += [f"  {line}" for line in yaml.safe_dump({key: value}, sort_keys=False).splitlines()]
        return "\n".join(lines) + "\n"


PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "tiny": {
        "model": {"dim": 32, "heads": 2, "tcn_blocks": 3, "layers": 1, "dropout": 0.3, "input_dropout": 0.3},
        "train": {
            "epochs": 30,
            "batch_size": 8,
            "learning_rate": 3e-3,
            "weight_decay": 0.1,
            "keep": "last",
            "patience": 10,
            "crossfit_epochs": 16,
        },
    },
    "base": {},
    "large": {"model": {"dim": 512, "heads": 8, "layers": 4}},
}
TINY_BELOW_H = 5.0


def suited_preset(hours: float) -> str:
    """Returns the preset for so many hours of labelled recordings: a large model memorises a small data set."""
    return "tiny" if hours < TINY_BELOW_H else "base"


def load_config(path: Path | None, assignments: Iterable[str] = (), preset: str = "base") -> Config:
    """Returns a configuration: a preset, overlaid with a YAML file, overlaid with assignments `a.b=c`.

    Raises:
        InputError: for a key that does not exist (naming the nearest one) or a value out of range.
    """
    raw: Any = {}
    if path is not None:
        try:
            raw = parse_yaml(path.read_text(encoding="utf-8")) or {}
        except (OSError, ValueError) as error:
            got = " ".join(str(error).split())
            raise InputError(path, expected="a YAML file", got=got, todo="Correct it.") from None
    if not isinstance(raw, dict):
        raise InputError(path, expected="sections such as `train:`", got=type(raw).__name__, todo="Correct it.")
    for assignment in assignments:
        _assign(raw, assignment)
    return configure(raw, preset, str(path) if path else "configuration")


def configure(raw: Mapping[str, Any], preset: str, place: str) -> Config:
    """Returns the configuration of plain values laid over a preset: `load_config` and `sage_va.train` both end here.

    Args:
        raw: sections and keys, such as `{"train": {"epochs": 20}}`. None in place of a section is an empty section.
        preset: "tiny", "base" or "large".
        place: named in errors.

    Raises:
        InputError: for an unknown preset, an unknown key or a value out of range.
    """
    if preset not in PRESETS:
        todo = f"Known: auto, {', '.join(PRESETS)}."
        raise InputError(place, expected="a known preset", got=repr(preset), todo=todo)
    merged = {name: {} if value is None and _names([name]) else value for name, value in raw.items()}
    for section, keys in PRESETS[preset].items():
        own = merged.get(section, {})
        if isinstance(own, Mapping):
            merged[section] = {**keys, **own}
    return check_config(merged, place)


def check_config(raw: Mapping[str, Any], place: str) -> Config:
    """Returns a validated Config of plain values; errors as in `load_config`."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, InputError):
            raise cause.at(f"{place}: {cause.place}") from None
        keys = [str(part) for part in first["loc"]]
        where = ".".join(keys)
        if first["type"] != "extra_forbidden":
            expected, got = first["msg"].removeprefix("Input should be "), repr(first["input"])
            raise InputError(f"{place}: {where}", expected=expected, got=got, todo="Correct the value.") from None
        names = _names(keys[:-1])
        dotted = [".".join([*keys[:-1], name]) for name in names]
        todo = did_you_mean(where, dotted, f"Known: {', '.join(names)}.")
        raise InputError(place, expected="a known key", got=repr(where), todo=todo) from None


def _assign(raw: dict[str, Any], assignment: str) -> None:
    key, sign, text = assignment.partition("=")
    if not sign or not key:
        todo = "For example --set train.epochs=20."
        raise InputError(f"--set {assignment}", expected="key=value", got=repr(assignment), todo=todo)
    *path, last = key.strip().split(".")
    here: Any = raw
    for name in path:
        if isinstance(here, dict) and here.get(name) is None:  # absent, or a section without keys
            here[name] = {}
        here = here[name] if isinstance(here, dict) else None
    if not isinstance(here, dict):
        got, todo = repr(key), "Name a key inside a section."
        raise InputError(f"--set {assignment}", expected="a key inside a section", got=got, todo=todo)
    try:
        here[last] = parse_yaml(text)
    except ValueError:
        place, got = f"--set {assignment[:100]}", text[:100]
        raise InputError(place, expected="a YAML value", got=got, todo="Quote it.") from None


def _names(path: list[str]) -> list[str]:
    part: type[BaseModel] = Config
    for name in path:
        field = part.model_fields.get(name)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        part = field.annotation
    return list(part.model_fields)
