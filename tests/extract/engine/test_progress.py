"""Progress of a run: estimated from bytes, at a cost that does not grow with the number of clips."""

from pathlib import Path
from typing import Any

import pytest

from sage_va.data.manifest import Source
from sage_va.extract.engine.progress import Summary, Tally


class CountedSizes(dict[str, int]):
    """Sizes of clips that count how often all of them are looked at."""

    num = 0

    def values(self) -> Any:
        self.num += 1
        return super().values()


def test_sizes_are_added_up_once_and_not_for_each_clip() -> None:
    sizes = CountedSizes({f"{k}.mp4": 100 for k in range(50)})
    tally = Tally(sizes)
    for clip_id in list(sizes):
        tally.close(clip_id)
        tally.progress(Summary())
    assert (tally.progress(Summary()).eta_s, sizes.num) == (0.0, 1)


def test_a_clip_that_was_split_counts_by_its_people() -> None:
    tally = Tally({"a": 100, "b": 300})
    people = [Source(f"a#{k}", path=Path("a")) for k in range(3)]
    tally.split("a", people)
    tally.close("a#0")
    tally.close("b", skipped=True)
    now = tally.progress(Summary())
    assert now.num_clips == 4
    assert now.eta_s == pytest.approx(2 * now.elapsed_s)  # 33 bytes are done, 66 are left
