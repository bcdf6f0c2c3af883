"""Label files: what is annotated, which clip a file belongs to, and that row k belongs to frame k by time."""

import time
import warnings
from fractions import Fraction
from pathlib import Path, PurePath

import numpy as np
import pytest

from sage_va.data import Clip, FrameClock, Grid, InputError, to_grid
from sage_va.data import labels as module
from sage_va.data.labels import LabelFile, LabelFolder, Labels, join_labels, read_label_file


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_aff_wild2(tmp_path: Path) -> None:
    text = "valence,arousal\n0.5,-0.25\n-5,-5\n-5.0,-5.0\n0.1,-5\n-5,0.2\n1,-1\n"
    file = LabelFile(write(tmp_path / "Train_Set/video1.txt", text))
    labels = file.labels
    assert labels.mask.tolist() == [True, False, False, False, False, True]
    assert labels.va.dtype == np.float32
    assert labels.va[0].tolist() == [0.5, -0.25]
    assert (labels.times_s, file.official_part) == (None, "train")


def test_parts_come_from_the_official_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "valence,arousal\n0,0\n"
    for folder in ("Train_Set", "Validation_Set", "else"):
        write(tmp_path / folder / "v.txt", text)
    assert [file.official_part for file in LabelFolder(tmp_path).files] == ["train", "val", None]
    monkeypatch.chdir(tmp_path / "Validation_Set")
    assert [file.official_part for file in LabelFolder(Path()).files] == ["val"]


def test_csv_of_any_order_and_rate(tmp_path: Path) -> None:
    text = "\ufefface,arousal, time_s ,valence\nx,0.2,0.0,0.1\ny,,0.5,0.3\nz,0.4,1.7,0.5\n"
    labels = read_label_file(write(tmp_path / "a.csv", text))
    assert labels.times_s is not None
    assert labels.times_s.tolist() == [0.0, 0.5, 1.7]
    assert labels.mask.tolist() == [True, False, True]
    assert np.allclose(labels.va[0], [0.1, 0.2])
    truth = labels.timed(Clip("a"))  # needs no clock
    assert truth.times_s.tolist() == [0.0, 0.5, 1.7]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", r"a\.txt:1: expected columns valence, arousal, got no header\. Add the header line"),
        ("a.txt", "0.1,0.2\n", r"a\.txt:1: expected columns valence, arousal, got 0\.1, 0\.2\. Add"),
        ("a.csv", "valence,arousal\n", r"a\.csv:1: expected columns time_s, valence, arousal, got valence, arousal"),
        ("a.csv", "time_s,valence,valence,arousal\n", "a.csv:1: expected columns time_s"),
        ("a.txt", "valence,arousal\n0,0\nx,0\n", r"a\.txt:3: expected numbers, got 'x,0'\. Correct or remove the row"),
        ("a.txt", "valence,arousal\n0\n", r"a\.txt:2: expected numbers, got '0'"),
        (
            "a.txt",
            "valence,arousal\n0,0\n\n0,0\n",
            r"a\.txt:3: expected numbers, got an empty line among rows\. Write -5",
        ),
        ("a.csv", "time_s,valence,arousal\n,0,0\n", r"a\.csv:2: expected numbers, got ',0,0'"),
        (
            "a.csv",
            "time_s,valence,arousal\n0,0,0\n1,0,0\n1,0,0\n",
            r"a\.csv:4: expected times that increase, got one that",
        ),
        (
            "a.txt",
            "valence,arousal\n",
            r"expected valence and arousal in \[-1, 1\], got 0 rows, none of them annotated",
        ),
        ("a.txt", "valence,arousal\n300,700\n", r"got 1 rows, none of them annotated in that range\. Rescale them"),
    ],
)
def test_malformed_files_are_refused_with_the_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_label_file(write(tmp_path / name, text))


def test_a_blank_end_is_fine_and_odd_values_are_counted(tmp_path: Path) -> None:
    assert len(read_label_file(write(tmp_path / "a.txt", "valence,arousal\r\n0,0\r\n\r\n\r\n")).va) == 1
    with pytest.warns(UserWarning, match=r"a\.txt: 1 of 4 rows lie outside \[-1, 1\] and are left out"):
        labels = read_label_file(write(tmp_path / "a.txt", "valence,arousal\n0,0\n-5,-5\n3,0\n-5,1\n"))
    assert labels.mask.tolist() == [True, False, False, False]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path / ".DS_Store.txt", "")
    with pytest.raises(InputError, match=r"expected a folder of label files, got none\. Give \.csv files with time_s"):
        LabelFolder(tmp_path)


def files(*paths: str) -> list[LabelFile]:
    return [LabelFile(Path(path)) for path in paths]


def rows(num_rows: int = 3) -> Labels:
    return Labels(Path("a.txt"), np.zeros((num_rows, 2), np.float32), None)


@pytest.mark.parametrize(
    ("clip_id", "path"),
    [
        ("video1.mp4", "VA/Train_Set/video1.txt"),
        ("video1", "VA/Train_Set/video1.txt"),
        ("2-30-640x360", "VA/2-30-640x360.txt"),
        ("1.5x speed", "VA/1.5x speed.txt"),
        ("video59.mp4#right", "VA/video59_right.txt"),
        ("video59_right", "VA/video59_right.txt"),
        ("batch1/video59.mp4#right", "VA/video59_right.txt"),
        ("a/b/video1.avi", "labels/a/b/video1.csv"),
        ("a/b/video1.avi", "elsewhere/video1.csv"),
        ("video1.mp4", "video1.mp4.csv"),
        ("video-1.mp4", "VA/video-1.txt"),
    ],
)
def test_a_clip_meets_its_labels(clip_id: str, path: str) -> None:
    others = files("VA/video5.txt", "VA/video59.txt", "VA/video59_left.txt", "VA/1.txt")
    joined = join_labels([*others, *files(path)], [clip_id])
    assert joined.files == {clip_id: LabelFile(Path(path))}
    assert joined.unlabelled == []
    assert joined.unused == [other.path for other in others]


def test_people_do_not_get_each_others_labels() -> None:
    left, right = files("VA/video59.txt", "VA/video59_right.txt")
    joined = join_labels([left, right], ["video59.mp4", "video59.mp4#right", "video59.mp4#left"])
    assert joined.files == {"video59.mp4": left, "video59.mp4#right": right}
    assert joined.unlabelled == ["video59.mp4#left"]
    assert joined.unused == []


def test_nested_folders_keep_equal_names_apart() -> None:
    a, b = files("L/a/clip.txt", "L/b/clip.txt")
    joined = join_labels([a, b], ["a/clip.mp4", "b/clip.mp4"])
    assert joined.files == {"a/clip.mp4": a, "b/clip.mp4": b}
    assert joined.unlabelled == []


def test_a_clip_never_takes_the_labels_of_another_of_the_same_name() -> None:
    joined = join_labels(files("L/a/clip.txt"), ["a/clip.mp4", "b/clip.mp4"])
    assert list(joined.files) == ["a/clip.mp4"]
    assert joined.unlabelled == ["b/clip.mp4"]
    with pytest.raises(
        InputError, match=r"clip\.txt: expected one clip of that name, got a/clip\.mp4 and b/clip\.mp4\. Lay"
    ):
        join_labels(files("L/clip.txt"), ["a/clip.mp4", "b/clip.mp4"])


def test_a_part_of_the_clips_leaves_the_files_of_the_others_alone() -> None:
    own, other = files("L/x/clip.txt", "L/a/clip.mp4.txt")
    every = ["a/clip.mp4", "b/clip.mp4", "c/clip.mp4"]
    assert join_labels([own, other], every[:2]).files == {"a/clip.mp4": other, "b/clip.mp4": own}
    assert join_labels([own, other], ["b/clip.mp4"], others=every).files == {"b/clip.mp4": own}
    assert join_labels([other], ["c/clip.mp4"], others=every).unlabelled == ["c/clip.mp4"]


def test_two_files_for_one_clip_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"clip\.mp4: expected one label file, got L/a/clip\.txt and L/b/clip\.txt\. Keep one"
    ):
        join_labels(files("L/a/clip.txt", "L/b/clip.txt"), ["clip.mp4"])
    with pytest.raises(InputError, match="expected one label file"):
        join_labels(files("L/a/clip.txt", "L/a/clip.csv"), ["a/clip.mp4"])


def test_a_file_is_parsed_once_and_only_if_its_labels_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.csv", "b.csv", "Train_Set/c.txt"):
        write(tmp_path / name, "time_s,valence,arousal\n0,0,0.5\n")
    parse, parsed = module.read_label_file, list[str]()
    monkeypatch.setattr(module, "read_label_file", lambda path: parsed.append(path.name) or parse(path))
    folder = LabelFolder(tmp_path)
    joined = folder.join(["a.mp4", "b.mp4", "c.mp4"])
    assert (joined.official_parts, parsed) == ({"c.mp4": "train"}, [])
    for again in (joined, folder.join(["a.mp4"])):
        assert again.truths([Clip("a.mp4"), Clip("other")])["a.mp4"].va.tolist() == [[0, 0.5]]
    assert LabelFolder.of(folder) is folder
    assert parsed == ["a.csv"]


def test_ten_thousand_files_are_joined_in_a_moment() -> None:
    clip_ids = [f"folder{k % 100}/clip{k}.mp4" for k in range(10_000)]
    begun_s = time.process_time()
    joined = join_labels(files(*(f"L/folder{k % 100}/clip{k}.csv" for k in range(10_000))), clip_ids)
    assert len(joined.files) == 10_000
    assert time.process_time() - begun_s < 5


def test_row_k_belongs_to_frame_k_of_an_uneven_clock() -> None:
    clock = FrameClock(Fraction(1, 1000), np.array([40, 70, 140, 150, 300]))
    va = np.linspace(-1, 1, 10, dtype=np.float32).reshape(5, 2)
    truth = Labels(Path("a.txt"), va, None).timed(Clip("a", clock=clock))
    assert truth.times_s.tolist() == [0.04, 0.07, 0.14, 0.15, 0.3]
    assert np.array_equal(truth.va, va)


def test_labels_meet_features_of_another_rate_by_time() -> None:
    """Video of 30 frames/s, features and grid of 10 steps/s: the label of a step is that of its frames."""
    clock = FrameClock.regular(30, 300)
    va = np.stack([clock.times_s / 10, -clock.times_s / 10], axis=1).astype(np.float32)
    truth = Labels(Path("a.txt"), va, None).timed(Clip("a", clock=clock))
    grid = Grid(10, 0, 100)
    resampled, known = to_grid(truth.times_s, truth.va, truth.mask, grid)
    assert known.all()
    assert np.allclose(resampled[1:, 0], grid.times_s[1:] / 10, atol=1e-5)


def test_rows_and_frames_need_not_be_equal() -> None:
    clip = Clip("a", clock=FrameClock.regular(25, 10))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(rows(11).timed(clip).times_s) == 10
        assert len(rows(7).timed(clip).times_s) == 7
    with pytest.warns(UserWarning, match=r"a\.txt: 15 rows for 10 frames; the surplus is left out"):
        truth = rows(15).timed(clip)
    assert len(truth.times_s) == len(truth.va) == len(truth.mask) == 10


def test_rows_without_a_clock_are_refused() -> None:
    text = r"a: expected a recording whose frame times are known, .*, got features without a frame clock\. Extract from"
    with pytest.raises(InputError, match=text):
        rows().timed(Clip("a"))


def test_a_file_of_one_name_in_each_folder_is_joined_without_comparing_all_with_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    num, num_cut, cut = 200, 0, PurePath.with_suffix

    def counted(path: PurePath, suffix: str) -> PurePath:
        nonlocal num_cut
        num_cut += 1
        return cut(path, suffix)

    monkeypatch.setattr(PurePath, "with_suffix", counted)
    files = [LabelFile(Path(f"labels/{k}/video.csv")) for k in range(num)]
    joined = join_labels(files, [f"{k}/video.mp4" for k in range(num)])
    assert [file.path.parent.name for file in joined.files.values()] == [str(k) for k in range(num)]
    assert num_cut < 10 * num
