"""`sage-va variants`."""

from __future__ import annotations

from .console import show
from .options import json_option
from .verb import verb


@verb("sage-va variants")
@json_option
def variants(as_json: bool) -> None:
    """Lists the fusion variants and their sources.

    Variants that installed packages add are included.
    """
    from ..fusion.models.variants import find_variant, variant_names

    result = {name: find_variant(name).source for name in variant_names()}
    show(result, as_json, lambda result: "\n".join(f"{name:<20} {source}" for name, source in result.items()))
