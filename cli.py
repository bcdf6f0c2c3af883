"""The command line `sage-va`: the group of its verbs, and errors as one line."""

from __future__ import annotations

from typing import Any

import click

from . import __version__
from .commands.cache import cache_group
from .commands.compare import compare
from .commands.demo import demo
from .commands.evaluate import calibrate, evaluate
from .commands.export import export
from .commands.extract import extract
from .commands.faces import faces
from .commands.predict import predict
from .commands.status import status
from .commands.sweep import sweep
from .commands.sync_check import align
from .commands.train import train
from .commands.variants import variants
from .data.errors import InputError

EXTRAS = {"PIL", "av", "cv2", "librosa", "soxr", "timm", "torchvision", "transformers"}


class Lines(click.Group):
    """Turns every error a user can cause into one line and exit code 1; `--debug` keeps the traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (InputError, OSError, MemoryError, ModuleNotFoundError, RuntimeError) as error:
            line = _line_of(error)
            if ctx.params.get("debug") or line is None:
                raise
            raise click.ClickException(" ".join(line.split())) from error


def _line_of(error: Exception) -> str | None:
    """Returns the line for an error that a user can act on; None for a mistake of ours."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        todo = 'Install it with: pip install "sage-va[extract]".'
        return f"{error.name}: expected the extraction packages, got none. {todo}" if error.name in EXTRAS else None
    if isinstance(error, OSError):
        place = error.filename or "file system"
        return f"{place}: expected to read or write it, got {error.strerror or error}. Check path, rights and space."
    if isinstance(error, MemoryError) or "out of memory" in str(error):
        todo = "Lower the batch size, or use --device cpu."
        return f"memory: expected enough of it, got {str(error).splitlines()[0] or 'none left'}. {todo}"
    return None


@click.group(cls=Lines, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
@click.option("--debug", is_flag=True, help="Show a traceback for errors.")
def main(debug: bool) -> None:
    """Valence and arousal, frame by frame, from face and voice.

    `extract` caches embeddings of recordings once; `train`, `eval` and `predict` work on the cache.
    """


for command in (
    *(extract, faces, align, status, cache_group, train, evaluate, compare, sweep, calibrate, variants, export),
    *(predict, demo),
):
    main.add_command(command)


if __name__ == "__main__":
    main()
