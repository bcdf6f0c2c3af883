"""The command line `sage-va`: the group of its verbs, and errors as one line."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

VERBS = {  # verb: its file in `commands`, and the name of its function there
    "cache": ("cache", "cache_group"),
    "calibrate": ("evaluate", "calibrate"),
    "eval": ("evaluate", "evaluate"),
    **{name: (name, name) for name in ("compare", "demo", "export", "extract", "faces", "predict", "prepare")},
    "sync-check": ("sync_check", "sync_check"),
    "submission": ("submission", "submission_group"),
    **{name: (name, name) for name in ("plot", "report", "status", "sweep", "train", "variants")},
}
OLD_NAMES = {"align": "sync-check"}  # still understood, not listed
EXTRAS = {"PIL", "av", "cv2", "librosa", "soxr", "timm", "torchvision", "transformers"}


class Verbs(click.Group):
    """The verbs, each imported when it is needed.

    Every error that a user can cause becomes one line and exit code 1; `--debug` keeps the traceback.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if (verb := OLD_NAMES.get(cmd_name, cmd_name)) not in VERBS:
            return None
        file, function = VERBS[verb]
        return getattr(import_module(f".commands.{file}", __package__), function)

    def invoke(self, ctx: click.Context) -> Any:
        from .commands.console import plain_warnings
        from .data.errors import visible

        try:
            with plain_warnings():
                return super().invoke(ctx)
        except click.ClickException as error:  # of click itself, with a name of a file or an option in it
            error.message = visible(error.message, keep="\n")
            raise
        except Exception as error:
            line = _line_of(error)
            if ctx.params.get("debug") or line is None:
                raise
            raise click.ClickException(visible(line, keep="\n").replace("\n", " ")) from error


def _line_of(error: Exception) -> str | None:
    """Returns the line for an error that a user can act on; None for a mistake of ours."""
    from .data.errors import InputError

    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        todo = 'Run: pip install "sage-va[extract]".'
        return f"{error.name}: the extraction packages are not installed. {todo}" if error.name in EXTRAS else None
    if isinstance(error, OSError):
        place = error.filename or "file system"
        return f"{place}: cannot be read or written: {error.strerror or error}. Check path, rights and space."
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "out of memory" in str(error)):
        reason = str(error).partition("\n")[0].rstrip(".") or "no more can be allocated"
        return f"out of memory: {reason}. Lower the batch size, or use --device cpu."
    return None


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="sage-va")
@click.option("--debug", is_flag=True, help="Show a traceback for errors.")
def main(debug: bool) -> None:
    """Estimates valence and arousal, frame by frame, from face and voice.

    `extract` caches embeddings of recordings once; `train`, `eval` and `predict` work on the cache.
    """


if __name__ == "__main__":
    main()
