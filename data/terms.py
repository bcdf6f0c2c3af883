"""Terms of use of data, and the marks that cards of data sets and of models carry: licence, restriction, encoders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

KNOWN_LICENCES = frozenset(
    {  # as the hub spells them
        "apache-2.0",
        "mit",
        "cc0-1.0",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc-by-nc-3.0",
        "cc-by-nc-4.0",
        "cc-by-nd-4.0",
        "cc-by-nc-nd-3.0",
        "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-3.0",
        "cc-by-nc-sa-4.0",
    }
)


@dataclass(frozen=True)
class Terms:
    """Terms of use of data: their licence, None where not stated; restricted: they are gated, not to be passed on."""

    licence: str | None
    restricted: bool

    @property
    def shown_licence(self) -> str:
        """The licence as text of a card."""
        return cell(self.licence or "not stated")

    def header(self) -> dict[str, str]:
        """Returns the hub's metadata of the licence: `license`, and `license_name` where the hub does not know it."""
        name = (self.licence or "").lower()
        if name in KNOWN_LICENCES:
            return {"license": name}
        slug = re.sub(r"[^a-z0-9.]+", "-", name or "not stated").strip("-")
        return {"license": "other", "license_name": slug or "other"}

    def gate(self, origin: str, thing: str) -> str | None:
        """Returns the confirmation that the hub asks for before access; None where nothing is restricted.

        Args:
            origin: how the thing comes from the data: "This model was trained on".
            thing: what must not be passed on: "the model".
        """
        if not self.restricted:
            return None
        return (
            f"{origin} data under terms of use. By asking for access you confirm that you have the right to use that "
            f"data, and that you will not pass {thing} on."
        )

    def paragraph(self, licence_of: str, restriction: str) -> str:
        """Returns the terms as text of a card.

        Args:
            licence_of: the beginning of the sentence: "Licence of the data".
            restriction: what follows from a restriction.
        """
        text = f"{licence_of}: {self.shown_licence}."
        return f"{text} **Restricted:** {restriction}" if self.restricted else text


def untrained_mark(names: Sequence[str]) -> str:
    """Returns the mark of results and cards made with encoders that were never trained."""
    return f"UNTRAINED ENCODER (random weights): {', '.join(names)}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in (head, ["---"] * len(head), *rows))


def cell(text: str) -> str:
    """Returns text that breaks no table and opens no tag of Markdown."""
    return re.sub(r"[\r\n|<>]", " ", text)
