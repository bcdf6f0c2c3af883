"""One message for everything that a user can get wrong, and the names that they may have meant."""

import pickle

import pytest

from sage_va.data import InputError
from sage_va.data.errors import DamagedError, closest, did_you_mean, first_line


def test_both_shapes_of_a_message() -> None:
    error = InputError("a.csv:3", expected="a number", got="'x'", todo="Correct it.")
    assert str(error) == "a.csv:3: expected a number, got 'x'. Correct it."
    assert (error.place, error.problem, error.got) == ("a.csv:3", "expected a number, got 'x'", "'x'")
    free = InputError("out", "another comparison is running", todo="Wait for it.")
    assert str(free) == "out: another comparison is running. Wait for it."
    assert free.about("out") == "another comparison is running. Wait for it."


def test_a_message_needs_one_problem() -> None:
    for wrong in ({}, {"problem": "a", "expected": "b"}):
        with pytest.raises(AssertionError):
            InputError("x", **wrong, todo="y")


@pytest.mark.parametrize("kind", [InputError, DamagedError])
def test_errors_travel_between_processes_and_places(kind: type[InputError]) -> None:
    error = kind("caf\udce9", expected="a", got="b", todo="c")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.got) == (kind, str(error), "b")
    moved = error.at("elsewhere")
    assert (type(moved), str(moved)) == (kind, "elsewhere: expected a, got b. c")


def test_names_that_look_alike_are_offered() -> None:
    known = {"sage": 1, "concat": 2, "sages": 3}
    assert closest("sgae", known) == ["sage"]
    assert did_you_mean("sgae", known, "See the list.") == "Did you mean sage?"
    assert did_you_mean("sgae", known, "", num=2) == "Did you mean sage, sages?"
    assert did_you_mean("transformer", known, "See the list.") == "See the list."


def test_the_first_line_of_an_error_names_its_kind() -> None:
    assert first_line(KeyError("a")) == "KeyError: 'a'"
    assert first_line(ValueError("one\ntwo")) == "ValueError: one"
