"""One verb of `sage-va`: its help ends with an example, and its errors name flags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


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
    return decorator(name, cls=Verb, epilog=f"\b\nExample:\n  {example}")
