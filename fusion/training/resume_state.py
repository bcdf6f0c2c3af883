"""The state of an unfinished training: one safetensors file, replaced as a whole, with plain values in its header."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ...data.atomic import sync
from ...data.errors import InputError
from ...data.tensor_file import load_tensors, save_tensors
from ..distributed import gathered, is_main, num_processes

State = tuple[Mapping[str, Tensor], Mapping[str, Any]]
EVERY_S = 30.0  # how much work may be lost
VERSION = 2  # of what a state holds: 2 since the first LayerNorm has no weights


class StateFile:
    """File of the state of a training, written every 30 s and before it stops.

    Args:
        path: of the file.
        facts: of the training; a state with other facts is refused.
        stop: True once the training is to stop.
        log: file with a row per epoch, which is on disk before a state that counts those epochs.
    """

    def __init__(
        self,
        path: Path,
        facts: Mapping[str, Any],
        stop: Callable[[], bool] = lambda: False,
        log: Path | None = None,
    ) -> None:
        self.log = log
        self.path, self.facts, self.every_s, self.stop = path, dict(facts), EVERY_S, stop
        self.saved_s = time.monotonic()

    def offer(self, state: Callable[[], State]) -> None:
        """Saves the state if it is due, or if the training is to stop.

        Raises:
            KeyboardInterrupt: after saving it, if the training is to stop.
        """
        asked = gathered((self.stop(), time.monotonic() - self.saved_s >= self.every_s))
        stop = any(one for one, _ in asked)  # all stop together; otherwise some would wait forever
        if stop or asked[0][1]:
            self.save(state())
        if stop:
            raise KeyboardInterrupt

    def offer_within(self, state: Callable[[], State]) -> None:
        """Calls `offer` within an epoch, unless several processes train: they would have to agree at every step."""
        if num_processes() == 1:
            self.offer(state)

    def save(self, state: State) -> None:
        """Replaces the file, whole or not at all."""
        tensors, plain = state
        if is_main():
            if self.log is not None:
                sync(self.log)
            state_json = json.dumps({"version": VERSION, "facts": self.facts, **plain})
            save_tensors(self.path, tensors, {"state": state_json})
        self.saved_s = time.monotonic()

    @property
    def num_epochs(self) -> int:
        """Number of finished epochs in the saved state."""
        state = self.load()
        return state[1]["course"]["epoch"] if state else 0

    def load(self) -> State | None:
        """Returns the state, on the CPU; None if there is none.

        Raises:
            InputError: if the file is damaged, or the state of another training.
        """
        if not self.path.exists():
            return None
        try:
            tensors, header = load_tensors(self.path)
            plain = json.loads(header["state"])
            facts = plain["facts"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            got, todo = " ".join(str(error).split())[:200], "Remove the folder, and train again."
            raise InputError(self.path, expected="the state of a training", got=got, todo=todo) from None
        if plain.get("version") != VERSION:
            todo = "Finish it with the version of sage-va that began it, or choose another --out."
            raise InputError(self.path, "this training was begun by another version of sage-va", todo=todo)
        for key, value in self.facts.items():
            if facts.get(key) != value:
                todo = "Train with what it began with, or choose another --out."
                expected = f"a training of {key} = {facts.get(key)}"
                raise InputError(self.path, expected=expected, got=str(value), todo=todo)
        return tensors, plain
