"""How the command line talks: bars on standard error, results as text or JSON on standard output."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from .data import InputError

device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps …")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")


def show(found: dict[str, Any], as_json: bool, describe: Callable[[dict[str, Any]], str]) -> None:
    """Prints a result."""
    click.echo(json.dumps(found, ensure_ascii=False, indent=2) if as_json else describe(found))


def failures(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each clip that failed."""
    return [f"failed: {row['clip_id']}: {row['reason']}" for row in rows]


def chosen_device(name: str) -> str:
    """The device that a name means.

    Raises:
        InputError: if this machine has none of it.
    """
    import torch

    if name != "auto":
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            got = str(error).splitlines()[0]
            raise InputError(
                "--device", expected="a device of this machine", got=got, todo="Use --device cpu."
            ) from None
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextlib.contextmanager
def interruptible(doing: str = "Finishing the clips in work") -> Iterator[threading.Event]:
    """An event that the first Ctrl-C (or SIGTERM, as SLURM sends it) sets; the second stops at once."""
    stop = threading.Event()

    def asked(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])
        click.echo(f"\n{doing}; press Ctrl-C again to stop at once.", err=True)

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Bar:
    """A progress bar on standard error, silent where that is no terminal."""

    def __init__(self, unit: str) -> None:
        self.bar = tqdm(unit=f" {unit}", disable=None, dynamic_ncols=True)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def __call__(self, progress: Any) -> None:
        self.bar.total = progress.num_clips
        left = "" if progress.eta_s is None else f", {progress.eta_s:.0f} s left"
        failed = f", {progress.num_failed} failed" if progress.num_failed else ""
        self.bar.set_postfix_str(f"{progress.frames_per_s:.0f} frames/s{left}{failed}", refresh=False)
        self.bar.update(progress.num_done + progress.num_skipped + progress.num_failed - self.bar.n)
        self.bar.refresh()

    def count(self, num_done: int, total: int) -> None:
        """So many of so many are done."""
        self.bar.total = total
        self.bar.update(num_done - self.bar.n)
        self.bar.refresh()

    def tick(self, *_: object) -> None:
        """One more of them is done."""
        self.bar.update(1)


class TrainLog:
    """Prints what the trainer reports: a bar of epochs per run, warnings, scores."""

    def __init__(self, config: Any, quiet: bool) -> None:
        self.config, self.quiet = config, quiet
        self.scores: list[dict[str, float]] = []
        self.random_weights: list[str] = []
        self.bar: tqdm[Any] | None = None

    def __enter__(self) -> TrainLog:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def __call__(self, event: dict[str, Any]) -> None:
        getattr(self, f"_{event['event']}")(event)

    def _loaded(self, event: dict[str, Any]) -> None:
        self._say(f"{event['num_clips']} labelled clips, {event['placement']}")
        if event["num_without_subject"] and self.config.split.by == "subject":
            self._say(f"{event['num_without_subject']} of them without subject_id: each recording stands for itself")
        for name, places in (("without labels", event["unlabelled"]), ("labels without a clip", event["unused"])):
            if places:
                self._say(f"{len(places)} {name}: {_some(places)}")
        self.random_weights = event["random_weights"]
        if event["random_weights"]:
            self._say(f"Untrained encoder (random weights): {', '.join(event['random_weights'])}")

    def _run(self, event: dict[str, Any]) -> None:
        self._close()
        self.bar = tqdm(
            total=self.config.train.epochs, unit=" epochs", disable=True if self.quiet else None, leave=True
        )
        self.bar.set_description(Path(event["path"]).name)

    def _model(self, event: dict[str, Any]) -> None:
        model, hz = self.config.model, self.config.data.grid_hz
        sees = f"its TCN sees {event['receptive_steps']} steps ({event['receptive_steps'] / hz:.1f} s)"
        if not self.scores:
            self._say(f"{model.variant}: {event['num_parameters']:,} parameters, {sees}")

    def _crossfit(self, event: dict[str, Any]) -> None:
        if self.bar is not None:
            self.bar.set_postfix_str(f"cross-fitting {event['stream']} {event['fold'] + 1}/{event['num_folds']}")

    def _epoch(self, event: dict[str, Any]) -> None:
        if self.bar is not None:
            val = event.get("val", {}).get("mean", float("nan"))
            self.bar.set_postfix_str(f"val CCC {val:.3f}, {event['windows_per_s']:.0f} windows/s")
            self.bar.update(event["epoch"] + 1 - self.bar.n)

    def _tracker(self, event: dict[str, Any]) -> None:
        click.echo(f"tracker {event['name']} failed, the training goes on without it: {event['reason']}", err=True)

    def _done(self, event: dict[str, Any]) -> None:
        self._close()
        val = event["val"]
        self.scores.append(val)
        self._say(f"{event['path']}: validation CCC {val['mean']:.3f} (V {val['valence']:.3f}, A {val['arousal']:.3f})")

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def _say(self, text: str) -> None:
        if not self.quiet:
            click.echo(text, err=True)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
