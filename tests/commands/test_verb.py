"""Verbs: all are listed, and an error about a parameter names its flag."""

import click
import pytest
from click.testing import CliRunner

from sage_va.cli import VERBS, main
from sage_va.commands.verb import Verb, verb
from sage_va.data import DamagedError, InputError
from sage_va.tests.pages import verbs

VERBS_BY_PATH = verbs()


def test_all_verbs_are_listed() -> None:
    assert {path.split()[1] for path in VERBS_BY_PATH} == set(VERBS)
    assert {"sage-va cache copy", "sage-va submission make"} <= set(VERBS_BY_PATH)
    assert "align" not in main.list_commands(click.Context(main))
    assert CliRunner().invoke(main, ["align", "--help"]).exit_code == 0


@pytest.mark.parametrize("path", VERBS_BY_PATH)
def test_first_sentences_fit_the_list_of_verbs(path: str) -> None:
    assert not VERBS_BY_PATH[path].get_short_help_str(60).endswith("...")


@pytest.mark.parametrize(
    ("error", "place"),
    [
        (InputError("layer", expected="a layer", got="9", todo="Choose another."), "--layer"),
        (DamagedError("layer", expected="a layer", got="9", todo="Choose another."), "--layer"),
        (InputError("num_threads", expected="a layer", got="9", todo="Choose another."), "--decode-threads"),
        (InputError("clip", expected="a layer", got="9", todo="Choose another."), "clip"),
    ],
)
def test_an_error_about_a_parameter_names_its_flag(error: InputError, place: str) -> None:
    @verb("sage-va try", "try")
    @click.option("-l", "--layer")
    @click.option("--decode-threads", "num_threads")
    def attempt(**options: str) -> None:
        raise error

    with pytest.raises(type(error), match=rf"^{place}: expected a layer, got 9\. Choose another\.$"):
        attempt.main(["--layer", "9"], standalone_mode=False)


def test_other_errors_stay_as_they_are() -> None:
    @verb("sage-va try", "try")
    def attempt() -> None:
        raise ValueError("layer")

    assert isinstance(attempt, Verb)
    with pytest.raises(ValueError, match=r"^layer$"):
        attempt.main([], standalone_mode=False)
