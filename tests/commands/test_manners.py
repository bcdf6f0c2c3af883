"""Manners of the command line: sections, examples, versions, completion, old names, and errors of every verb."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from sage_va.cli import SECTIONS, VERBS, main
from sage_va.commands.verb import AliasedOption
from sage_va.tests.pages import commands, parse, verbs

NEEDS_NO_INPUT = {"sage-va demo", "sage-va doctor", "sage-va models", "sage-va variants"}  # their examples would run
ALL = dict(commands())
VERBS_ALONE = verbs()
WITH_JSON = [path for path, command in VERBS_ALONE.items() if any("--json" in param.opts for param in command.params)]
ALIASED = [
    (path, option, alias)
    for path, command in VERBS_ALONE.items()
    for option in command.params
    if isinstance(option, AliasedOption)
    for alias in option.aliases
]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def example_of(path: str) -> list[str]:
    return shlex.split(run(*path.split()[1:], "--help").stdout.rstrip().splitlines()[-1])[1:]


@pytest.mark.parametrize("path", ALL)
def test_every_help_page_ends_with_an_example(path: str) -> None:
    arguments = example_of(path)
    parse(arguments)
    assert arguments[: len(path.split()) - 1] == path.split()[1:]


def test_verbs_are_listed_by_workflow_with_whole_sentences() -> None:
    text = run("--help").stdout
    headings = [line[:-1] for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["Options", *SECTIONS]
    assert [line.split()[0] for line in text.splitlines() if line.startswith("  ") and line.split()[0] in VERBS] == [
        *VERBS
    ]
    assert "..." not in text.partition("Options:")[2]
    listed = run("cache", "--help").stdout.partition("Commands:")[2]
    assert [line.split()[0] for line in listed.splitlines() if line.startswith("  ")][:2] == ["info", "ls"]


def test_a_mistyped_verb_is_recognised() -> None:
    assert run("evall").stderr.splitlines()[-1] == "Error: No such command 'evall'. Did you mean eval?"
    assert run("cache", "coppy").stderr.splitlines()[-1] == "Error: No such command 'coppy'. Did you mean copy?"
    assert "See `main --help`." in run("xyzzy").stderr
    assert json.loads(run("evall", "--json").stdout)["error"]["kind"] == "usage"


def test_the_version_has_a_short_option() -> None:
    assert run("-V").stdout == run("--version").stdout
    assert run("-V").stdout.startswith("sage-va, version ")


@pytest.mark.parametrize("path", VERBS_ALONE)
def test_an_unknown_option_is_named_without_a_traceback(path: str) -> None:
    result = run(*path.split()[1:], "--no-such-option")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("Error: No such option")
    assert result.stdout == ""


@pytest.mark.parametrize("path", sorted(VERBS_ALONE.keys() - NEEDS_NO_INPUT))
def test_missing_input_is_one_line(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*example_of(path))
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code in (1, 2)
    assert [line[:7] for line in result.stderr.splitlines() if line.startswith("Error")] == ["Error: "]
    assert result.exit_code == 2 or result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", WITH_JSON)
def test_with_json_an_error_is_an_object(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = example_of(path) if path not in NEEDS_NO_INPUT else [*path.split()[1:], "--no-such-option"]
    result = run(*words, "--json")
    error = json.loads(result.stdout)["error"]
    assert error["kind"] == ("usage" if result.exit_code == 2 else "input")
    assert result.stderr.splitlines()[-1] == f"Error: {error['message']}"
    if error["kind"] == "input":
        assert error["message"] == f"{error['place']}: {error['problem']}. {error['todo']}"


@pytest.mark.parametrize(
    ("error", "kind"), [(OSError(28, "No space left on device", "c.zarr"), "machine"), (KeyError("x"), "bug")]
)
def test_json_names_errors_of_other_kinds(error: Exception, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("sage_va.data.open_store", fail)
    result = run("cache", "info", "c.zarr", "--json")
    assert json.loads(result.stdout)["error"]["kind"] == kind
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit if kind == "machine" else KeyError)


@pytest.mark.parametrize(("path", "option", "alias"), ALIASED, ids=lambda value: str(value) if value else "")
def test_old_names_of_options_are_understood_and_not_listed(path: str, option: AliasedOption, alias: str) -> None:
    words = example_of(path)
    parse([*words, alias, "1"])
    page = run(*path.split()[1:], "--help").stdout
    assert option.opts[0] in page
    assert alias not in page.split()


def test_options_that_mean_the_same_have_one_name() -> None:
    names: dict[str, set[str]] = {}
    for command in VERBS_ALONE.values():
        for option in command.params:
            if isinstance(option, click.Option):
                names.setdefault(str(option.name), set()).add(max(option.opts, key=len))
    assert names["clips"] == {"--clip"}
    assert names["jobs"] | names["num_workers"] == {"--workers"}
    assert names["num_decode_threads"] == {"--decode-threads"}
    assert names["streams"] | names["stream"] == {"--stream"}
    assert (names["seed"], names["num_seeds"]) == ({"--seed"}, {"--seeds"})


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_is_emitted(shell: str) -> None:
    environment = {**os.environ, "_SAGE_VA_COMPLETE": f"{shell}_source"}
    code = "import sys; sys.argv = ['sage-va']; from sage_va.cli import main; main(prog_name='sage-va')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    if shell == "bash" and "bash" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert "_SAGE_VA_COMPLETE" in done.stdout


def test_shell_completion_knows_verbs_and_options() -> None:
    environment = {"_SAGE_VA_COMPLETE": "bash_complete", "COMP_WORDS": "sage-va cache ve", "COMP_CWORD": "2"}
    result = CliRunner().invoke(main, [], prog_name="sage-va", env=environment)
    assert result.stdout.split() == ["plain,verify"]
    environment |= {"COMP_WORDS": "sage-va predict --cl", "COMP_CWORD": "2"}
    result = CliRunner().invoke(main, [], prog_name="sage-va", env=environment)
    assert result.stdout.split() == ["plain,--clip"]
