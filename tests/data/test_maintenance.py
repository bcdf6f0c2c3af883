"""verify, repair and gc: damage is named, removed and made again; what nothing names goes."""

import os
from pathlib import Path

import pytest

from sage_va.commands.cache import describe_garbage, describe_repaired, describe_verified
from sage_va.data import InputError, Store, open_store, stream_name
from sage_va.data.maintenance import collect_garbage, repair, verify
from sage_va.testing import AUDIO_NAME, SHA, VISUAL, VISUAL_NAME, make_track, problems, put, same


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(tmp_path / "c.zarr", "a", licence="EULA", restricted=True)
    for clip_id in ("a", "b", "x" * 300):
        put(store, clip_id)
        put(store, clip_id, "audio")
    return store


def flip(path: Path, at: int = 3) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])


def test_verify_counts_problems_but_not_leftovers(store: Store) -> None:
    (Path(store.url) / ".sage-va/staging/elsewhere-1").mkdir()
    result = verify(store)
    assert (result.streams_checked, result.problems) == (6, [])
    assert result.leftovers == [".sage-va/staging/elsewhere-1"]
    assert "elsewhere-1: left by an interrupted writer; harmless" in describe_verified(result)
    assert describe_verified(result).endswith("6 streams checked, whole")
    flip(Path(store.url) / VISUAL_NAME / "a/values/c/0/0")
    ticks: list[str] = []
    result = verify(store, ticks.append)
    assert [(p.clip_id, p.stream) for p in result.problems] == [("a", VISUAL_NAME)]
    assert sorted(set(ticks)) == store.clip_ids()
    assert "1 problem. Run `sage-va cache repair`" in describe_verified(result)


def test_verify_a_part(store: Store) -> None:
    counts = [verify(store, subset=f"{k}/4").streams_checked for k in (1, 2, 3, 4)]
    assert sum(counts) == 6
    for text in ("0/4", "5/4", "7", "0%", "101%", "x%", "1/x"):
        with pytest.raises(InputError, match=r"^subset: expected a part like 1/7 or 5%, got"):
            verify(store, subset=text)


@pytest.mark.parametrize("name", ["values/c/0/0", "frames/c/0/0", "frames/zarr.json", "zarr.json"])
@pytest.mark.parametrize("clip", ["a", "x"])
def test_repair_takes_out_exactly_the_damaged_streams(store: Store, name: str, clip: str) -> None:
    (place,) = (Path(store.url) / VISUAL_NAME).glob(f"{clip}*")
    flip(place / name)
    result = repair(store.url)
    assert [row.stream for row in result.requeued] == [VISUAL_NAME]
    assert "1 damaged streams removed; run the same `extract`" in describe_repaired(result)
    assert problems(store) == []
    clip_id = "a" if clip == "a" else "x" * 300
    assert store.streams(clip_id) == [AUDIO_NAME]
    assert not store.has(clip_id, VISUAL_NAME, SHA)
    assert len(store.clip_ids(VISUAL_NAME)) == 2
    put(store, clip_id, seed=5)
    assert same(store.read(clip_id, VISUAL_NAME), make_track(5))


def test_repair_restores_what_can_be_derived(store: Store, tmp_path: Path) -> None:
    content, cache = store.content_sha256(), Path(store.url)
    before = {path: path.read_bytes() for path in cache.rglob("zarr.json")}
    flip(cache / "zarr.json", 40)
    flip(cache / "visual/zarr.json")
    flip(cache / ".sage-va/aliases/visual/toy.json")
    with pytest.raises(InputError, match=r"expected the attributes that were written, got others\. Run .* repair"):
        open_store(cache)
    result = repair(str(cache))
    assert result.requeued == []
    assert any("restored zarr.json" in line for line in result.done)
    assert {path: path.read_bytes() for path in cache.rglob("zarr.json")} == before
    assert open_store(cache).root()["licence"] == "EULA"
    assert problems(open_store(cache)) == []
    assert open_store(cache).content_sha256() == content
    assert "no damaged streams" in describe_repaired(repair(str(cache)))


def test_gc_removes_what_no_alias_names(store: Store) -> None:
    other = stream_name("visual", "toy", {**VISUAL, "layer": 3})
    put(store, "a", seed=2, fingerprint={**VISUAL, "layer": 3})
    planned = collect_garbage(store.url, dry_run=True)
    assert [(row.stream, row.clips) for row in planned.streams] == [(VISUAL_NAME, 3)]
    assert "would remove visual/toy-" in describe_garbage(planned)
    assert len(store.streams()) == 3
    done = collect_garbage(store.url)
    assert done.streams == planned.streams
    assert store.streams() == [AUDIO_NAME, other]
    assert not (Path(store.url) / VISUAL_NAME).exists()
    assert problems(store) == []
    assert describe_garbage(collect_garbage(store.url)) == "nothing to remove"


def test_gc_keeps_what_any_alias_names(store: Store) -> None:
    put(store, "a", seed=2, fingerprint={**VISUAL, "layer": 3})
    store.point(VISUAL_NAME, "visual/paper")
    assert collect_garbage(store.url).streams == []
    assert len(store.streams()) == 3


def test_a_lost_alias_condemns_nothing(store: Store) -> None:
    flip(Path(store.url) / ".sage-va/aliases/visual/toy.json", 20)
    assert collect_garbage(store.url, dry_run=True).streams == []
    assert f"pointed visual/toy to {VISUAL_NAME}" in repair(store.url).done
    assert store.aliases()["visual/toy"] == VISUAL_NAME
    assert len(store.clip_ids(VISUAL_NAME)) == 3


def test_what_is_not_there_is_not_made(tmp_path: Path) -> None:
    for verb in (repair, collect_garbage):
        with pytest.raises(InputError, match=r"typo\.zarr: expected a feature cache, got no such folder"):
            verb(str(tmp_path / "typo.zarr"))
    assert not (tmp_path / "typo.zarr").exists()


def test_repair_goes_on_behind_a_damaged_journal(store: Store) -> None:
    flip(Path(store.url) / ".sage-va/journal.jsonl", 200)
    flip(Path(store.url) / VISUAL_NAME / "a/values/c/0/0")
    result = repair(store.url)
    assert any("removed damaged lines from" in line for line in result.done)
    assert [row.clip_id for row in result.requeued] == ["a"]
    assert problems(store) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_not_taken_for_damaged(store: Store) -> None:
    place = Path(store.url) / VISUAL_NAME / "a/zarr.json"
    place.chmod(0)
    with pytest.raises(PermissionError):
        repair(store.url)
    place.chmod(0o644)
    assert len(store.clip_ids(VISUAL_NAME)) == 3
