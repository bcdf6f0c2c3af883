"""The output of the command line: bars on standard error, results as text or JSON on standard output."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from time import monotonic
from typing import Any, Protocol, TypeVar

import click

from ..data.errors import InputError, visible
from ..data.machine import find_device


class WithJson(Protocol):
    """A result of the library, such as a dataclass."""

    def to_json(self) -> dict[str, Any]:
        """Returns plain values: None for what is not defined, never NaN."""
        ...


LINE_EVERY_S = 60.0
NUM_NAMES = 5  # shown of those that share a text
Shown = TypeVar("Shown", bound=WithJson | dict[str, Any])


def show(result: Shown, as_json: bool, describe: Callable[[Shown], str]) -> None:
    """Prints a result as one JSON object, or as the text that `describe` makes of it."""
    if as_json:
        show_json(result if isinstance(result, dict) else result.to_json())
    else:
        echo(describe(_visible_texts(result)))


def show_json(values: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """Prints an object. Characters of names and messages that could act on a terminal are shown as escapes."""
    text = json.dumps(values, ensure_ascii=False, indent=indent, allow_nan=False)
    click.echo(re.sub(r"[^\n -~]", _json_escape, text))


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Prints a text. Characters of names and messages that could act on a terminal are shown as escapes."""
    click.echo(visible(text, keep="\n"), err=err, nl=nl)


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Prints warnings as one line each, without the place in our code that gave them."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_: f"warning: {visible(str(message))}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _json_escape(match: re.Match[str]) -> str:
    """Returns a character that could act on a terminal as JSON escapes; others as they are."""
    return match[0] if visible(match[0]) == match[0] else json.dumps(match[0])[1:-1]


def _visible_texts(value: Any) -> Any:
    """Returns a copy of a result in which no text makes a line of its own, nor acts on a terminal."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {_visible_texts(key): _visible_texts(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_visible_texts(each) for each in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value, fields = copy.copy(value), dataclasses.fields(value)
        for field in fields:
            object.__setattr__(value, field.name, _visible_texts(getattr(value, field.name)))
    return value


def failures(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Returns a line for each reason of failure, from `(name, reason)` of what failed."""
    return grouped("failed", "clips", rows)


def notes(of_clips: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns a line for each note, from clip_id -> notes."""
    return grouped("note", "clips", [(clip_id, note) for clip_id, each in sorted(of_clips.items()) for note in each])


def grouped(kind: str, unit: str, rows: Iterable[tuple[str, str]]) -> list[str]:
    """Returns a line for each text of `(name, text)`, with the names that share it."""
    names: dict[str, list[str]] = {}
    for name, text in rows:
        names.setdefault(text, []).append(name)
    return [f"{kind}: {_together(each, unit)}: {text}" for text, each in names.items()]


def _together(names: Sequence[str], unit: str) -> str:
    if len(names) == 1:
        return names[0]
    more = f" and {len(names) - NUM_NAMES} more, see --json" if len(names) > NUM_NAMES else ""
    return f"{len(names)} {unit} ({', '.join(names[:NUM_NAMES])}{more})"


def chosen_device(name: str) -> str:
    """Returns the device of `--device`, as a string.

    Raises:
        InputError: if this machine has no such device.
    """
    try:
        return str(find_device(name))
    except InputError as error:
        raise error.at(f"--device {name}") from None


class Bar:
    """Progress on standard error: a bar in a terminal, elsewhere at most a line per minute."""

    def __init__(self, unit: str) -> None:
        from tqdm import tqdm

        self.unit, self.num_done, self.postfix = unit, 0, ""
        self.bar = tqdm(unit=f" {unit}", disable=None, dynamic_ncols=True)
        self.next_line_s = monotonic() + LINE_EVERY_S

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def __call__(self, progress: Any) -> None:
        left = "" if progress.eta_s is None else f", {progress.eta_s:.0f} s left"
        failed = f", {progress.num_failed} failed" if progress.num_failed else ""
        self.add(f"{progress.frames_per_s:.0f} frames/s{left}{failed}")
        self.count(progress.num_done + progress.num_skipped + progress.num_failed, progress.num_clips)

    def add(self, postfix: str) -> None:
        """Adds a text to what is shown next."""
        self.postfix = postfix
        self.bar.set_postfix_str(postfix, refresh=False)

    def count(self, num_done: int, total: int | None) -> None:
        """Shows that `num_done` of `total` are done."""
        self.bar.total = total
        self.bar.update(num_done - self.num_done)
        self.bar.refresh()
        self.num_done = num_done
        if self.bar.disable and monotonic() > self.next_line_s:
            self.next_line_s = monotonic() + LINE_EVERY_S
            of_total = "" if total is None else f" of {total}"
            echo(f"{num_done}{of_total} {self.unit}{', ' * bool(self.postfix)}{self.postfix}", err=True)

    def tick(self, *_: object) -> None:
        """Shows that one more is done."""
        self.count(self.num_done + 1, self.bar.total)
