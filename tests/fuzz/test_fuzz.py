"""The short form of fuzzing: the saved corpora, and some seconds of mutations that are the same each time.

The long form, led by coverage: `python benchmarks/fuzz.py`.
"""

import itertools
import time
from pathlib import Path

import pytest

from sage_va.tests.fuzz.targets import Target, mutations, run, run_targets, saved, targets

NUM = 150
MOST_S = 20.0  # of a processor, for one content
TARGETS = targets()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_seeds_are_read(target: Target, tmp_path: Path) -> None:
    """A seed that is refused would be no seed: nothing behind the first check would be reached."""
    for seed in target.seeds:
        path = tmp_path / target.name
        path.write_bytes(seed)
        target.parse(path)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_parser_returns_or_names_the_fault(target: Target, tmp_path: Path) -> None:
    for content in (*saved(target), *itertools.islice(mutations(target, 0), NUM)):
        began_s = time.process_time()
        run(target, content, tmp_path)
        assert time.process_time() - began_s < MOST_S, content[:200]


@pytest.mark.slow
def test_the_parsers_of_a_run_do_so_too(tmp_path: Path) -> None:
    for target in run_targets():
        for content in (*saved(target), *itertools.islice(mutations(target, 0), NUM)):
            run(target, content, tmp_path)
