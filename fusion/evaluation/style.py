"""The style of all pictures: colours that colour-blind readers tell apart, quiet axes, legends beside the plots."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data.atomic import replacing
from ...data.errors import InputError

if TYPE_CHECKING:  # it takes half a second to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (  # Okabe and Ito, safe for colour-blind readers
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
)  # fmt: skip
STYLES = ("-", "--", ":")
INK, MUTED, LINE = "#1b1f23", "#59636d", "#dddfdb"
SUFFIXES = (".png", ".svg", ".pdf")
STYLE: Any = {
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": "#b9bec1",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "hatch.linewidth": 0.6,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}


@contextlib.contextmanager
def house_style() -> Iterator[None]:
    """Sets the style for the figures that are drawn inside."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


def as_text(text: str) -> str:
    """Returns a text in which matplotlib finds no formula: names of clips may hold dollar signs."""
    return text.replace("$", r"\$")


def check_picture(path: Path) -> None:
    """Checks that pictures can be written in the format of a path's suffix.

    Raises:
        InputError: if they cannot.
    """
    if path.suffix.lower() not in SUFFIXES:
        got, todo = path.suffix or "no suffix", "Change the name."
        raise InputError(path, expected="a name that ends in .png, .svg or .pdf", got=got, todo=todo)


def save_picture(figure: Figure, path: Path) -> None:
    """Writes a figure as its suffix says: .png, .svg or .pdf.

    Raises:
        InputError: for another suffix.
    """
    check_picture(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with house_style(), replacing(path) as part:
        figure.savefig(part, format=path.suffix[1:].lower(), dpi=160)


def save_pictures(figure: Figure, path: Path) -> None:
    """Writes a figure in every format, each beside the others: `table` becomes table.png, table.svg and table.pdf."""
    for suffix in SUFFIXES:
        save_picture(figure, path.with_name(path.name + suffix))


def legend_above(axis: Axes, **options: Any) -> None:
    """Puts the legend above an axis, at its right end, where it covers nothing."""
    handles, _ = axis.get_legend_handles_labels()
    if handles:
        place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.1, "ncols": len(handles)}
        axis.legend(**{**place, "handlelength": 1.8, "columnspacing": 1.4, **options})
