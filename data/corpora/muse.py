"""MuSe (MuSe-CaR, Wilder, Stress) as its challenges release it: one label file per target, and a partition table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import InputError
from ..manifest import Source
from .base import ListedClip, ListedCorpus, PublishedCorpus, attempt
from .disk import Disk, one_recording, recordings
from .readers import TARGETS, labelled, read_targets
from .tables import header_of, read_table

TIME = ("timestamp", 1000.0)  # milliseconds
PARTS = {"train": "train", "devel": "val", "test": "test"}


class MuSe(PublishedCorpus):
    """MuSe (Stappen et al., arXiv 2004.14858 and its later challenges).

    Labels are `valence/ID.csv` and `arousal/ID.csv` with `timestamp,value,segment_id`, milliseconds; the split is
    `partition.csv` with `Id,Proposal`, train, devel or test.
    """

    title = "MuSe (Stappen et al., arXiv 2101.06053)"
    licence = "MuSe EULA: non-commercial research, not to be passed on"
    subjects = "not in these files; clips of one recording are kept together"

    def read(self, disk: Disk) -> ListedCorpus:
        parts = _partition(disk)
        files = target_files(disk)
        lacking = [target for target in TARGETS if not files[target]]
        if lacking:
            todo = "Unpack the labels below this folder; valence and arousal are needed."
            raise InputError(disk.root, f"no folder {lacking[0]} of .csv files with timestamp,value", todo=todo)
        media = recordings(disk)
        names = sorted({*parts, *files["valence"], *files["arousal"]}, key=lambda name: (len(name), name))
        return ListedCorpus([self._clip(name, parts, files, media) for name in names])

    def _clip(
        self,
        name: str,
        parts: Mapping[str, str],
        files: Mapping[str, Mapping[str, Path]],
        media: Mapping[str, list[Path]],
    ) -> ListedClip:
        problems: list[str] = [] if name in parts else ["not in partition.csv"]
        source = Source(name, path=attempt(problems, name, lambda: one_recording(media, name)))
        paths = {target: own[name] for target, own in files.items() if name in own}
        if not paths and parts.get(name) == "test":
            return ListedClip(source, part="test", problems=tuple(problems))
        return labelled(source, parts.get(name), problems, lambda: read_targets(name, paths, self.gold, TIME))


def target_files(disk: Disk) -> dict[str, dict[str, Path]]:
    """Returns target -> clip -> its label file, in folders named after the target."""
    files: dict[str, dict[str, Path]] = {target: {} for target in TARGETS}
    for path in disk.texts:
        target = path.parent.name.lower()
        if target in files and path.suffix.lower() == ".csv" and {"timestamp", "value"} <= set(header_of(path)):
            other = files[target].setdefault(path.stem, path)
            if other != path:
                todo = "Give a folder that holds one of them, or move the other one away."
                raise InputError(disk.root, f"two releases of the labels: {other.parent} and {path.parent}", todo=todo)
    return files


def _partition(disk: Disk) -> dict[str, str]:
    """Returns clip -> part.

    Raises:
        InputError: if there is no partition table, or a part has another name.
    """
    tables = [path for path in disk.texts if path.name.lower() == "partition.csv"]
    if len(tables) != 1:
        todo = "Give the folder of one challenge, with its metadata."
        raise InputError(disk.root, expected="one partition.csv", got=str(len(tables)), todo=todo)
    table = read_table(tables[0])
    columns = {name.lower(): name for name in table.names}
    if not {"id", "proposal"} <= set(columns):
        got = ", ".join(table.names)
        raise InputError(f"{tables[0]}:1", expected="columns Id, Proposal", got=got, todo="Get the file again.")
    parts: dict[str, str] = {}
    proposals = zip(table.texts(columns["id"]), table.texts(columns["proposal"]), table.lines, strict=True)
    for name, proposal, line in proposals:
        if proposal.lower() not in PARTS:
            todo = "Correct the row."
            raise InputError(f"{tables[0]}:{line}", expected="train, devel or test", got=repr(proposal), todo=todo)
        parts[name] = PARTS[proposal.lower()]
    return parts
