"""Edited material: who is shown again after a cut is the same person, counted by switches of identity."""

import math

import numpy as np
import pytest

from sage_va.extract.faces.align import TEMPLATE, similarity
from sage_va.extract.faces.detectors import no_faces
from sage_va.extract.faces.tracking import Detections, choose_person, lasting, track_people
from sage_va.tests.squares import face_at

VIEWS = np.random.default_rng(0).integers(0, 255, (4, 144), dtype=np.uint8)  # grey pictures that do not correlate
SHOT_IMAGES = 50  # 2 s


def edited(shots, hz: float = 25.0) -> Detections:
    """Shots as (number of the view, its faces as (x, y, size)), each two seconds long, the camera trembling."""
    rng = np.random.default_rng(1)
    faces, counts, scenes = [], [], []
    for view, shown in shots:
        for _ in range(SHOT_IMAGES):
            faces += [face_at(x + rng.normal(), y + rng.normal(), size) for x, y, size in shown]
            counts.append(len(shown))
            scenes.append(np.clip(VIEWS[view] + rng.normal(0, 8, 144), 0, 255).astype(np.uint8))
    times_s = np.arange(len(counts)) / hz
    return Detections(times_s, np.array(counts), np.stack(faces) if faces else no_faces(), np.stack(scenes), 640)


def num_people(detections: Detections) -> int:
    return len(track_people(detections))


ANNA, BEN, BOTH = (200.0, 80.0, 90.0), (380.0, 90.0, 90.0), [(120.0, 100.0, 60.0), (460.0, 100.0, 60.0)]


def test_a_dialogue_has_two_people_however_often_it_is_cut() -> None:
    """Before, every shot began a new person: 19 switches in 20 shots."""
    dialogue = [(0, [ANNA]), (1, [BEN])] * 10
    assert num_people(edited(dialogue)) == 2


def test_largest_is_who_is_seen_most_in_the_whole_clip_not_in_one_shot() -> None:
    close_up = (300.0, 60.0, 150.0)
    shots = [(0, [ANNA]), (1, [BEN]), (0, [ANNA]), (2, [close_up]), (0, [ANNA]), (1, [BEN]), (0, [ANNA])]
    chosen = choose_person(edited(shots), "largest")
    assert len(chosen.images) == 4 * SHOT_IMAGES
    assert abs(chosen.middle - (ANNA[0] + ANNA[2] / 2)) < 2


def test_each_of_two_is_found_again_at_their_own_place() -> None:
    people = track_people(edited([(0, BOTH), (1, [BEN]), (0, BOTH), (3, []), (0, BOTH)]))
    assert [len(person.images) for person in people] == [150, 150, 50]


def test_another_place_or_another_view_is_another_person() -> None:
    moved = (500.0, 90.0, 90.0)
    assert num_people(edited([(0, [ANNA]), (1, [BEN]), (0, [moved])])) == 3
    assert num_people(edited([(0, [ANNA]), (1, [ANNA]), (2, [ANNA])])) == 3


def test_time_away_does_not_count_as_time_seen() -> None:
    glimpse = [(0, [ANNA])] + [(1, [BEN])] * 3 + [(0, [ANNA])]
    detections = edited(glimpse)
    anna, ben = track_people(detections)
    assert anna.lasts_s(detections.times_s) == pytest.approx(2 * (SHOT_IMAGES - 1) / 25)
    assert lasting([anna, ben], detections.times_s) == [anna, ben]


@pytest.mark.parametrize(("yaw", "most"), [(30, 0.05), (60, 0.06), (90, 0.11)])
def test_a_face_in_profile_keeps_its_scale(yaw: float, most: float) -> None:
    """A head with its nose half an eye distance in front, turned; without its eye distance a crop would grow."""
    eyes = TEMPLATE[1, 0] - TEMPLATE[0, 0]
    depth = eyes * np.array([0, 0, 0.5, 0.15, 0.15])
    middle = TEMPLATE.mean(axis=0)
    across = (TEMPLATE - middle)[:, 0] * math.cos(math.radians(yaw)) + depth * math.sin(math.radians(yaw))
    turned = np.column_stack([across + middle[0], TEMPLATE[:, 1]])
    matrix = similarity(turned, TEMPLATE)
    assert abs(math.hypot(matrix[0, 0], matrix[1, 0]) - 1) < most
