"""The template of face crops: where the landmarks of a face lie in its image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class CropTemplate:
    """A template of square face crops.

    Args:
        landmarks: name of the positions of eyes, nose and mouth.
        size: side of a crop in pixels.
        margin: border around the template's square, as a share of its side.
    """

    landmarks: str = "ArcFace"
    size: int = 112
    margin: float = 0.0

    def __str__(self) -> str:
        margin = f"with a margin of {self.margin:g}" if self.margin else "without margin"
        return f"the {self.landmarks} template, {self.size} x {self.size} {margin}"

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> CropTemplate | None:
        """The inverse of `to_json`; None for none."""
        return None if value is None else cls(**value)

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return asdict(self)


AFFWILD2 = CropTemplate()  # of `cropped_aligned`, and of folders that `sage-va faces` writes


def takes_crops(fingerprint: Mapping[str, Any]) -> bool:
    """True for the fingerprint of a stream whose encoder took ready-made crops."""
    return fingerprint.get("preprocessing", {}).get("faces") == "crops"


def template_of(fingerprints: Iterable[Mapping[str, Any]]) -> CropTemplate | None:
    """Returns the template of the crops that streams are made of; None where no stream takes ready-made crops.

    Crops hold no template themselves; those of Aff-Wild2 are what others follow.
    """
    return AFFWILD2 if any(map(takes_crops, fingerprints)) else None
