"""The work list: folders, globs, crops and manifests become clips with stable names; mistakes are named."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from sage_va.data import InputError
from sage_va.data.manifest import Source, crop_numbers, find_sources
from sage_va.data.shard import part_of


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def ids(*media: object) -> list[str]:
    return [source.clip_id for source in find_sources([str(place) for place in media])]


def test_a_folder_is_searched_with_all_below_it(tmp_path):
    touch(tmp_path / "b/clip.mp4", tmp_path / "a/clip.mp4", tmp_path / "a/voice.WAV", tmp_path / "a/notes.txt")
    touch(tmp_path / ".hidden/clip.mp4", tmp_path / "a/.clip.mp4")
    assert ids(tmp_path) == ["a/clip.mp4", "a/voice.WAV", "b/clip.mp4"]


def test_crop_folders_are_clips(tmp_path):
    touch(tmp_path / "2-30-640x360/00001.jpg", tmp_path / "2-30-640x360/00003.jpg", tmp_path / "thumbs/1.jpg")
    (source,) = find_sources([str(tmp_path)])
    assert source.clip_id == "2-30-640x360"
    assert source.path is None
    assert source.crops == tmp_path / "2-30-640x360"
    assert ids(tmp_path / "2-30-640x360") == ["2-30-640x360"]


def test_crops_go_by_their_number(tmp_path):
    touch(tmp_path / "00010.jpg", tmp_path / "00002.PNG", tmp_path / "cover.jpg", tmp_path / "100000.jpg")
    assert list(crop_numbers(tmp_path)) == [2, 10, 100000]
    touch(tmp_path / "00002.jpg")
    with pytest.raises(InputError, match=r"expected one image per number, got 00002\.PNG and 00002\.jpg"):
        crop_numbers(tmp_path)


def test_a_file_goes_by_its_name_and_a_glob_by_its_plain_start(tmp_path):
    touch(tmp_path / "x/a/1.mp4", tmp_path / "x/b/1.mp4", tmp_path / "x/b/2.txt")
    assert ids(tmp_path / "x/a/1.mp4") == ["1.mp4"]
    assert ids(tmp_path / "x/*/*.mp4") == ["a/1.mp4", "b/1.mp4"]
    assert ids(tmp_path / "x/**/*") == ["a/1.mp4", "b/1.mp4"]
    assert ids(tmp_path / "x", tmp_path / "x/*/1.mp4") == ["a/1.mp4", "b/1.mp4"]


def test_one_name_for_two_media_is_refused(tmp_path):
    touch(tmp_path / "a/clip.mp4", tmp_path / "b/clip.mp4")
    with pytest.raises(
        InputError, match=r"clip_id 'clip\.mp4': expected one clip, got two: .*a/clip\.mp4 and .*b/clip"
    ):
        find_sources([str(tmp_path / "a"), str(tmp_path / "b")])


def test_links_in_circles_end(tmp_path):
    touch(tmp_path / "a/clip.mp4")
    os.symlink(tmp_path, tmp_path / "a/loop")
    assert ids(tmp_path) == ["a/clip.mp4"]


@pytest.mark.parametrize("name", ["nothing.mp4", "*.mp4", ""])
def test_nothing_found_is_an_error(tmp_path, name):
    with pytest.raises(InputError, match="expected"):
        find_sources([str(tmp_path / name)])


def test_csv_and_jsonl_manifests_say_the_same(tmp_path):
    rows = [
        {"clip_id": "s1/a", "path": "v/a.mp4", "subject_id": "s1", "start_s": 1.5, "end_s": 3},
        {"clip_id": "s2/b", "path": "/abs/b.mp4", "crops": "c/b"},
        {"clip_id": "s3/c", "crops": "c/c", "fps": 30},
    ]
    columns = ["clip_id", "path", "crops", "subject_id", "start_s", "end_s", "fps"]
    lines = [",".join(columns), *(",".join(str(row.get(name, "")) for name in columns) for row in rows)]
    (tmp_path / "m.csv").write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8")
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    sources = find_sources([str(tmp_path / "m.csv")])
    assert sources == find_sources([str(tmp_path / "m.jsonl")])
    assert sources[0].path == tmp_path / "v/a.mp4"
    assert (sources[0].subject_id, sources[0].start_s, sources[0].end_s, sources[0].media_path) == (
        "s1",
        1.5,
        3.0,
        "v/a.mp4",
    )
    assert sources[1].path == Path("/abs/b.mp4")
    assert (sources[2].path, sources[2].fps, sources[2].place) == (None, 30.0, tmp_path / "c/c")


BAD_ROWS = [
    (
        "clip_id,path,subject\na,a.mp4,s\n",
        r"m\.csv:1: expected columns among .*, got 'subject'\. Did you mean subject_id\?",
    ),
    ("clip_id\na\n", r"m\.csv:1: expected a header with clip_id and path"),
    ("path\na\n", r"m\.csv:1: expected a header with clip_id and path"),
    ("", r"m\.csv:1: expected a header with clip_id and path \(or crops\), got no line"),
    ("clip_id,path,path\na,b,c\n", r"m\.csv:1: expected each column once"),
    (
        "clip_id,path\na,a.mp4\na,b.mp4\n",
        r"m\.csv:3: expected a clip_id that no other row has, got 'a' again, first at .*:2",
    ),
    ("clip_id,path\na,a.mp4,x\n", r"m\.csv:2: expected 2 cells, got 3"),
    ("clip_id,path\n,a.mp4\n", r"m\.csv:2: expected a clip_id, got an empty one"),
    ("clip_id,path\na,\n", r"m\.csv:2: expected a path, crops or both, got neither"),
    ("clip_id,path\n../a,a.mp4\n", r"m\.csv:2: expected a relative path in UTF-8 without"),
    ("clip_id,path,start_s\na,a.mp4,soon\n", r"m\.csv:2: expected start_s as a number, got 'soon'"),
    ("clip_id,path,start_s\na,a.mp4,nan\n", r"m\.csv:2: expected start_s as a number"),
    ("clip_id,path,start_s,end_s\na,a.mp4,3,2\n", r"m\.csv:2: expected end_s after start_s, got 3 to 2"),
    (
        "clip_id,path,fps\na,a.mp4,30\n",
        r"m\.csv:2: expected fps above 0, for crops without a path, got fps 30 for a path",
    ),
    ("clip_id,crops,fps\na,c,0\n", r"m\.csv:2: expected fps above 0"),
    ("clip_id,path\n", "expected at least one recording, got none"),
]


@pytest.mark.parametrize(("text", "message"), BAD_ROWS)
def test_malformed_csv_is_named_by_line(tmp_path, text, message):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        find_sources([str(tmp_path / "m.csv")])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"m\.jsonl:1: expected one JSON object on the line"),
        ("[1]", r"m\.jsonl:1: expected one JSON object on the line, got list"),
        ('{"clip_id": "a", "pth": "b"}', r"m\.jsonl:1: expected columns among .* got 'pth'\. Did you mean path\?"),
        ('{"clip_id": "a", "path": ["b"]}', r"m\.jsonl:1: expected path as text"),
        ('{"clip_id": "a", "path": "b", "start_s": true}', r"m\.jsonl:1: expected start_s as a number"),
    ],
)
def test_malformed_jsonl_is_named_by_line(tmp_path, line, message):
    (tmp_path / "m.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=message):
        find_sources([str(tmp_path / "m.jsonl")])


def test_other_encodings_are_refused(tmp_path):
    (tmp_path / "m.csv").write_bytes("clip_id,path\nä,a.mp4\n".encode("latin-1"))
    with pytest.raises(InputError, match="expected UTF-8 text"):
        find_sources([str(tmp_path / "m.csv")])


def test_shards_are_parts_of_the_whole() -> None:
    sources = [Source(f"{k:02}", path=Path(f"{k}.mp4")) for k in range(11)]
    parts = [part_of(sources, f"{k}/4") for k in (1, 2, 3, 4)]
    assert sorted(source.clip_id for part in parts for source in part) == [source.clip_id for source in sources]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert part_of(sources, "1/1") == sources
    for text in ("0/4", "5/4", "4", "1/0", "a/b", "-1/4"):
        with pytest.raises(InputError, match=r"^shard: expected K/N with K from 1 to N, got .*SLURM_ARRAY_TASK_ID"):
            part_of(sources, text)


def test_files_that_are_no_media_are_counted_by_suffix(tmp_path):
    for name in ("a.mp4", "b.wav", "notes.txt", "more.TXT", "c.m4b", "README", ".hidden"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / "00001.jpg").write_bytes(b"x")
    others = Counter()
    assert [source.clip_id for source in find_sources([str(tmp_path)], others)] == ["a.mp4", "b.wav", "crops"]
    assert others == {".txt": 2, ".m4b": 1, "": 1}
    again = Counter()
    find_sources([str(tmp_path / "*")], again)
    assert again == others
