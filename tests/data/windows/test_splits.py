"""Splits: groups stay whole, seeds decide, order does not, and each clip is tested exactly once over the folds."""

from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sage_va.data import InputError
from sage_va.data.windows.splits import read_split, split_folds, split_groups

group_maps = st.dictionaries(st.text("abcdef", min_size=1), st.sampled_from([f"s{k}" for k in range(12)]), min_size=3)
SHARES = (0.6, 0.2, 0.2)


@given(group_maps, st.integers(0, 1000))
def test_groups_stay_whole_and_every_part_gets_one(groups: dict[str, str], seed: int) -> None:
    assume(len(set(groups.values())) >= 3)
    roles = split_groups(groups, SHARES, seed)
    assert roles.keys() == groups.keys()
    assert len({(groups[clip_id], role) for clip_id, role in roles.items()}) == len(set(groups.values()))
    assert set(roles.values()) == {"train", "val", "test"}


@given(group_maps, st.integers(0, 1000), st.randoms())
def test_order_does_not_matter(groups: dict[str, str], seed: int, shuffle: Random) -> None:
    assume(len(set(groups.values())) >= 3)
    rows = list(groups.items())
    shuffle.shuffle(rows)
    assert split_groups(dict(rows), SHARES, seed) == split_groups(groups, SHARES, seed)
    assert split_folds(dict(rows), 3, 1, seed) == split_folds(groups, 3, 1, seed)


def test_a_seed_gives_the_same_split_for_ever() -> None:
    groups = {f"clip{k}": f"subject{k // 2}" for k in range(10)}
    roles = split_groups(groups, SHARES, 0)
    assert Counter(roles.values()) == {"train": 6, "val": 2, "test": 2}
    assert sorted({groups[c] for c, role in roles.items() if role != "train"}) == ["subject0", "subject1"]
    assert split_groups(groups, SHARES, 1) != roles


@given(group_maps, st.integers(3, 6), st.integers(0, 99))
def test_folds_test_each_clip_exactly_once(groups: dict[str, str], num_folds: int, seed: int) -> None:
    assume(len(set(groups.values())) >= num_folds)
    tested: Counter[str] = Counter()
    for fold in range(num_folds):
        roles = split_folds(groups, num_folds, fold, seed)
        assert len({(groups[clip_id], role) for clip_id, role in roles.items()}) == len(set(groups.values()))
        assert set(roles.values()) == {"train", "val", "test"}
        tested.update(clip_id for clip_id, role in roles.items() if role == "test")
    assert tested == Counter(groups.keys())


def test_too_little_to_split_is_refused() -> None:
    with pytest.raises(InputError, match=r"split: expected at least 3 groups to part, got 1\. Add recordings, or set"):
        split_groups({"a": "s", "b": "s"}, SHARES, 0)
    with pytest.raises(InputError, match=r"expected something left to train on, got nothing\. Lower the shares"):
        split_groups({"a": "s", "b": "t", "c": "u", "d": "v"}, (0.01, 0.5, 0.5), 0)
    assert set(split_groups({"a": "s", "b": "t"}, (0.5, 0.5, 0), 0).values()) == {"train", "val"}
    for num_folds, fold in ((2, 0), (4, 0), (3, 3), (3, -1)):
        with pytest.raises(
            InputError, match=rf"expected 3 or more folds, .*, got fold {fold} of {num_folds}, 3 groups"
        ):
            split_folds({"a": "s", "b": "t", "c": "u"}, num_folds, fold, 0)


def test_a_file_of_roles(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text("\ufeffclip_id,fold,split\na/b.mp4,0,train\nc,1,val\nd,1,test\n", encoding="utf-8")
    assert read_split(path) == {"a/b.mp4": "train", "c": "val", "d": "test"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"split\.csv:1: expected columns clip_id, split, got no header\. Add the header line"),
        ("clip,split\n", r"split\.csv:1: expected columns clip_id, split, got clip, split"),
        (
            "clip_id,split\na,train\nb,dev\n",
            r"split\.csv:3: expected a new clip with train, val or test, got b,dev\. Correct",
        ),
        ("clip_id,split\na,train\na,val\n", r"split\.csv:3: expected a new clip with train, val or test, got a,val"),
        ("clip_id,split\na\n", r"split\.csv:2: expected a new clip"),
    ],
)
def test_a_wrong_file_is_refused_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_split(tmp_path / "split.csv")
