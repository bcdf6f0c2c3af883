"""The documentation is true: its commands run, its Python runs, its links, options and file names exist.

How a page is read (`tests/pages.py`):

- Every fenced block runs, page by page and in order, in a folder of its own that holds `videos/` (six drawn
  recordings), `new-videos/` (one of them), `labels/` and `voice/` (an audio encoder). In shell blocks the lines that
  begin with `sage-va` (after an optional `$ `) run; `make`, `pip`, `python benchmarks/…`, `srun` and `accelerate` lines
  are checked, not run. Python blocks of a page share one namespace. A block whose first line is `# name.py` (or .yaml,
  .toml, .json) is written to that file instead, before anything runs.
- Notes, as HTML comments in the line before a block; with `page` in front they stand anywhere and hold for all blocks
  of the page that have no note of their own:
      <!-- not run: needs a cluster -->              the commands are only parsed, the Python only compiled
      <!-- run by: tests/test_api.py -->             that test reads the page and runs its blocks
      <!-- page starts with: cache.zarr, runs/first -->   these exist already (an extracted cache, a trained run)
- Stand-ins make a run short and need no network: `--visual` and `--audio` get small untrained encoders, `--faces` is
  left out, `train`, `compare` and `sweep` get a small configuration and few seeds, folds and trials, and
  `s3://bucket/name` becomes `name.packs`.
- A page that starts with `Aff-Wild2` or `MuSe` gets the miniature of that corpus, with tiny media, and its split.
- Inline code that begins with `sage-va`, or with a verb and an option, is parsed; a `…` may stand for what is left out.
  Inline options (`--json`) must belong to some command. Inline file names must exist, or be shown by a block of the
  page.
- Pages of history (`HISTORY`) may name commands and files of the past; their links are checked.
"""

import ast
import importlib
import importlib.util
import json
import re
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from sage_va.cli import main
from sage_va.data.store.base import is_cache
from sage_va.tests.corpora import fill_with_media, write_affwild2, write_muse
from sage_va.tests.pages import (
    HISTORY,
    NOTE,
    PAGES,
    ROOT,
    Block,
    blocks_of,
    options,
    parse,
    prose_of,
    sage_va_arguments,
    spans_of,
)

READERS = {"python": ast.parse, "toml": tomllib.loads, "yaml": yaml.safe_load, "json": json.loads}
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
PRESENT = [page for page in PAGES if page.relative_to(ROOT).as_posix() not in HISTORY]


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


BLOCKS = [block for page in PRESENT for block in blocks_of(page)]


def problems(check: Callable[[Any], Any], cases: Iterator[tuple[str, Any]]) -> list[str]:
    """One line for each case that a check refuses."""
    lines = []
    for place, case in cases:
        try:
            check(case)
        except Exception as error:
            message = error.format_message() if isinstance(error, click.ClickException) else str(error)
            lines.append(f"{place}: {case}: {type(error).__name__}: {message}")
    return lines


def test_fenced_commands_parse() -> None:
    assert not problems(check_command, ((str(block), words) for block in BLOCKS for words in block.commands()))


def check_command(words: list[str]) -> None:
    """Parses a `sage-va` command; of other programs checks targets, extras, and files and options of benchmarks."""
    arguments = sage_va_arguments(words)
    if arguments is not None:
        parse(arguments)
    elif words[0] == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
        assert {word for word in words[1:] if "=" not in word} <= targets, f"targets are {sorted(targets)}"
    elif words[0] == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
            "optional-dependencies"
        ]
        named = {extra for group in re.findall(r"\[([\w,-]+)\]", " ".join(words)) for extra in group.split(",")}
        assert named <= set(extras), f"extras are {sorted(extras)}"
    elif words[0] == "python" and words[1].endswith(".py"):
        text = (ROOT / words[1]).read_text(encoding="utf-8")
        assert not [word for word in words[2:] if word.startswith("--") and f'"{word.split("=")[0]}"' not in text]


def test_inline_commands_parse() -> None:
    verbs = set(main.list_commands(click.Context(main)))

    def cases() -> Iterator[tuple[str, list[str]]]:
        for page in PRESENT:
            for place, text in spans_of(page):
                words = text.split()
                if words[0] == "sage-va" and len(words) > 1:
                    yield place, [*words[1:], "…"]
                elif words[0] in verbs and any(word.startswith("--") for word in words):
                    yield place, [*words, "…"]

    assert not problems(parse, cases())


def test_inline_options_exist() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py")]
    known = options().union(*map(OPTION.findall, texts))
    offences = []
    for page in PRESENT:
        shown = known.union(*(OPTION.findall(block.text) for block in blocks_of(page)))
        spans = ((place, text, OPTION.match(text)) for place, text in spans_of(page))
        offences += [f"{place}: {text}" for place, text, option in spans if option and option[0] not in shown]
    assert not offences


def test_inline_file_names_exist() -> None:
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir()}
    names = {path.name for path in ROOT.rglob("*.py")}
    offences = []
    for page in PRESENT:
        shown = {block.file_name for block in blocks_of(page)}
        for place, text in spans_of(page):
            is_path = re.fullmatch(r"[\w.-]+(?:/[\w.-]+)+/?", text) and text.split("/")[0] in rooms
            is_module = re.fullmatch(r"[\w-]+\.py", text)
            if (is_path and not (ROOT / text).exists()) or (is_module and text not in names | shown):
                offences.append(f"{place}: {text}")
    assert not offences


def test_blocks_of_code_and_settings_can_be_read() -> None:
    cases = ((str(block), block) for block in BLOCKS if block.language in READERS)
    assert not problems(lambda block: READERS[block.language](block.text), cases)


def test_imports_in_blocks_exist() -> None:
    def cases() -> Iterator[tuple[str, tuple[str, str | None]]]:
        for block in BLOCKS:
            for node in ast.walk(ast.parse(block.text)) if block.language == "python" else ():
                if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    yield from ((str(block), (node.module, alias.name)) for alias in node.names)
                elif isinstance(node, ast.Import):
                    yield from ((str(block), (alias.name, None)) for alias in node.names)

    shown = {name.removesuffix(".py") for block in BLOCKS if (name := block.file_name)}
    assert not problems(check_import, ((place, case) for place, case in cases() if case[0] not in shown))


def check_import(case: tuple[str, str | None]) -> None:
    module, name = case
    if module.split(".")[0] != "sage_va":
        assert importlib.util.find_spec(module.split(".")[0]), "not installed"
    elif name and not hasattr(importlib.import_module(module), name):
        importlib.import_module(f"{module}.{name}")


def test_links_and_anchors_exist() -> None:
    offences = []
    for page in PAGES:
        prose = prose_of(page)
        for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)[^)]*\)", prose) + re.findall(r'(?:src|href)="([^"]+)"', prose):
            if not re.match(r"[a-z]+:", target):
                name, _, anchor = target.partition("#")
                place = (page.parent / name).resolve() if name else page
                if not place.exists() or (anchor and anchor not in anchors_of(place)):
                    offences.append(f"{page_id(page)}: {target}")
    assert not offences


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts and site generators both make them."""
    headings = re.findall(r"^#+ +(.+?) *$", prose_of(page), re.M)
    explicit = re.findall(r'id="([^"]+)"', prose_of(page))
    return {*explicit, *(re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings)}


def test_notes_name_tests_that_read_the_page() -> None:
    offences = []
    for page in PAGES:
        for match in NOTE.finditer(page.read_text(encoding="utf-8")):
            if match["kind"] == "run by":
                test = ROOT / match["text"]
                if not (test.is_file() and page.name in test.read_text(encoding="utf-8")):
                    offences.append(f"{page_id(page)}: {match[0]}")
    assert not offences


# Running the pages

CONFIG = {
    "data": {"window_s": 8, "hop_s": 4, "grid_hz": 5},
    "split": {"by": "clip"},
    "model": {"dim": 16, "heads": 2, "tcn_blocks": 1, "layers": 1},
    "train": {"epochs": 2, "batch_size": 8, "crossfit_epochs": 1, "crossfit_folds": 2},
}
MINIATURES = {"Aff-Wild2": write_affwild2, "MuSe": write_muse}
AT_MOST = {"--seeds": 1, "--folds": 3, "--trials": 2}


@pytest.fixture(scope="session")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that every page starts from, with what `page starts with` can ask for."""
    for package in ("av", "timm", "transformers"):
        pytest.importorskip(package)
    from sage_va.demo.corpus import draw_corpus
    from sage_va.tests.encoders import write_wav2vec2

    folder = tmp_path_factory.mktemp("scenario")
    draw_corpus(folder, num_clips=6, seconds=4, fps=5, size=64, num_subjects=6)
    (folder / "media").rename(folder / "videos")
    (folder / "new-videos").mkdir()
    shutil.copy(min((folder / "videos").glob("*.mp4")), folder / "new-videos")
    write_wav2vec2(folder / "voice", weights=True)
    (folder / "small.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(["extract", "videos/", "--out", "cache.zarr", "--visual", "any", "--audio", "any"])
        run(["train", "cache.zarr", "--labels", "labels/", "--out", "runs/first"])
    return folder


def run(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, with_stand_ins(arguments))
    assert result.exit_code == 0, f"sage-va {' '.join(arguments)}\n{result.output}\n{result.exception!r}"


def with_stand_ins(arguments: list[str]) -> list[str]:
    """The command with small encoders, a small configuration and few rounds."""
    words = [re.sub(r"^s3://bucket/([\w-]+)$", r"\1.packs", word) for word in arguments]
    for option, limit in AT_MOST.items():
        if option in words:
            place = words.index(option) + 1
            words[place] = str(min(limit, int(words[place])))
    for option, encoder in (("--visual", "test_resnet.r160_in1k"), ("--audio", "voice")):
        if option in words:
            words[words.index(option) + 1] = encoder
    if "--visual" in words and words[0] == "extract":
        words += ["--visual-weights", "random"]
    if "--faces" in words and words[words.index("--faces") + 1] == "detect":  # the drawn faces fill the picture
        del words[words.index("--faces") : words.index("--faces") + 2]
    if words[0] in {"train", "compare", "sweep"} and "--config" not in words:
        words += ["--config", "small.yaml"]
    if words[0] == "predict" and "--audio" not in words and not any(map(is_cache, words[2:])):
        words += ["--audio", "voice"]
    return words


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks_of(page) if not re.match(r"<!--\s*(page )?(not run|run by)", block.note)]


def starts_with(page: Path) -> set[str]:
    notes = NOTE.finditer(page.read_text(encoding="utf-8"))
    return {name.strip() for match in notes if match["kind"] == "starts with" for name in match["text"].split(",")}


QUICK = {"README.md"}
RUNNABLE = [
    pytest.param(page, id=page_id(page), marks=() if page_id(page) in QUICK else pytest.mark.slow)
    for page in PRESENT
    if any(any(block.commands()) or block.language == "python" for block in runnable(page))
]


@pytest.mark.parametrize("page", RUNNABLE)
def test_page_runs(page: Path, scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "page"
    shutil.copytree(scenario, folder)
    for name in {"cache.zarr", "runs/first"} - starts_with(page):
        shutil.rmtree(folder / name)
    for name in starts_with(page) & MINIATURES.keys():
        fill_with_media(MINIATURES[name](folder / name))
        (folder / "small.yaml").write_text(
            yaml.safe_dump({**CONFIG, "split": {}}), encoding="utf-8"
        )  # the official one
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    for block in runnable(page):
        if block.file_name:
            Path(block.file_name).write_text(block.text, encoding="utf-8")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in runnable(page):
        if block.language == "python" and not block.file_name:
            exec(compile(block.text, str(block), "exec"), namespace)
        for words in block.commands():
            if words[0] == "sage-va":
                run(words[1:])
