"""Limits of a training: the windows (data), the process that launches work (host), or the device that does it."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import Any, Literal

import torch

from ...data.windows.corpus import Windows

Limit = Literal["data", "host", "device"]


class Limits:
    """Times of an epoch. Asks a CUDA device whether it has work left, and never waits for it.

    A device is idle if it has finished one step when the next one begins: then the host limits, or the windows, if they
    take more than half of the host's time. On a CPU, host and device are one: it is the device, or the windows.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.started_s, self.data_s = perf_counter(), 0.0
        self.num_steps, self.num_idle = 0, 0
        self.last: torch.cuda.Event | None = None

    def timed(self, source: Iterator[Windows]) -> Iterator[Windows]:
        """Yields the windows of each step, with the time that they take."""
        while True:
            asked_s = perf_counter()
            windows = next(source, None)
            self.data_s += perf_counter() - asked_s
            if windows is None:
                return
            self.num_idle += self.last is not None and self.last.query()
            yield windows
            self.num_steps += 1
            if self.device.type == "cuda":
                self.last = torch.cuda.Event()
                self.last.record()

    def figures(self) -> dict[str, Any]:
        """Returns `{"data_share": of the host's time, "limited_by"}`."""
        share = self.data_s / max(perf_counter() - self.started_s, 1e-9)
        return {"data_share": round(share, 4), "limited_by": self._limit(share)}

    def _limit(self, share: float) -> Limit:
        busy = self.device.type == "cuda" and 2 * self.num_idle < self.num_steps
        if share > 0.5 and not busy:
            return "data"
        return "host" if self.device.type == "cuda" and not busy else "device"
