"""Verbs of `sage-va` and their groups: examples in the help, flags in errors, options with older names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click


class AliasedOption(click.Option):
    """An option that is understood under further names, which the help does not list.

    Args:
        aliases: the further names, such as `--clips`.
    """

    def __init__(self, *args: Any, aliases: Sequence[str] = (), **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self.aliases = aliases

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        listed = self.opts
        self.opts = [*listed, *self.aliases]
        try:
            super().add_to_parser(parser, ctx)
        finally:
            self.opts = listed


class Verb(click.Command):
    """A command that turns the parameter that an error names into its flag: `layer` becomes `--layer`."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ValueError as error:
            from ..data.errors import InputError

            if not isinstance(error, InputError) or (flag := self._flags().get(error.place)) is None:
                raise
            raise error.at(flag) from error

    def _flags(self) -> dict[str, str]:
        return {
            str(option.name): max(option.opts, key=len) for option in self.params if isinstance(option, click.Option)
        }


class VerbGroup(click.Group):
    """A group whose help lists its verbs in the order of the work, each with its whole first sentence.

    Args:
        sections: heading -> verbs; None = all verbs under one heading.
    """

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]] | None = None, **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self.sections = sections

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from ..data.errors import did_you_mean

            todo = did_you_mean(args[0], self.list_commands(ctx), f"See `{ctx.command_path} --help`.")
            raise click.UsageError(f"{error.message} {todo}", ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections = self.sections or {"Commands": self.list_commands(ctx)}
        width = max(len(name) for names in sections.values() for name in names)
        for heading, names in sections.items():
            with formatter.section(heading):
                formatter.write_dl([(f"{name:<{width}}", self._first_sentence(ctx, name)) for name in names])

    def _first_sentence(self, ctx: click.Context, name: str) -> str:
        command = self.get_command(ctx, name)
        assert command is not None, name
        return command.get_short_help_str(limit=200)


def example_of(command_line: str) -> str:
    """Returns the end of a page of help, which shows an example."""
    return f"\b\nExample:\n  {command_line}"


def verb(
    example: str, name: str | None = None, group: click.Group | None = None
) -> Callable[[Callable[..., Any]], Verb]:
    """Returns a decorator that makes a function a verb.

    Args:
        example: a command line, shown at the end of the help.
        name: of the verb; default: that of the function.
        group: that the verb belongs to; None = it is mounted elsewhere.
    """
    decorator: Any = group.command if group else click.command
    return decorator(name, cls=Verb, epilog=example_of(example))
