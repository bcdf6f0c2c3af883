"""Identity: an extraction that would give another stream is refused, and the message names what differs."""

import copy

import pytest

from sage_va.data import InputError
from sage_va.extract.encoders.base import VisualEncoder
from sage_va.extract.identity import check_same, fingerprint_of, options_of
from sage_va.extract.options import ExtractOptions


class Plain(VisualEncoder):
    name, dim, size = "plain", 1, (8, 8)

    def embed(self, items):
        return items[:, 0, 0, :1].astype(float)


ENCODER = Plain()


@pytest.fixture
def fingerprint():
    return copy.deepcopy(fingerprint_of(ENCODER, ExtractOptions(fps=10.0, store_dtype="float32")))


def test_options_come_back_from_a_fingerprint(fingerprint):
    options = options_of(fingerprint, batch_size=3)
    assert options == ExtractOptions(fps=10.0, store_dtype="float32", batch_size=3)
    check_same(fingerprint, ENCODER, options)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("decoder", "version"), "1.0", r"^plain: expected decoder\.version 1\.0, got decoder\.version \d+\..*Install"),
        (("fps",), 25.0, r"^plain: expected fps 25\.0, got fps 10\.0\."),
        (("preprocessing", "faces"), {"mode": "detect"}, r"expected preprocessing\.faces \{.*\}, got .*faces full\."),
        (("preprocessing", "voice"), {"name": "x"}, r"expected preprocessing\.voice \{.*\}, got .*voice None\."),
    ],
)
def test_what_differs_is_named(fingerprint, path, value, message):
    options = options_of(fingerprint)
    *parents, key = path
    part = fingerprint
    for parent in parents:
        part = part[parent]
    part[key] = value
    with pytest.raises(InputError, match=message):
        check_same(fingerprint, ENCODER, options)


def test_a_signal_that_the_stream_lacks_is_named_too(fingerprint):
    options = options_of(fingerprint)
    del fingerprint["preprocessing"]["mean"]
    with pytest.raises(InputError, match="expected preprocessing "):
        check_same(fingerprint, ENCODER, options)
