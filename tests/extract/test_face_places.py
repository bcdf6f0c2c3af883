"""Places of the face for a page: the transform that brings the landmarks to the template, image by image."""

from pathlib import Path

import numpy as np
import pytest

from sage_va.data.manifest import Source
from sage_va.extract.face_places import SIDE, detects_faces, face_places
from sage_va.extract.faces.align import TEMPLATE, template
from sage_va.extract.faces.finder import FaceFinder
from sage_va.tests.media import grey_frames, write_media

MARGIN = 0.2


class StubDetector:
    """Finds a face in every image that is not dark."""

    name, weights_sha256, settings = "stub", "0" * 64, {}

    def detect(self, images):
        return [face_at(image[0, 0, 0]) for image in images]


def face_at(level: int) -> np.ndarray:
    if level < 10:
        return np.empty((0, 15), np.float32)
    landmarks = TEMPLATE * 0.25 + [level / 10, 5.0]
    return np.array([[level / 10, 5.0, 28.0, 28.0, *landmarks.reshape(-1), 0.9]], np.float32)


def test_the_transform_brings_landmarks_to_the_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_media(tmp_path / "a.mp4", grey_frames(4, 96, 64))
    finder = FaceFinder(StubDetector, margin=MARGIN)
    monkeypatch.setattr(FaceFinder, "of_fingerprint", lambda *_: finder)
    fingerprint = {"preprocessing": {"faces": finder.fingerprint}, "fps": "native"}
    assert detects_faces(fingerprint)
    assert not detects_faces({"preprocessing": {"faces": "full"}})
    places = face_places(Source("a", path=path), fingerprint)
    assert places.times_s == pytest.approx(np.arange(4) / 25)
    assert np.isnan(places.matrices[0]).all()
    assert places.width == 96
    a, b, c, d, e, f = places.matrices[2]
    level = 8 + 5 * 2
    landmarks = face_at(level)[0, 4:14].reshape(5, 2)
    moved = landmarks @ np.array([[a, b], [c, d]]) + [e, f]
    assert moved == pytest.approx(template(SIDE, MARGIN), abs=1.5)  # the level is that of a lossy image
    values = places.to_json()
    assert values["matrices"][0] is None
    assert len(values["matrices"][1]) == 6
