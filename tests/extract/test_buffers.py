"""Memory that is lent again once nothing refers to it, and batches that are packed from it."""

import errno
import mmap
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_va.extract.batch import Packer
from sage_va.extract.buffers import Buffers, pages
from sage_va.extract.decode.frame_times import FrameTimes

UINT8 = np.dtype(np.uint8)


def counted():
    allocated = []

    def allocate(num_bytes):
        allocated.append(num_bytes)
        return pages(num_bytes)

    return Buffers(allocate), allocated


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_is_lent_again_when_its_last_view_is_gone():
    buffers, allocated = counted()
    first = buffers.take((4, 3), UINT8)
    place, view = address(first), first[1:, 0]
    del first
    second = buffers.take((4, 3), UINT8)
    assert address(second) != place  # `view` still shows the memory
    del view
    third = buffers.take((3, 1), np.dtype(np.float32))  # as many bytes
    assert address(third) == place
    assert allocated == [12, 12]
    assert place % 4096 == 0


def test_many_threads_never_share_memory():
    buffers, allocated = counted()

    def fill(number):
        array = buffers.take((64, 64), UINT8)
        array[...] = number % 251
        return bool((array == number % 251).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(fill, range(2000)))
    assert len(allocated) <= 8


def test_an_encoder_that_returns_its_input_gets_no_foreign_rows():
    packer = Packer(4, lambda batch: batch)  # its results are the batch's own memory
    pushed = [packer.push(k, np.full((3, 2), k, np.float32)) for k in range(8)]
    results = [(owner, values) for some in pushed for owner, values in some]
    assert sum(len(values) for _, values in results) == 24
    for owner, values in results:
        np.testing.assert_array_equal(values, owner)


def test_chunks_are_free_again_before_their_batch_is_encoded():
    buffers, allocated = counted()
    free = []

    def encode(batch):
        chunk = buffers.take((2, 8), UINT8)  # a decoder asks for its next
        free.append(len(allocated))
        return chunk[:1].astype(np.float32).repeat(len(batch), 0)

    packer = Packer(4, encode, buffers=buffers)
    for _ in range(6):
        list(packer.push("a", buffers.take((2, 8), UINT8)))
    list(packer.flush())
    assert free == [3, 3, 3]  # two chunks and a batch, in all
    assert sorted(allocated) == [16, 16, 32]


@given(st.integers(-(2**62), 2**62), st.integers(1, 10**6), st.integers(1, 10**9))
@settings(max_examples=500, deadline=None)
def test_seconds_are_the_nearest_number_to_the_exact_time(ticks, numerator, denominator):
    base = Fraction(numerator, denominator)
    assert FrameTimes(None, None, base).seconds(ticks) == float(ticks * base)


def test_pages_that_the_system_refuses_are_a_lack_of_memory(monkeypatch):
    def refused(*_):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refused)
    with pytest.raises(MemoryError, match="1,000 bytes"):
        pages(1000)
