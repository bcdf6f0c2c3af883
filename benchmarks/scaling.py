"""Growth on paper, and a simulation of an extraction on many devices that share one disk.

    python benchmarks/scaling.py [--clips 100000] [--workers 1 8 64]

Costs come from the JSON of disk.py and opening.py, as measured; everything else is an assumption that `Fleet` names.
Every worker computes clip after clip; finished clips gather while its last commit is at the disk, and go there
together (or one by one: the design before groups). The disk serves one commit at a time. Workers fail at random, lose
the clip at work and what has gathered, and come back; some are slower than the rest. Lengths of clips are log-normal.
"""

from __future__ import annotations

import argparse
import heapq
import math
from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from sage_va.benchmarks.frame import Figure, add_json_option, save, value_of
from sage_va.data.store.groups import GROUP_BYTES, GROUP_ENTRIES
from sage_va.extract.engine.commit_stage import MIN_WAITING

STREAMS = {"visual": 25.0, "audio": 50.0}  # steps per second
DIM, COLUMNS, MEAN_FRAMES = 768, 5, 5000
RECORD_BYTES, JOURNAL_BYTES, PACK_BYTES = 1500, 330, 1 << 30
ENTRIES = len(STREAMS)
MAX_GROUP = GROUP_ENTRIES // ENTRIES  # clips
LENGTHS = {"long clips (5,000 frames)": MEAN_FRAMES, "short clips (75 frames)": 75, "one-step clips": 1}


@dataclass(frozen=True)
class Fleet:
    """Assumptions: a device of a given speed, its failures, its stragglers."""

    workers: int
    frames_per_s: float = 2000.0
    seconds_per_clip: float = 0.005  # hashing, opening, handing out
    hours_between_failures: float = 200.0
    restart_s: float = 120.0
    slow_share: float = 0.05
    slow_factor: float = 3.0
    spread: float = 0.8  # of the logarithm of a clip's length


@dataclass(frozen=True)
class Disk:
    """The cost of a commit of k clips: `wait_s` for the disk, `clip_s` for each clip, bytes at `bytes_per_s`."""

    wait_s: float
    clip_s: float
    max_group: int = MAX_GROUP
    bytes_per_s: float = 1e9

    def seconds(self, num: int, nbytes: float) -> float:
        return self.wait_s + num * self.clip_s + nbytes / self.bytes_per_s

    def clips_per_s(self, nbytes: float) -> float:
        """Returns the most clips of a size that it takes."""
        num = max(1, min(self.max_group, int(GROUP_BYTES / nbytes)))
        return num / self.seconds(num, num * nbytes)


@dataclass
class Outcome:
    """hours: until the last clip is durable. busy: share of the devices' time that was spent on clips that counted.

    disk: share of the time in which the disk was at work. repeated: clips that were computed again.
    """

    hours: float
    busy: float
    disk: float
    repeated: int


def bytes_of(num_frames: float) -> float:
    """Bytes of a clip with all streams."""
    return sum(max(1.0, num_frames * hz / 25) * (2 * DIM + 8 * COLUMNS) + RECORD_BYTES for hz in STREAMS.values())


class Simulation:
    """One run: events in the order of time, each a worker that ends a clip or a commit, fails or comes back."""

    def __init__(self, fleet: Fleet, disk: Disk, mean_frames: float, num_clips: int, seed: int = 0) -> None:
        self.fleet, self.disk, self.rng = fleet, disk, np.random.default_rng(seed)
        mean_log = math.log(mean_frames) - fleet.spread**2 / 2
        self.frames = np.exp(self.rng.normal(mean_log, fleet.spread, num_clips))
        self.todo = deque(range(num_clips))
        slow = self.rng.permutation(fleet.workers) < round(fleet.slow_share * fleet.workers)
        self.speed = fleet.frames_per_s / np.where(slow, fleet.slow_factor, 1.0)
        self.gathered: list[list[int]] = [[] for _ in range(fleet.workers)]
        self.writing: list[list[int]] = [[] for _ in range(fleet.workers)]
        self.stalled = [False] * fleet.workers
        self.life = [0] * fleet.workers  # rises when a worker fails: what it had begun is void
        self.events: list[tuple[float, int, str, int, int, int]] = []
        self.disk_free_s = self.disk_busy_s = self.useful_s = 0.0
        self.left, self.repeated, self.count = num_clips, 0, 0

    def run(self) -> Outcome:
        for worker in range(self.fleet.workers):
            self.at(0.0, "idle", worker)
            self.at(self.lifetime(), "fails", worker)
        now = 0.0
        while self.left:
            now, _, kind, worker, life, clip = heapq.heappop(self.events)
            if life == self.life[worker]:
                getattr(self, f"_{kind}")(now, worker, clip)
        total_s = now * self.fleet.workers
        return Outcome(now / 3600, self.useful_s / total_s, self.disk_busy_s / now, self.repeated)

    def at(self, time_s: float, kind: str, worker: int, clip: int = -1) -> None:
        self.count += 1
        heapq.heappush(self.events, (time_s, self.count, kind, worker, self.life[worker], clip))

    def lifetime(self) -> float:
        return float(self.rng.exponential(3600 * self.fleet.hours_between_failures))

    def _idle(self, now: float, worker: int, _: int) -> None:
        if self.todo:
            clip = self.todo.popleft()
            self.at(now + self.compute_s(worker, clip), "computed", worker, clip)

    def compute_s(self, worker: int, clip: int) -> float:
        return self.fleet.seconds_per_clip + float(self.frames[clip] / self.speed[worker])

    def _computed(self, now: float, worker: int, clip: int) -> None:
        self.gathered[worker].append(clip)
        self._write(now, worker)
        self.stalled[worker] = self._is_full(self.gathered[worker])
        if not self.stalled[worker]:
            self._idle(now, worker, -1)

    def _is_full(self, clips: list[int]) -> bool:
        """True where the next clip has to wait, as in the commit stage of the pipeline."""
        num, nbytes = len(clips), sum(bytes_of(self.frames[clip]) for clip in clips[:MIN_WAITING])
        return num >= self.disk.max_group * (1 if self.disk.max_group > 1 else MIN_WAITING) or (
            num >= MIN_WAITING and nbytes >= GROUP_BYTES
        )

    def _write(self, now: float, worker: int) -> None:
        """Sends what has gathered to the disk, unless the worker's last commit is still there."""
        if self.writing[worker] or not self.gathered[worker]:
            return
        group = self.gathered[worker][: self.disk.max_group]
        self.gathered[worker] = self.gathered[worker][self.disk.max_group :]
        self.writing[worker] = group
        took_s = self.disk.seconds(len(group), sum(bytes_of(self.frames[clip]) for clip in group))
        self.disk_free_s = max(now, self.disk_free_s) + took_s
        self.disk_busy_s += took_s
        self.at(self.disk_free_s, "written", worker)

    def _written(self, now: float, worker: int, _: int) -> None:
        self.left -= len(self.writing[worker])
        self.useful_s += sum(self.compute_s(worker, clip) for clip in self.writing[worker])
        self.writing[worker] = []
        self._write(now, worker)
        if self.stalled[worker]:
            self.stalled[worker] = False
            self._idle(now, worker, -1)

    def _fails(self, now: float, worker: int, _: int) -> None:
        at_work = [clip for _, _, kind, who, life, clip in self.events
                   if kind == "computed" and who == worker and life == self.life[worker]]  # fmt: skip
        lost = [*at_work, *self.gathered[worker], *self.writing[worker]]
        self.todo.extendleft(lost)
        self.repeated += len(lost)
        self.gathered[worker], self.writing[worker], self.stalled[worker] = [], [], False
        self.life[worker] += 1
        self.at(now + self.fleet.restart_s, "idle", worker)
        self.at(now + self.fleet.restart_s + self.lifetime(), "fails", worker)
        for other in range(self.fleet.workers):  # those that had nothing left to do
            self._wake(now, other)

    def _wake(self, now: float, worker: int) -> None:
        waits = any(kind in ("idle", "computed") and who == worker and life == self.life[worker]
                    for _, _, kind, who, life, _ in self.events)  # fmt: skip
        if not waits and not self.stalled[worker]:
            self._idle(now, worker, -1)


def measured_disks() -> dict[str, Disk]:
    """A Zarr folder before and after groups, by the figures of disk.py.

    A wait is taken to be all that a single commit costs, by the number of its waits. What a clip costs in a group
    besides the waits is mostly processor time of the worker; here it occupies the disk too, which is pessimistic.
    """
    (single, single_waits), (grouped, waits) = (
        [
            value_of("disk", f"{what}: Zarr folder, {way}")
            for what in ("commit a one-step clip", "waits for the disk per clip")
        ]
        for way in ("one by one", "in groups")
    )
    wait_s = single / single_waits / 1000
    return {
        "one by one": Disk(wait_s=0.0, clip_s=ENTRIES * single / 1000, max_group=1),
        "in groups": Disk(wait_s=3 * wait_s, clip_s=ENTRIES * max(grouped / 1000 - waits * wait_s, 0.0)),
    }


def paper(num_clips: int) -> list[Figure]:
    """Bytes, objects and listing times of a cache of long clips."""
    entries, total = num_clips * ENTRIES, num_clips * bytes_of(MEAN_FRAMES)
    name = f"{num_clips:,} clips"
    figures = [
        Figure(f"{name}: features and records", total / 1e12, "TB"),
        Figure(f"{name}: files of a Zarr folder", 5 * entries),
        Figure(f"{name}: folders of a Zarr folder", 7 * entries),
        Figure(f"{name}: files of an HDF5 folder", entries),
        Figure(f"{name}: packs", math.ceil(total / PACK_BYTES)),
        Figure(f"{name}: records", entries * RECORD_BYTES / 1e9, "GB"),
        Figure(f"{name}: journal", entries * JOURNAL_BYTES / 1e6, "MB"),
        Figure(
            f"{name}: verify with the measured speed", total / 1e6 / value_of("disk", "verify: Zarr folder") / 3600, "h"
        ),
    ]
    for layout in ("Zarr folder", "HDF5 folder", "pack"):
        each_s = value_of("opening", f"open 10,000 clips: {layout}") / 10_000
        figures.append(Figure(f"{name}: open and list, {layout}", each_s * num_clips, "CPU s"))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=100_000, help="clips of a simulated run")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64])
    add_json_option(parser)
    options = parser.parse_args()
    figures = paper(1_000_000)
    disks = measured_disks()
    for kind, mean_frames in LENGTHS.items():
        limits = {way: disk.clips_per_s(bytes_of(mean_frames)) for way, disk in disks.items()}
        figures += [
            Figure(f"{kind}: clips that the disk takes, {way}", limit, "per s") for way, limit in limits.items()
        ]
        target = 10.0 if kind == "one-step clips" else None
        gain = limits["in groups"] / limits["one by one"]
        figures.append(Figure(f"{kind}: in groups by one by one", gain, "x", at_least=target))
        figures += simulated(kind, mean_frames, disks, options.workers, options.clips)
    for figure in figures:
        print(f"{figure.name:75}{figure.value:14,.3f} {figure.unit}")
    save(options.json, __file__, figures)


def simulated(kind: str, mean_frames: float, disks: dict[str, Disk], workers: list[int], num: int) -> list[Figure]:
    figures = []
    for num_workers in workers:
        for way, disk in disks.items():
            outcome = Simulation(Fleet(num_workers), disk, mean_frames, num).run()
            ideal = Simulation(replace(Fleet(num_workers), slow_share=0.0, hours_between_failures=1e9),
                               Disk(0.0, 0.0, bytes_per_s=1e15), mean_frames, num).run()  # fmt: skip
            name = f"{kind}, {num_workers} workers, {way}"
            note = f"{outcome.hours:.2f} h; disk at work {100 * outcome.disk:.0f} %, {outcome.repeated} clips repeated."
            figures.append(Figure(f"{name}: efficiency", ideal.hours / outcome.hours, note=note))
    return figures


if __name__ == "__main__":
    main()
