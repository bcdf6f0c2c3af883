"""The pages of the documentation, cut into fenced blocks, commands and names, and the parser that checks commands."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import click

from sage_va.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
HISTORY = {"CHANGELOG.md", "docs/log.md", "docs/decisions.md"}  # may name commands and files of the past
SHELL = {"", "bash", "sh", "shell", "console"}
PROGRAMS = {"sage-va", "make", "pip", "python", "srun", "accelerate"}
FENCE = re.compile(
    r"^(?P<indent> *)(?P<marks>```+)(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)(?P=marks) *$", re.M | re.S
)
NOTE = re.compile(r"<!--\s*(?P<page>page )?(?P<kind>not run|run by|starts with):?\s+(?P<text>.*?)\s*-->")
FILE_LINE = re.compile(r"# ([\w/-]+\.(?:py|yaml|toml|json))\b")
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its place, language, text, and the note in the line before it, if any."""

    page: Path
    line: int
    language: str
    text: str
    note: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"

    @property
    def file_name(self) -> str | None:
        """The file that the block shows, named in its first line: `# space.yaml`."""
        match = FILE_LINE.match(self.text)
        return match[1] if match else None

    def commands(self) -> Iterator[list[str]]:
        """The words of each command line that begins with one of `PROGRAMS`."""
        if self.language in SHELL:
            for line in self.text.replace("\\\n", " ").splitlines():
                line = line.strip().removeprefix("$ ")
                if line.split(" ")[0] in PROGRAMS:
                    yield shlex.split(line, comments=True)


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    default = next((match[0] for match in NOTE.finditer(text) if match["page"]), "")
    blocks = []
    for match in FENCE.finditer(text):
        before = text[: match.start()].rstrip().rsplit("\n", 1)[-1].strip()
        note = before if NOTE.fullmatch(before) else default
        line = text.count("\n", 0, match.start()) + 1
        blocks.append(Block(page, line, match["language"], textwrap.dedent(match["text"]), note))
    return blocks


def prose_of(page: Path) -> str:
    """The text of a page without its fenced blocks; every line keeps its number."""
    return FENCE.sub(lambda match: "\n" * match[0].count("\n"), page.read_text(encoding="utf-8"))


def spans_of(page: Path) -> Iterator[tuple[str, str]]:
    """(place, text) of each inline code span of a page."""
    for number, line in enumerate(prose_of(page).splitlines(), 1):
        yield from ((f"{page.relative_to(ROOT).as_posix()}:{number}", text) for text in SPAN.findall(line))


def sage_va_arguments(words: list[str]) -> list[str] | None:
    """The arguments of `sage-va` in a command line; None if it runs another program."""
    for name in ("sage-va", "sage_va", "sage_va.cli"):
        if name in words:
            rest = words[words.index(name) + 1 :]
            end = next((k for k, word in enumerate(rest) if word in {"|", ">", ">>", "&", "&&", "||", ";"}), len(rest))
            return rest[:end]
    return None


def parse(arguments: list[str]) -> None:
    """Parses a command line as `sage-va` would; files need not exist, and a `…` may stand for what is missing.

    Raises:
        click.UsageError: what the user would be shown.
    """
    command, context, name = main, click.Context(main, info_name="sage-va"), "sage-va"
    rest = [word for word in arguments if word not in {"…", "..."}]
    while isinstance(command, click.Group):
        _, rest, _ = command.make_parser(context).parse_args(rest)
        if not rest:
            return
        _, command, rest = command.resolve_command(context, rest)
        name = command.name
        context = click.Context(command, parent=context, info_name=name)
    try:
        with mock.patch.object(click.Path, "convert", lambda self, value, param, ctx: value):
            command.make_context(name, rest, parent=context.parent)
    except (click.MissingParameter, click.BadOptionUsage):  # BadOptionUsage: an option without its argument
        if "…" not in arguments:
            raise
    except click.exceptions.Exit:  # --help
        pass


def commands(group: click.Group = main, path: str = "sage-va") -> Iterator[tuple[str, click.Command]]:
    """(path, command) of the program, its groups and its verbs."""
    yield path, group
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def verbs() -> dict[str, click.Command]:
    """The verbs by path, also those in groups."""
    return {path: command for path, command in commands() if not isinstance(command, click.Group)}


def options() -> set[str]:
    """Every option of every command of `sage-va`."""
    parameters = (parameter for _, command in commands() for parameter in command.params)
    return {"--help", *(name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts))}
