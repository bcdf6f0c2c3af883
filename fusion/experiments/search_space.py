"""The space of a sweep: for each key of the configuration its choices or a range, all checked before anything runs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data.errors import InputError, did_you_mean
from ..config import Config, check_config
from ..models.variants import resolve
from ..yaml_text import parse_yaml

EXAMPLE = "For example train.learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}, or model.variant: [sage, concat]."
MAX_CHOICES = 1000  # of a key: each is checked with the others
IN_A_RANGE = ("low", "high", "log", "step")


@dataclass(frozen=True)
class Choices:
    """Values of which one is tried."""

    values: tuple[Any, ...]

    @property
    def probes(self) -> tuple[Any, ...]:
        """Values that must all be valid."""
        return self.values

    @property
    def labels(self) -> list[Any]:
        """The values as a study knows them: a list, of streams for example, as JSON."""
        return [json.dumps(value) if isinstance(value, list | dict) else value for value in self.values]

    def value(self, label: Any) -> Any:
        """Returns the value of a label."""
        return self.values[self.labels.index(label)]


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both of them included; whole ones if both ends are. `log`: even in the logarithm."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def whole(self) -> bool:
        """True if only whole numbers are tried."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def probes(self) -> tuple[float, ...]:
        """Values that must all be valid: the ends, and one between, as a key may want whole numbers."""
        inner = self.low + (self.step or (1 if self.whole else (self.high - self.low) / math.pi))
        return (self.low, inner, self.high)

    def value(self, label: float) -> float:
        """Returns the value of a study's number: itself."""
        return label


Space = Mapping[str, Choices | Range]


def load_space(path: Path, config: Config) -> Space:
    """Reads a YAML file of dotted keys, each with a list of choices or `{low, high}`, if wanted with `log` or `step`.

    Args:
        path: the file.
        config: of all trials, but for these keys.

    Raises:
        InputError: for an unknown key, a range that is none, or a value that the configuration refuses.
    """
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        got = " ".join(str(error).split())
        raise InputError(path, expected="a YAML file", got=got, todo="Correct it.") from None
    if not isinstance(raw, dict) or not raw:
        raise InputError(path, expected="keys with what to try", got=repr(raw), todo=EXAMPLE)
    space = {}
    for key, said in raw.items():
        _check_key(path, key, config)
        space[key] = _part(f"{path}: {key}", said)
    for key, part in space.items():
        for value in part.probes:
            _check_value(space, config, key, value, str(path))
    return space


def configured(config: Config, values: Mapping[str, Any], place: str) -> Config:
    """A configuration with values of dotted keys replaced, and with what its variant demands.

    Raises:
        InputError: if that is no valid configuration.
    """
    raw = config.model_dump()
    for key, value in values.items():
        section, _, name = key.partition(".")
        raw[section][name] = value
    return resolve(check_config(raw, place))


def _check_key(path: Path, key: Any, config: Config) -> None:
    known = config.flat()
    if key not in known:
        todo = did_you_mean(str(key), known, EXAMPLE)
        raise InputError(path, expected="a known key", got=repr(key), todo=todo)
    if key == "seed" or key.startswith("split."):
        todo = "Take it out: scores on different clips do not compare."
        raise InputError(path, expected="keys that leave training and validation clips as they are", got=key, todo=todo)


def _check_value(space: Space, config: Config, key: str, value: Any, place: str) -> None:
    """Refuses a value that fits neither the other keys as they are, nor any value that one of them may take."""
    section = key.partition(".")[0]
    others = [(k, v) for k, part in space.items() if k != key and k.partition(".")[0] == section for v in part.probes]
    errors = []
    for more in ({}, *({k: v} for k, v in others)):
        try:
            configured(config, {key: value, **more}, place)
            return
        except InputError as error:
            errors.append(error)
    raise errors[0]


def _part(place: str, said: Any) -> Choices | Range:
    if isinstance(said, list) and said:
        if len(said) > MAX_CHOICES:
            todo = "Give a range: {low: …, high: …}."
            raise InputError(place, expected=f"at most {MAX_CHOICES} choices", got=f"{len(said)}", todo=todo)
        return Choices(tuple(said))
    if not isinstance(said, dict) or not {"low", "high"} <= said.keys() <= set(IN_A_RANGE):
        expected = "a list of choices, or low and high, if wanted with log or step"
        raise InputError(place, expected=expected, got=repr(said), todo=EXAMPLE)
    for name in ("low", "high", "step"):
        value = said.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            todo = "YAML takes 1e-5 for text: write 1.0e-5." if isinstance(value, str) else "Correct it."
            raise InputError(f"{place}.{name}", expected="a number", got=repr(value), todo=todo)
    log = said.get("log", False)
    if not isinstance(log, bool):
        raise InputError(f"{place}.log", expected="true or false", got=repr(log), todo="Correct it.")
    part = Range(said["low"], said["high"], log, said.get("step"))
    _check_range(place, part)
    return part


def _check_range(place: str, part: Range) -> None:
    low, high, step = part.low, part.high, part.step
    if low >= high:
        raise InputError(place, expected="low below high", got=f"{low} and {high}", todo="Correct them.")
    if part.log and (low <= 0 or step is not None):
        todo = "Leave log out, or raise low and leave step out."
        got = f"low {low}" + ("" if step is None else f", step {step}")
        raise InputError(place, expected="low above 0 and no step with log", got=got, todo=todo)
    if step is not None:
        steps = (high - low) / step if step > 0 else math.nan
        fits = (
            math.isfinite(steps) and abs(steps - round(steps)) < 1e-6 and not (part.whole and isinstance(step, float))
        )
        if not fits:
            expected = f"{'whole ' if part.whole else ''}steps that lead from {low} to {high}"
            raise InputError(f"{place}.step", expected=expected, got=str(step), todo="Correct one of them.")
