"""The command line `sage-va`: the group of its verbs, and errors as one line."""

from __future__ import annotations

import contextlib
import errno
import re
import select
import sys
from importlib import import_module
from typing import Any

import click

from .commands.verb import VerbGroup, example_of

SECTIONS = {  # heading of the help: verb: its file in `commands`, and after a colon the name of its function there
    "Start": {"demo": "demo", "doctor": "doctor", "models": "models"},
    "Prepare and extract": {
        "prepare": "prepare",
        "extract": "extract",
        "faces": "faces",
        "status": "status",
    },
    "Look after a cache": {"cache": "cache:cache_group", "sync-check": "sync_check"},
    "Train": {
        "variants": "variants",
        "train": "train",
        "compare": "compare",
        "sweep": "sweep",
        "calibrate": "evaluate:calibrate",
    },
    "Score and look": {
        "eval": "evaluate:evaluate",
        "report": "report",
        "view": "view",
        "plot": "plot",
        "render": "render",
    },
    "Predict and share": {"predict": "predict", "export": "export", "submission": "submission:submission_group"},
}
VERBS = {verb: place for section in SECTIONS.values() for verb, place in section.items()}
OLD_NAMES = {"align": "sync-check"}  # still understood, not listed
EXTRAS = {"PIL", "av", "cv2", "librosa", "soxr", "timm", "torchvision", "transformers"}
AS_JSON = "sage_va.as_json"  # key of click's context: the command line asks for JSON


class JsonError(click.ClickException):
    """An error of a command with `--json`: an object on standard output, and the usual line on standard error.

    Args:
        error: as click shows it.
        cause: of the error, if it is another one.
    """

    def __init__(self, error: click.ClickException, cause: Exception | None = None) -> None:
        super().__init__(error.message)
        self.error, self.cause = error, cause
        vars(self)["exit_code"] = error.exit_code  # of the class, for click's type hints

    def show(self, file: Any = None) -> None:
        """Prints both."""
        fields = {name: getattr(self.cause, name) for name in ("place", "problem", "todo") if hasattr(self.cause, name)}
        kind = "usage" if self.cause is None else "input" if fields else "machine"
        with contextlib.suppress(BrokenPipeError):  # of a reader that is gone, such as `head`
            _show_json(kind, self.error.format_message(), **fields)
        self.error.show(file)


def _show_json(kind: str, message: str, **fields: str) -> None:
    from .commands.console import show_json

    # on one line, as those that `predict --watch` prints before
    show_json({"error": {"kind": kind, "message": " ".join(message.split()), **fields}}, indent=None)


class Verbs(VerbGroup):
    """The verbs, each imported when it is needed.

    Every error that a user can cause becomes one line and exit code 1, with `--json` an object too; `--debug` keeps the
    traceback.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if (verb := OLD_NAMES.get(cmd_name, cmd_name)) not in VERBS:
            return None
        file, _, function = VERBS[verb].partition(":")
        return getattr(import_module(f".commands.{file}", __package__), function or file)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[AS_JSON] = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        from .commands.console import plain_warnings
        from .data.errors import visible

        try:
            with plain_warnings():
                return super().invoke(ctx)
        except click.ClickException as error:  # of click itself, with a name of a file or an option in it
            vars(error)["message"] = visible(error.message, keep="\n")  # final, for click's type hints
            if ctx.meta[AS_JSON]:
                raise JsonError(error) from error
            raise
        except Exception as error:
            if isinstance(error, BrokenPipeError) and _has_no_reader():
                raise  # click ends the command without a word
            line = _line_of(error)
            if ctx.meta[AS_JSON] and line is None:
                _show_json("bug", f"{type(error).__name__}: {error}")
            if ctx.params.get("debug") or line is None:
                raise
            shown = click.ClickException(visible(line, keep="\n").replace("\n", " "))
            raise (JsonError(shown, error) if ctx.meta[AS_JSON] else shown) from error


def _has_no_reader() -> bool:
    """True where standard output is a pipe whose reader is gone, such as `head`."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _line_of(error: Exception) -> str | None:
    """Returns the line for an error that a user can act on; None for a mistake of ours."""
    from .data.errors import InputError
    from .data.machine import is_out_of_memory

    if isinstance(error, InputError):
        return str(error)
    if is_out_of_memory(error):
        reason = re.sub(r"^\[[^]]*\] (?:. )?(?:err == 0\. )?", "", str(error).partition("\n")[0]).rstrip(".")
        todo = "Lower the batch size, close other programs, or use --device cpu if it is a GPU's."
        return f"out of memory: {reason or 'no more can be allocated'}. {todo}"
    if isinstance(error, ModuleNotFoundError):
        todo = 'Run: pip install "sage-va[extract]".'
        return f"{error.name}: the extraction packages are not installed. {todo}" if error.name in EXTRAS else None
    if isinstance(error, OSError):
        place, full = error.filename or "file system", error.errno in (errno.EMFILE, errno.ENFILE)
        todo = "Raise the limit (ulimit -n), or lower --workers." if full else "Check path, rights and space."
        return f"{place}: cannot be read or written: {error.strerror or error}. {todo}"
    return None


@click.group(
    cls=Verbs,
    sections=SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=example_of("sage-va demo --out demo-out"),
)
@click.version_option(None, "-V", "--version", package_name="sage-va", prog_name="sage-va")
@click.option("--debug", is_flag=True, help="Show a traceback for errors.")
def main(debug: bool) -> None:
    """Estimates valence and arousal, frame by frame, from face and voice.

    `extract` caches embeddings of recordings once; `train`, `eval` and `predict` work on the cache. Each verb has a
    page of help with an example: sage-va train --help
    """


if __name__ == "__main__":
    main()
