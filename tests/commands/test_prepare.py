"""`sage-va prepare`: what it prints, its exit code, the commands it hands on, and corpora that packages add."""

import json
import shlex
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sage_va.cli import main
from sage_va.data import plugins
from sage_va.data.corpora.affwild2 import AffWild2
from sage_va.data.corpora.base import ListedClip, ListedCorpus, PublishedCorpus, corpus_names, find_corpus
from sage_va.data.corpora.disk import Disk
from sage_va.data.manifest import Source
from sage_va.tests.corpora import write, write_affwild2, write_muse, write_recola
from sage_va.tests.pages import ROOT, blocks_of, parse


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    """The miniatures hold empty recordings."""
    monkeypatch.setattr("sage_va.commands.prepare._header_of", lambda: lambda path: (10, True))


def test_the_report_of_aff_wild2(tmp_path: Path) -> None:
    write_affwild2(tmp_path / "Aff-Wild2")
    result = run("prepare", "affwild2", tmp_path / "Aff-Wild2", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[:6] == [
        "Aff-Wild2 (Kollias and Zafeiriou, arXiv 1811.07770): 11 clips (6 train, 3 val, 2 test), 11 with media",
        "91 label rows, 9.9 % of them not annotated",
        "99 crops; 11 frames have none, most of them 1-30-1280x720: 1",
        "subjects: not published; the persons of one recording are kept together",
        f"licence: {AffWild2.licence}, restricted: caches, copies and models of it are marked",
        "- label rows differ from frames, by one row, 1 clips (1-30-1280x720: 11 rows, 10 frames by the header)",
    ]


def test_the_commands_that_follow_can_be_pasted(tmp_path: Path) -> None:
    write_affwild2(tmp_path / "corpus")
    out = tmp_path / "out folder"
    lines = run("prepare", "affwild2", tmp_path / "corpus", "--out", out).stdout.splitlines()
    commands = [shlex.split(line) for line in lines[lines.index("next:") + 1 :]]
    verbs = ["extract", "sync-check", "train", "eval", "submission", "submission"]
    assert [words[:2] for words in commands] == [["sage-va", verb] for verb in verbs]
    for words in commands:
        parse(words[1:])
    extract = commands[0]
    assert extract[2] == str(out / "manifest.csv")
    assert extract[extract.index("--faces") + 1] == "crops"


def test_sound_beside_silent_videos_is_extracted_by_a_command_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sage_va.commands.prepare._header_of", lambda: lambda path: (100, False))
    write_recola(tmp_path / "corpus")
    text = run("prepare", "recola", tmp_path / "corpus", "--out", tmp_path / "out").stdout
    assert "3 videos without sound; their audio files are extracted by audio.csv" in text
    first, second = [shlex.split(line) for line in text.splitlines() if line.startswith("  sage-va extract")]
    assert ("--audio" in first, "--visual" in second) == (False, False)
    assert second[2] == str(tmp_path / "out/audio.csv")
    parse(second[1:])


def test_json_and_a_dry_run(tmp_path: Path) -> None:
    write_affwild2(tmp_path / "corpus")
    result = run("prepare", "affwild2", tmp_path / "corpus", "--out", tmp_path / "out", "--dry-run", "--json")
    report = json.loads(result.stdout)
    assert (report["restricted"], report["num_sources"], report["out"], report["num_problems"]) == (True, 11, None, 0)
    assert {clip["part"] for clip in report["clips"]} == {"train", "val", "test"}
    assert not (tmp_path / "out").exists()
    run("prepare", "affwild2", tmp_path / "corpus", "--out", tmp_path / "out")
    written = json.loads((tmp_path / "out/prepared.json").read_text())
    assert {**written, "out": None} == report


def test_problems_are_printed_and_make_the_exit_code(tmp_path: Path) -> None:
    write_affwild2(tmp_path / "corpus")
    (tmp_path / "corpus/batch2/28-30-1280x720-2.mp4").unlink()
    result = run("prepare", "affwild2", tmp_path / "corpus", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "! 28-30-1280x720-2: no recording. Unpack it below the folder" in result.stdout
    assert "10 with media" in result.stdout
    assert "next:" in result.stdout


def test_agreement_is_printed(tmp_path: Path) -> None:
    write_recola(tmp_path / "corpus", individual=True)
    result = run("prepare", "recola", tmp_path / "corpus", "--out", tmp_path / "out", "--gold", "ewe")
    line = (
        "agreement of 6 annotators, valence: CCC 0.922 (mean over pairs and clips), Cronbach's alpha 0.996; gold: ewe"
    )
    assert line in result.stdout


def test_agreement_that_is_not_defined_is_null(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4")
    for target in ("valence", "arousal"):
        write(tmp_path / target / "a.csv", "time_s,A,B\n0,0.1,0.1\n1,0.1,0.1\n")
    report = json.loads(run("prepare", "folder", tmp_path, "--out", tmp_path / "out", "--json").stdout)
    assert report["agreement"]["valence"] == {"num_annotators": 2, "ccc": None, "alpha": None}


def test_without_pyav_frames_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sage_va.commands.prepare._header_of", lambda: None)
    write_affwild2(tmp_path / "corpus")
    result = run("prepare", "affwild2", tmp_path / "corpus", "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0
    assert {clip["num_frames"] for clip in json.loads(result.stdout)["clips"]} == {None}


def test_faults_are_one_line(tmp_path: Path) -> None:
    result = run("prepare", "afwild2", tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr == "Error: corpus afwild2: expected a known corpus, got 'afwild2'. Did you mean affwild2?\n"
    write_muse(tmp_path / "corpus")
    write(tmp_path / "out/mine.txt")
    result = run("prepare", "muse", tmp_path / "corpus", "--out", tmp_path / "out")
    assert result.stderr.endswith("out: there are files already. Choose another --out, or remove it.\n")


def test_the_folder_that_one_is_in_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_muse(tmp_path / "corpus")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    result = run("prepare", "muse", "../corpus", "--out", ".")
    assert result.stderr == "Error: .: a new folder is made, and this one is there. Name another --out.\n"


class Interviews(PublishedCorpus):
    """A corpus of a package: one clip per recording."""

    title = "Interviews"
    licence = "CC-BY-4.0"
    restricted = False
    subjects = "one person per recording"

    def read(self, disk: Disk) -> ListedCorpus:
        return ListedCorpus([ListedClip(Source(path.stem, path=path, subject_id=path.stem)) for path in disk.videos])


class NoCorpus:
    """Something else."""


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"interviews": f"{__name__}:Interviews", "broken": "json:dumps", "other": f"{__name__}:NoCorpus"}
    points = EntryPoints(EntryPoint(name, value, "sage_va.corpora") for name, value in values.items())
    monkeypatch.setattr(plugins, "entry_points", points.select)
    monkeypatch.setattr(EntryPoint, "load", lambda point: {**globals(), "dumps": json.dumps}[point.value.split(":")[1]])


@pytest.mark.usefixtures("added")
def test_a_package_adds_a_corpus_in_one_file(tmp_path: Path) -> None:
    assert corpus_names()[-3:] == ["broken", "interviews", "other"]
    write(tmp_path / "corpus/anna.mp4")
    result = run("prepare", "interviews", tmp_path / "corpus", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out/manifest.csv").read_text() == "clip_id,path,subject_id\nanna,../corpus/anna.mp4,anna\n"
    assert "licence: CC-BY-4.0\n" in result.stdout
    assert find_corpus("affwild2").__name__ == "AffWild2"


def test_the_example_of_the_manual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = [block for block in blocks_of(ROOT / "docs/corpora.md") if block.file_name == "interviews.py"]
    namespace: dict[str, Any] = {}
    exec(block.text, namespace)
    monkeypatch.setattr("sage_va.data.corpora.base._own", lambda: {"interviews": namespace["Interviews"]})
    write(tmp_path / "corpus/anna-1.mp4")
    write(tmp_path / "corpus/anna-1.csv", "time_s,valence,arousal\n0,0.1,0.2\n")
    write(tmp_path / "corpus/ben-1.mp4")
    write(tmp_path / "corpus/ben-1.csv", "time_s,valence,arousal\n0,high,0.2\n")
    result = run("prepare", "interviews", tmp_path / "corpus", "--out", tmp_path / "out")
    assert "ben-1.csv:2: expected a number in column valence, got 'high'" in result.stdout
    assert (tmp_path / "out/manifest.csv").read_text().splitlines() == [
        "clip_id,path,subject_id,language",
        "anna-1,../corpus/anna-1.mp4,anna,en",
        "ben-1,../corpus/ben-1.mp4,ben,en",
    ]
    assert [path.name for path in (tmp_path / "out/labels").iterdir()] == ["anna-1.csv"]


@pytest.mark.usefixtures("added")
@pytest.mark.parametrize("name", ["broken", "other"])
def test_an_entry_point_that_is_no_corpus_is_refused(tmp_path: Path, name: str) -> None:
    result = run("prepare", name, tmp_path, "--out", tmp_path / "out")
    assert f"corpus {name}: " in result.stderr
    assert "is no subclass of PublishedCorpus. Mend or uninstall an unknown package" in result.stderr


def test_clips_of_one_name_or_of_an_unsafe_one_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def listing(*clip_ids: str) -> None:
        clips = [ListedClip(Source(clip_id, path=tmp_path / "a.mp4")) for clip_id in clip_ids]
        monkeypatch.setattr(Interviews, "read", lambda self, disk: ListedCorpus(clips))
        monkeypatch.setattr("sage_va.data.corpora.base._own", lambda: {"interviews": Interviews})

    listing("a", "a")
    result = run("prepare", "interviews", tmp_path, "--out", tmp_path / "out")
    assert result.stderr == "Error: a: the corpus has two clips of this name. Remove one, or rename it.\n"
    listing("../a")
    result = run("prepare", "interviews", tmp_path, "--out", tmp_path / "out")
    assert "this name leads out of" in result.stderr
    assert not (tmp_path / "out").exists()


def test_crops_are_listed_and_never_opened(tmp_path: Path) -> None:
    """Crops are links that lead nowhere: opening one would fail."""
    write_affwild2(tmp_path / "corpus")
    for crop in (tmp_path / "corpus").rglob("*.jpg"):
        crop.unlink()
        crop.symlink_to("nowhere")
    result = run("prepare", "affwild2", tmp_path / "corpus", "--out", tmp_path / "out")
    assert (result.exit_code, "99 crops; 11 frames have none" in result.stdout) == (0, True)
