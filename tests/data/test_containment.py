"""Every place that is made from data lies below the folder that it is made in, whatever the data are.

The places: entries and aliases of a cache (`clip_key`, `check_stream`, `check_alias`), members of packs, exported
files, predictions, crops and prepared labels (`contained`). Caches made to do harm: `tests/data/store/test_hostile.py`.
"""

import ast
import os
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sage_va.data import InputError, open_store
from sage_va.data.atomic import contained
from sage_va.data.store.fingerprint import check_alias, check_clip_id, check_key, check_stream, clip_id_of, clip_key
from sage_va.data.store.pack_store import PACK_NAME
from sage_va.data.transfer.exporter import _file_name, export
from sage_va.testing import VISUAL_NAME, put

REPOSITORY = Path(__file__).resolve().parents[2]
NASTY = ["../x", "/etc/x", "a/../../x", "a\0b", "..", ".", "", "a//b", "a\\..\\b", "CON", "nul.txt", "C:/x", "~root/x"]
NASTY += [
    "x" * 5000,
    "ü" * 400,
    "a\nb",
    "\x1b[2J",
    "\u202ex",
    "%2e%2e/x",
    "=2E=2E",
    "-rf",
    "zarr.json",
    "x~" + "0" * 16,
]
parts = st.sampled_from(["..", ".", "", "a", "C:", "CON", "\0", "\\", "%2e", "=2E", "~", " ", "\u202e", "ü", "x" * 300])
names = st.one_of(st.sampled_from(NASTY), st.lists(parts, max_size=4).map("/".join), st.text(max_size=40))
ROOT = Path("/caches/mine")


def below(place: Path, root: Path = ROOT) -> bool:
    """True for a place that lies in a folder by its name alone, and that this system could hold."""
    return Path(os.path.normpath(place)).is_relative_to(root) and place != root and "\0" not in str(place)


@given(names)
@example("a/b#left")
def test_a_clip_is_refused_or_one_safe_name(name: str) -> None:
    try:
        key = clip_key(name)
    except InputError:
        return
    assert re.fullmatch(r"[A-Za-z0-9=-][A-Za-z0-9._=~-]*", key)
    assert len(key) <= 200
    assert check_key(key) == key
    assert below(contained(ROOT, key))
    if clip_id_of(key) is not None:
        assert clip_id_of(key) == name


@given(names, names)
def test_two_clips_have_two_places(one: str, other: str) -> None:
    keys = []
    for name in (one, other):
        try:
            keys.append(clip_key(name))
        except InputError:
            return
    assert (keys[0] == keys[1]) == (one == other)


@given(st.lists(names, max_size=3))
def test_contained_is_below_or_refused(words: list[str]) -> None:
    try:
        place = contained(ROOT, *words)
    except InputError:
        return
    assert below(place)


@given(names)
def test_streams_and_aliases_are_refused_or_below(name: str) -> None:
    for check, text in (
        (check_stream, name),
        (check_stream, f"visual/{name}-0a1b2c3d"),
        (check_alias, f"audio/{name}"),
    ):
        try:
            assert below(contained(ROOT, *check(text).split("/")))
        except InputError:
            continue


@given(names)
def test_exported_files_are_below(name: str) -> None:
    try:
        check_clip_id(name)
    except InputError:
        return
    place = contained(ROOT, f"{_file_name(name)}.npy")
    assert below(place)
    assert all(len(part.encode()) <= 255 for part in place.parts)


@pytest.mark.parametrize("name", [name for name in NASTY if name not in ("CON", "nul.txt", "C:/x", "~root/x", "-rf")])
def test_a_store_refuses_or_keeps_it_inside(name: str, tmp_path: Path) -> None:
    root = tmp_path / "1" / "2"
    store = open_store(root / "c.zarr", "a")
    try:
        put(store, name)
    except InputError:
        assert store.clip_ids() == []
    else:
        assert store.clip_ids() == [name]
        export(store, root / "out", stream=VISUAL_NAME, file_format="npy")
    assert {path for path in tmp_path.rglob("*") if root not in path.parents} == {tmp_path / "1", root}


@given(st.one_of(names, st.from_regex(r"[0-9a-f]{16}\.zip(\n|/\.\.)?", fullmatch=True)))
def test_a_pack_that_a_server_lists_is_ignored_or_one_safe_name(name: str) -> None:
    """An index on a server may name anything; only what is named as our packs are is read."""
    assert not PACK_NAME.fullmatch(name) or re.fullmatch("[0-9a-f]{16}[.]zip", name)


JOINED = re.compile(r"\b(?:clip_id|alias|member|person|subject_id)\b")


def test_no_place_is_joined_from_a_name_of_data() -> None:
    """`folder / clip_id` goes through `contained`, or through a key that is safe by itself."""
    offences = []
    for room in ("data", "extract", "fusion", "commands"):
        for path in sorted((REPOSITORY / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if (
                    isinstance(node, ast.BinOp)
                    and isinstance(node.op, ast.Div)
                    and JOINED.search(ast.unparse(node.right))
                ):
                    offences.append(f"{path.relative_to(REPOSITORY)}:{node.lineno}: {ast.unparse(node)}")
    assert not offences
