"""IEMOCAP as its authors release it: five sessions of dialogues, each turn rated as a whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..labels import Labels
from ..manifest import Source
from .base import ListedClip, ListedCorpus, PublishedCorpus, attempt
from .disk import Disk, one_recording, recordings
from .readers import Rated, instants, labelled

_DIALOGUE = re.compile(r"Ses(\d\d)[FM]_(?:impro|script)\d\d(?:_\d)?[a-z]?")
_TURN = re.compile(
    r"\[\s*(?P<start>[\d.]+)\s*-\s*(?P<end>[\d.]+)\s*\]\s+(?P<turn>\S+)\s+\S+\s+"
    r"\[\s*(?P<valence>[\d.]+)\s*,\s*(?P<arousal>[\d.]+)\s*,\s*[\d.]+\s*\]"
)
_NAMES = {"F": "female", "M": "male"}


class Iemocap(PublishedCorpus):
    """IEMOCAP (Busso et al., 2008), from `dialog/EmoEvaluation/NAME.txt`.

    A clip is one of the two speakers of a dialogue, `NAME#F` or `NAME#M`. The rating of a turn (valence, activation,
    1 to 5, the mean of its raters) holds throughout the turn, on a scale from -1 to 1: (x - 3) / 2. Time between a
    speaker's turns is not annotated. There is no official split; the speakers of a session share its recordings, so
    `split.folds=5` leaves out one session at a time.
    """

    title = "IEMOCAP (Busso et al., 2008)"
    licence = "IEMOCAP release agreement: research, not to be passed on"
    subjects = "ten actors, by session and gender"

    def read(self, disk: Disk) -> ListedCorpus:
        texts = [path for path in disk.texts if _DIALOGUE.fullmatch(path.stem) and path.parent.name == "EmoEvaluation"]
        if not texts:
            todo = "Give the folder that holds Session1 to Session5."
            raise InputError(disk.root, "no folder dialog/EmoEvaluation of .txt files", todo=todo)
        media = recordings(disk)
        clips: list[ListedClip] = []
        for path in sorted(texts, key=lambda path: path.stem):
            problems: list[str] = []
            recording = attempt(problems, path.stem, partial(one_recording, media, path.stem))
            clips += [_clip(path, speaker, recording, problems) for speaker in _NAMES]
        note = "a recording shows both speakers: name the person in the manifest before faces are detected"
        return ListedCorpus(clips, notes=[note, "no official split; split by subject keeps a session together"])


def _clip(path: Path, speaker: str, recording: Path | None, problems: list[str]) -> ListedClip:
    session = _DIALOGUE.fullmatch(path.stem)
    assert session
    source = Source(
        f"{path.stem}#{speaker}",
        path=recording,
        subject_id=f"Ses{session[1]}{speaker}",
        gender=_NAMES[speaker],
        language="en",
    )
    return labelled(source, None, problems, lambda: _ratings(path, speaker))


def _ratings(path: Path, speaker: str) -> Rated:
    own = [(turn, line) for turn, line in _turns(path) if re.search(rf"_{speaker}[A-Z]*\d+$", turn["turn"])]
    if not own:
        raise InputError(path, f"no rated turn of speaker {speaker}", todo="Get the file again, or leave the clip out.")
    spans: dict[str, list[tuple[float, float, float]]] = {"valence": [], "arousal": []}
    for turn, line in own:
        numbers = {name: _number(turn[name], f"{path}:{line}") for name in ("start", "end", *spans)}
        for target, rated in spans.items():
            rated.append((numbers["start"], numbers["end"], (numbers[target] - 3) / 2))
    times_s, va = instants(spans, path)
    return Labels(path, va.astype(np.float32), times_s), {}


def _turns(path: Path) -> Iterator[tuple[re.Match[str], int]]:
    """The turns of both speakers, and the line of each."""
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if line.lstrip().startswith("["):
            turn = _TURN.match(line.lstrip())
            if not turn:
                raise InputError(f"{path}:{number}", f"no rated turn: {line.strip()[:60]!r}", todo="Correct the row.")
            yield turn, number


def _number(cell: str, place: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise InputError(place, expected="a number", got=repr(cell[:60]), todo="Correct the row.") from None
