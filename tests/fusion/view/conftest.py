"""The page of `sage-va view` for a browser, of a drawn run with recordings of several kinds."""

from collections.abc import Iterator

import pytest

from sage_va.fusion.view.viewing import Viewing
from sage_va.tests.browser import start_browser
from sage_va.tests.fusion_view import Served, drawn_viewing, serving


@pytest.fixture(scope="module")
def viewing(tmp_path_factory: pytest.TempPathFactory) -> Viewing:
    return drawn_viewing(tmp_path_factory.mktemp("view"))


@pytest.fixture(scope="module")
def served(viewing: Viewing) -> Iterator[Served]:
    """The page of a drawn run, with clips of all kinds."""
    with serving(viewing) as opened:
        yield opened


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    yield from start_browser()
