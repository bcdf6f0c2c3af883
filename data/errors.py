"""One form for everything a user can get wrong: what was expected, what was found, what to do."""


class InputError(ValueError):
    """Input that cannot be used as it is.

    Printed by the command line as one line, `<place>: expected <this>, got <that>. <What to do>`.

    Args:
        place: the clip, file, option or key at fault.
        expected: what would have been right.
        got: what was found.
        todo: the next step for the user, a full sentence.
    """

    def __init__(self, place: object, *, expected: str, got: str, todo: str) -> None:
        self.place, self.expected, self.got, self.todo = printable(str(place)), expected, got, todo
        super().__init__(printable(f"{place}: expected {expected}, got {got}. {todo}"))

    def about(self, place: str) -> str:
        """The message for a reader who sees it beside the name of `place`."""
        return str(self).removeprefix(f"{place}: ")

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.place, self.expected, self.got, self.todo)


def printable(text: str) -> str:
    """A text that any terminal and JSON can hold: names of files need not be UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def first_line(error: BaseException) -> str:
    """The kind of an exception and the first line of what it says."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


class DamagedError(InputError):
    """A cache entry whose bytes are not those that were committed."""


def _rebuild(kind: type[InputError], place: str, expected: str, got: str, todo: str) -> InputError:
    return kind(place, expected=expected, got=got, todo=todo)
