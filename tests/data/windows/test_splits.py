"""Splits: groups stay whole, seeds decide, order does not, and each clip is tested exactly once over the folds."""

from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sage_va.data import Clip, InputError
from sage_va.data.windows.splits import divided, group_clips, read_split, split_folds, split_groups

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
    with pytest.raises(InputError, match=r"split: expected at least 3 groups to split, got 1\. Add recordings or set"):
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


def together(clips: list[Clip], **options: bool) -> list[list[str]]:
    """The clips of each group, in order."""
    groups = group_clips(clips, **options)
    return sorted(sorted(c for c in groups if groups[c] == name) for name in set(groups.values()))


@pytest.mark.parametrize(
    ("clip_ids", "groups"),
    [
        (["video5_left", "video5_right", "video6"], [["video5_left", "video5_right"], ["video6"]]),
        (["10-60-1280x720", "10-60-1280x720_right"], [["10-60-1280x720", "10-60-1280x720_right"]]),
        (["video59.mp4", "video59_right", "video59.mp4#left"], [["video59.mp4", "video59.mp4#left", "video59_right"]]),
        (["v.mp4#0", "v.mp4#left", "w.mp4"], [["v.mp4#0", "v.mp4#left"], ["w.mp4"]]),
        (["v_left.mp4", "v.wav", "V_left.mp4"], [["V_left.mp4"], ["v.wav", "v_left.mp4"]]),
        (["28-30-1280x720-4", "28-30-1280x720-3"], [["28-30-1280x720-3"], ["28-30-1280x720-4"]]),  # Aff-Wild2: others
        (["v_1", "v_2", "v"], [["v"], ["v_1"], ["v_2"]]),
        (["a/v_left", "b/v_right"], [["a/v_left"], ["b/v_right"]]),
        (["a.1", "a.2"], [["a.1"], ["a.2"]]),  # no suffix of a recording
        (["_left", "_right", "a/_left"], [["_left"], ["_right"], ["a/_left"]]),
    ],
)
def test_clips_of_one_recording_are_grouped_by_name(clip_ids: list[str], groups: list[list[str]]) -> None:
    clips = [Clip(clip_id) for clip_id in clip_ids]
    assert together(clips) == together(clips, by_subject=False) == groups


def test_clips_of_one_recording_are_grouped_by_its_bytes_or_sound() -> None:
    clips = [
        Clip("a", media={"sha256": "1"}),
        Clip("b", media={"sha256": "1"}),  # another cut of the same file
        Clip("c", media={"sha256": "2"}, recording_sha256=("7", "8")),
        Clip("d", media={"sha256": "3"}, recording_sha256=("8",)),  # another camera, the same sound
        Clip("e", media={"sha256": "4"}),
        Clip("f"),
    ]
    assert together(clips) == [["a", "b"], ["c", "d"], ["e"], ["f"]]


def test_groups_are_closed_under_subjects_and_recordings() -> None:
    clips = [
        Clip("v1_left", "anna"),
        Clip("v1_right", "bert"),
        Clip("v2", "bert"),
        Clip("v3", media={"sha256": "3"}, recording_sha256=("1",)),
        Clip("v4", "carl", media={"sha256": "3"}),
        Clip("v5", recording_sha256=("1",)),
        Clip("v6", "dora"),
    ]
    assert together(clips) == [["v1_left", "v1_right", "v2"], ["v3", "v4", "v5"], ["v6"]]
    assert together(clips, by_subject=False) == [["v1_left", "v1_right"], ["v2"], ["v3", "v4", "v5"], ["v6"]]


def test_groups_that_are_subjects_keep_their_names_and_so_their_split() -> None:
    """A split is drawn from the sorted names of groups: without leaks it stays what it was, bit for bit."""
    clips = [Clip(f"v{k}.mp4#p{k % 2}", f"s{k // 3}" if k % 5 else None) for k in range(20)]
    assert group_clips(clips) == {clip.clip_id: clip.subject_id or clip.clip_id.split("#")[0] for clip in clips}
    assert group_clips(clips, by_subject=False) == {clip.clip_id: clip.clip_id.split("#")[0] for clip in clips}


clip_lists = st.lists(
    st.builds(
        Clip,
        st.builds(
            lambda *parts: "".join(parts),
            st.sampled_from([f"v{k}" for k in range(12)]),
            st.sampled_from(["", "_left", "_right"]),
            st.sampled_from(["", ".mp4"]),
            st.sampled_from(["", "#0", "#left"]),
        ),
        st.none() | st.sampled_from([f"s{k}" for k in range(8)]),
        media=st.none() | st.builds(lambda k: {"sha256": str(k)}, st.integers(0, 30)),
        recording_sha256=st.lists(st.sampled_from([f"a{k}" for k in range(30)]), max_size=1).map(tuple),
    ),
    min_size=3,
    max_size=40,
    unique_by=lambda clip: clip.clip_id,
)


def links(one: Clip, other: Clip, by_subject: bool) -> bool:
    """True if two clips show one recording, or one subject."""

    def name(clip: Clip) -> str:
        return clip.clip_id.split("#")[0].removesuffix(".mp4").removesuffix("_left").removesuffix("_right")

    media = one.media is not None and one.media == other.media
    subject = by_subject and one.subject_id is not None and one.subject_id == other.subject_id
    return name(one) == name(other) or media or subject or bool(set(one.recording_sha256) & set(other.recording_sha256))


@given(clip_lists, st.booleans(), st.integers(0, 99), st.randoms())
def test_no_recording_and_no_subject_is_ever_divided(
    clips: list[Clip], by_subject: bool, seed: int, shuffle: Random
) -> None:
    groups = group_clips(clips, by_subject=by_subject)
    num_groups = len(set(groups.values()))
    assume(num_groups >= 3)
    reordered = shuffle.sample(clips, len(clips))
    assert group_clips(reordered, by_subject=by_subject) == groups
    splits = [split_groups(groups, SHARES, seed), *(split_folds(groups, 3, fold, seed) for fold in range(3))]
    for roles in splits:
        assert divided(roles, groups) == []
        for one in clips:
            for other in clips:
                if links(one, other, by_subject):
                    assert roles[one.clip_id] == roles[other.clip_id]
    assert split_groups(group_clips(reordered, by_subject=by_subject), SHARES, seed) == splits[0]
    sizes = Counter({groups[clip_id]: role for clip_id, role in splits[0].items()}.values())
    for role, share in zip(("train", "val", "test"), SHARES, strict=True):
        assert abs(sizes[role] - share * num_groups) <= 1.5


@given(clip_lists)
def test_groups_are_no_larger_than_they_must_be(clips: list[Clip]) -> None:
    """Two clips of a group are linked by a chain of clips that share a subject or a recording."""
    for group in together(clips):
        members = [clip for clip in clips if clip.clip_id in group]
        reached = {members[0].clip_id}
        for _ in members:
            reached |= {
                one.clip_id
                for one in members
                for other in members
                if other.clip_id in reached and links(one, other, by_subject=True)
            }
        assert sorted(reached) == group


def test_divided_groups_are_named() -> None:
    groups = {"a": "r", "b": "r", "c": "s", "d": "t", "e": "t"}
    roles = {"a": "train", "b": "val", "c": "val", "d": "train", "e": "train"}
    assert divided(roles, groups) == [["a", "b"]]
