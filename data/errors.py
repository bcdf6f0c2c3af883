"""One shape for everything that a user can get wrong: where, the problem, what was there instead, what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable

_HIDDEN = re.compile(  # control characters; marks of direction, ends of lines and paragraphs; what has no width
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    r"\u180e\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


class InputError(ValueError):
    """Input that cannot be used as it is.

    The command line prints it as one line: `<place>: <problem>. <What to do>`, where the problem is a free sentence,
    or `expected <this>, got <that>`.

    Args:
        place: the clip, file, parameter or key at fault.
        problem: a free sentence without a full stop; None where `expected` and `got` are given.
        expected: what would have been right.
        got: what is there instead.
        todo: the next step for the user, a full sentence.
    """

    def __init__(
        self, place: object, problem: str | None = None, *, expected: str | None = None, got: str = "", todo: str
    ) -> None:
        assert (problem is None) != (expected is None), "either a problem or what was expected"
        self.place, self.got, self.todo = printable(str(place)), got, todo
        self.problem = f"expected {expected}, got {got}" if problem is None else problem
        super().__init__(visible(f"{place}: {self.problem}. {todo}"))

    def about(self, place: str) -> str:
        """Returns the message for a reader who sees it after the name of `place`."""
        return str(self).removeprefix(f"{visible(place)}: ")

    def at(self, place: object) -> InputError:
        """Returns the same problem at another place."""
        return _rebuild(type(self), str(place), self.problem, self.got, self.todo)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.place, self.problem, self.got, self.todo)


class DamagedError(InputError):
    """A cache entry whose bytes are not those that were committed."""


class MalformedError(DamagedError):
    """A commit record whose checksum is right, and whose content no writer of this software writes."""


def did_you_mean(name: str, known: Iterable[str], otherwise: str, *, num: int = 1) -> str:
    """Returns `Did you mean …?` with the known names that look like `name`, or `otherwise` where none does.

    >>> did_you_mean("sgae", ["sage", "concat"], "See `sage-va variants`.")
    'Did you mean sage?'
    """
    near = closest(name, known, num=num)
    return f"Did you mean {', '.join(near)}?" if near else otherwise


def closest(name: str, known: Iterable[str], *, num: int = 1) -> list[str]:
    """Returns up to `num` known names that look like `name`, the most alike first."""
    import difflib  # rarely needed

    return difflib.get_close_matches(name, list(known), n=num)


def printable(text: str) -> str:
    """Returns a text that any terminal and JSON can hold: names of files need not be UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def visible(text: str, keep: str = "") -> str:
    r"""Returns a text that cannot act on a terminal, nor look like another: what would is shown as an escape.

    These are control characters (those that clear a screen or begin a line, too), marks that reverse the direction of
    writing, and characters without width. Joiners of emoji and of Indic and Persian scripts stay.

    Args:
        text: such as a name in a cache that somebody else made.
        keep: characters that stay all the same, such as the ends of lines of a text of ours.

    >>> visible("talk\x1b[2J.mp4")
    'talk\\x1b[2J.mp4'
    """
    return _HIDDEN.sub(lambda match: match[0] if match[0] in keep else ascii(match[0])[1:-1], printable(text))


def first_line(error: BaseException) -> str:
    """Returns the kind of an exception and the first line of its message."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _rebuild(kind: type[InputError], place: str, problem: str, got: str, todo: str) -> InputError:
    return kind(place, problem, got=got, todo=todo)
