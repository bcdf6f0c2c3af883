"""Scores by group: each is the score of its clips alone, and too few clips have no interval."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from sage_va import SAGE, evaluate
from sage_va.cli import main
from sage_va.data import Clip, InputError, open_store
from sage_va.fusion.config import check_config
from sage_va.fusion.evaluation.groups import MIN_CLIPS, Grouping
from sage_va.fusion.evaluation.metrics import bootstrap, corpus_moments, pooled_ccc
from sage_va.fusion.evaluation.predict import predict
from sage_va.fusion.evaluation.score import load_part
from sage_va.fusion.run_folder import load_run
from sage_va.fusion.training.train import train
from sage_va.tests.synthetic import make_cache, tiny

torch.set_num_threads(1)
SUBJECTS = ["ann", "bob", "cid", "dan", "eve", "fay", "gus", "hal"]
GENDERS = ["f", "m", "m", "m", "f", "f", "m", "m"]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run over 16 clips of 8 subjects, 10 of them for test, and a manifest."""
    home = tmp_path_factory.mktemp("groups")
    cache, labels = make_cache(home, num_clips=16, seconds=3, subjects=SUBJECTS * 2)
    split = {"by": "subject", "fractions": [0.25, 0.125, 0.625]}
    train(open_store(cache), labels, home / "run", check_config(tiny(split=split, train={"epochs": 1}), "test"))
    rows = [f"clip{i:02},a.mp4,{GENDERS[i % 8] if i != 9 else ''},{20 + 3 * (i % 8)}" for i in range(16) if i % 8 != 3]
    (home / "manifest.csv").write_text("\n".join(["clip_id,path,gender,age", *rows]) + "\n")
    return home / "run", home / "manifest.csv"


def test_a_group_has_the_score_of_its_clips_alone(scored: tuple[Path, Path]) -> None:
    run, manifest = load_run(scored[0]), scored[1]
    report = evaluate(scored[0], by="gender", groups=manifest).groups
    corpus = load_part(run, open_store(run.cache), Path(run.labels), "test")
    sums = corpus_moments(predict(run.model, corpus, range(len(corpus.clips)), run.config.data), corpus)
    known = Grouping.of("gender", manifest)
    assert report.by == "gender"
    assert sum(row.num_clips for row in report.groups) == len(corpus.clips) == 10
    names = [row.group for row in report.groups]
    assert names == sorted(name for name in names if name) + [None] * (None in names)
    for row in report.groups:
        own = [one.all for one, clip in zip(sums, corpus.clips, strict=True) if known.group(clip) == row.group]
        assert row.num_clips == len(own)
        assert row.ccc == pooled_ccc(own)
        if row.num_clips >= MIN_CLIPS:
            assert row.interval == bootstrap(own)
        else:
            assert row.too_few
            assert all(math.isnan(end) for interval in row.interval.values() for end in interval)


def test_a_model_by_itself_and_its_subjects(scored: tuple[Path, Path]) -> None:
    run = load_run(scored[0])
    model = SAGE.from_run(scored[0], scored=False)
    report = evaluate(model, cache=run.cache, labels=run.labels, by="subject").groups
    assert [row.group for row in report.groups] == SUBJECTS
    assert {row.num_clips for row in report.groups} == {2}
    assert "groups" not in evaluate(model, cache=run.cache, labels=run.labels).to_json()


def test_ages_are_spans_of_ten_years_and_people_share_the_row_of_their_recording(tmp_path: Path) -> None:
    table = tmp_path / "t.jsonl"
    rows = [{"clip_id": "a.mp4", "age": 39}, {"clip_id": "b.mp4", "age": "40.5"}, {"clip_id": "c.mp4", "age": "old"}]
    table.write_text("\n".join(map(json.dumps, rows)))
    grouping = Grouping.of("age", table)
    clips = [Clip(name) for name in ("a.mp4#left", "b.mp4", "c.mp4", "d.mp4")]
    assert [grouping.group(clip) for clip in clips] == ["30 to 39", "40 to 49", "old", None]
    (tmp_path / "s.csv").write_text("subject_id,language\nann,de\nbob,\n")
    by_subject = Grouping.of("language", tmp_path / "s.csv")
    assert [by_subject.group(Clip("x", subject_id=name)) for name in ("ann", "bob", None)] == ["de", None, None]


def test_each_row_is_of_the_first_id_that_it_has(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("clip_id,subject_id,gender\n,P1,female\n,P2,male\nc.mp4,P1,male\n")
    by_gender = Grouping.of("gender", tmp_path / "t.csv")
    clips = [Clip("a.mp4", "P1"), Clip("b.mp4", "P2"), Clip("c.mp4", "P1")]
    assert [by_gender.group(clip) for clip in clips] == ["female", "male", "male"]
    (tmp_path / "t.jsonl").write_text('{"clip_id": null, "subject_id": "P1", "gender": "female"}')
    assert Grouping.of("gender", tmp_path / "t.jsonl").group(clips[0]) == "female"


@pytest.mark.parametrize(
    ("text", "by", "message"),
    [
        ("clip_id,gender\na,f\n", "gendre", r"t.csv:2: expected columns gendre and clip_id or subject_id, got clip_id, "
         r"gender. Did you mean gender"),
        ("path,gender\na,f\n", "gender", r"t.csv:2: expected columns gender and clip_id or subject_id, got path, "
         r"gender. Add clip_id or subject_id"),
        ("clip_id,subject_id,gender\na,P1,f\n,,f\n", "gender", r"t.csv:3: expected a clip_id or subject_id, got "
         r"empty cells. Correct the table"),
        ("clip_id,gender\na,f\na,m\n", "gender", r"t.csv:3: expected one gender for a, got f and m"),
        ("", "gender", r"t.csv: expected rows, got none"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_read_is_refused(text: str, by: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        Grouping.of(by, tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", 'clip_id,note,gender\na,"two\nlines",f\n'),
        ("t.jsonl", '{"clip_id": "a", "note": "\u2028", "gender": "f"}\n'),
    ],
)
def test_a_cell_may_have_line_breaks(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert Grouping.of("gender", tmp_path / name).group(Clip("a")) == "f"


def test_groups_that_nobody_belongs_to_are_refused(scored: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("clip_id,gender\nother,f\n")
    with pytest.raises(InputError, match=r"t.csv: the gender of no scored clip is known. Look at its ids"):
        evaluate(scored[0], by="gender", groups=tmp_path / "t.csv")
    with pytest.raises(InputError, match="groups: it is a table of groups, and by names no column"):
        evaluate(scored[0], groups=tmp_path / "t.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"expected a table, as CSV or JSONL, got"):
        Grouping.of("gender", tmp_path / "bytes.csv")
    with pytest.raises(
        InputError, match=r"groups: expected a table with the column gender, got none. Pass the manifest"
    ):
        Grouping.of("gender")
    cache, labels = make_cache(tmp_path, num_clips=4, seconds=2)
    model = SAGE.from_run(scored[0], scored=False)
    with pytest.raises(InputError, match=r"subject: the subject of no scored clip is known. Name subjects"):
        evaluate(model, cache=cache, labels=labels, by="subject")


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_line_prints_a_row_for_each_group(scored: tuple[Path, Path]) -> None:
    lines = run("eval", scored[0], "--by", "gender", "--groups", scored[1]).stdout.splitlines()
    start = lines.index("by gender (raw)")
    rows = [line.split() for line in lines[start + 1 : start + 4]]
    assert all("clips," in row and "labels" in row for row in rows[:2])
    few = [line for line in lines if line.endswith("too few clips for an interval")]
    assert all(int(line.split(" clips,")[0].split()[-1]) < MIN_CLIPS for line in few)
    values = json.loads(run("eval", scored[0], "--by", "subject", "--json").stdout)["groups"]
    assert values["by"] == "subject"
    assert values["groups"][0]["interval"]["mean"] == [None, None]
    for arguments in (("--groups", scored[1]), ("--by", "subject", "--robustness")):
        assert run("eval", scored[0], *arguments).exit_code == 2
