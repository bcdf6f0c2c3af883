"""`sage-va models`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import echo, show
from .options import json_option
from .verb import verb

if TYPE_CHECKING:
    from ..extract.catalogue import StartingModel

HEADINGS = {"--visual": "Visual encoders", "--audio": "Audio encoders", "predict": "Trained models"}


@verb("sage-va models --out models/")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the encoders of installed packages, and the trained model, into this folder.",
)
@json_option
def models(out: Path | None, as_json: bool) -> None:
    """Lists encoders and models to start from.

    Each with dimensions, size, licence, what it was trained on, its model card, and whether this machine has it. No
    server is asked. Encoders that are not listed work too: any model of timm, and any wav2vec2, HuBERT, WavLM or
    Whisper model.

    The trained model was trained on drawn faces: it shows that everything works together, and is not for people.
    """
    from ..demo.starting_models import starting_models, write_models

    listed = starting_models()
    written = [str(place) for place in write_models(out)] if out else []
    show({"models": [model.to_json() for model in listed], "written": written}, as_json, lambda _: _text(listed))
    if written and not as_json:
        echo("\n".join(["", "Written:", *(f"  {place}" for place in written)]))


def _text(models: list[StartingModel]) -> str:
    """Returns the list as text, under a heading for each use."""
    lines: list[str] = []
    for use, heading in HEADINGS.items():
        lines += ["", f"{heading} ({use}{'' if use == 'predict' else ' NAME'})"]
        for model in (model for model in models if model.use == use):
            lines += [f"  {model.name}", f"      {_facts(model)}", f"      {model.card}"]
    return "\n".join(lines[1:])


def _facts(model: StartingModel) -> str:
    size = f"{model.megabytes:.1f} MB" if model.megabytes < 1 else f"{model.megabytes:.0f} MB"
    facts: list[Any] = [
        f"{model.dimensions} dimensions" if model.dimensions else None,
        size if model.megabytes else "no weights",
        model.licence,
        "labels of affect" if model.affect else "no labels of affect" if model.megabytes else None,
        f"from {'the hub' if model.source == 'hub' else model.source}",
        "here" if model.here else "not here",
    ]
    return f"{', '.join(filter(None, facts))}; trained on {model.trained_on}"
