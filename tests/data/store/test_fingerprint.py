"""Names of streams and places: stable, safe, reversible, and different where things differ."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_va.data import InputError, json_sha256, stream_alias, stream_name
from sage_va.data.hashing import array_sha256, canonical_json, sealed, unsealed
from sage_va.data.store.fingerprint import MAX_KEY_BYTES, check_clip_id, clip_id_of, clip_key


def is_safe(clip_id: str) -> bool:
    try:
        return bool(check_clip_id(clip_id))
    except InputError:
        return False


letters = st.characters() | st.sampled_from("./#~=%_- Aa\u00fc")
clip_ids = st.text(letters, min_size=1, max_size=300).filter(is_safe)
jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(clip_ids)
def test_a_key_is_one_bounded_safe_segment(clip_id: str) -> None:
    key = clip_key(clip_id)
    assert key.isascii()
    assert 0 < len(key) <= MAX_KEY_BYTES
    assert not set(key) & set('/\\:*?"<>| %#')
    assert key[0] not in "._"
    assert clip_id_of(key) == (None if "~" in key else clip_id)


@given(st.lists(clip_ids, unique=True, max_size=20))
def test_different_clips_have_different_keys(ids: list[str]) -> None:
    assert len({clip_key(clip_id) for clip_id in ids}) == len(ids)


def test_keys_are_readable() -> None:
    assert clip_key("10-60-1280x720.mp4#right") == "10-60-1280x720.mp4=23right"
    assert clip_key("a/b c.mp4") == "a=2Fb=20c.mp4"
    assert clip_key(".hidden") == "=2Ehidden"
    assert clip_key("__init__") == "=5F_init__"
    assert clip_key("~") == "=7E"
    long = clip_key("x" * 161)
    assert (len(long), long[143]) == (160, "~")
    assert clip_key("x" * 160) == "x" * 160
    assert clip_key("x" * 161) != clip_key("x" * 162)


@pytest.mark.parametrize("clip_id", ["", "/a", "..", "a/../b", "../a", "a\\b", "a\0", "a\x1f", "a\x7f", "\ud800"])
def test_unsafe_ids_are_refused(clip_id: str) -> None:
    with pytest.raises(InputError, match=r"clip_id .*: expected a relative path in UTF-8 .*\. Rename the clip in the"):
        clip_key(clip_id)


@pytest.mark.parametrize("clip_id", ["a..b", "...", "a/.b", "\u00fc/\u4e2d.mp4", "a#left"])
def test_odd_ids_are_kept(clip_id: str) -> None:
    assert clip_id_of(clip_key(clip_id)) == clip_id


@given(jsons)
def test_canonical_json_is_stable_through_json(value: object) -> None:
    assert canonical_json(json.loads(json.dumps(value))) == canonical_json(value)


def test_canonical_json_ignores_order_and_refuses_nan() -> None:
    assert canonical_json({"b": 1, "a": [1.5, None, "\u00fc"]}) == '{"a":[1.5,null,"\u00fc"],"b":1}'
    assert json_sha256({"a": 1, "b": 2}) == json_sha256({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


@given(st.dictionaries(st.text().filter(lambda key: key != "attrs_sha256"), jsons, max_size=4))
def test_a_seal_holds_through_json_and_breaks_with_any_change(attrs: dict[str, object]) -> None:
    written = json.loads(json.dumps(sealed(attrs)))
    assert unsealed(written) == json.loads(json.dumps(attrs))
    assert unsealed({**written, "one more": 1} if "one more" not in attrs else {}) is None


def test_stream_names() -> None:
    name = stream_name("visual", "facebook/dino v2", {"layer": 3})
    assert name == f"visual/facebook-dino-v2-{json_sha256({'layer': 3})[:8]}"
    assert stream_alias(name) == "visual/facebook-dino-v2"
    assert stream_name("visual", "toy", {"layer": 3}) != stream_name("visual", "toy", {"layer": 4})
    for alias in ("", "..", "/", "\u4e2d"):
        with pytest.raises(InputError, match=r"expected a name with letters or digits, got none\. Rename it"):
            stream_name("visual", alias, {})


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "?", "<U3", "<M8[s]", "V4"])
def test_arrays_of_any_kind_have_a_hash(dtype: str) -> None:
    array = np.zeros((2, 3), dtype)
    assert len(array_sha256(array)) == 64
    assert array_sha256(array[:0]) == array_sha256(np.zeros(0))


def test_hashes_are_of_little_endian_c_order() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert array_sha256(array) == array_sha256(array.astype(">f4")) == array_sha256(np.asfortranarray(array))
    assert array_sha256(array) != array_sha256(array.T)
    assert len(array_sha256(np.float64(3) * np.ones(()))) == 64
