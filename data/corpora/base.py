"""The contract of a published corpus: a class that turns its folders into clips, one file per corpus.

A package adds one by an entry point of the group `sage_va.corpora`, whose value is a subclass of `PublishedCorpus`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..labels import Labels
from ..manifest import Source
from ..plugins import find_by_name, names_with_added
from .disk import Disk
from .gold import AnnotatorAgreement

GROUP = "sage_va.corpora"


@dataclass(frozen=True)
class ListedClip:
    """One clip of a corpus: where its files are, what its labels are, which part it plays.

    Args:
        source: its name, recording, crops and person; neither recording nor crops where none is there.
        labels: its gold standard; None where there is none, as in a test set.
        part: "train", "val" or "test" in the official split; None where the corpus has no split.
        crops: the numbers of its crops, sorted; None without a crop folder.
        agreement: target -> agreement of its annotators; none where the release has the gold standard alone.
        problems: sentences about what the clip lacks; each makes `prepare` end with exit code 1.
        notes: kind -> detail, of what is odd and harmless.
    """

    source: Source
    labels: Labels | None = None
    part: str | None = None
    crops: NDArray[np.int64] | None = None
    agreement: Mapping[str, AnnotatorAgreement] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ListedCorpus:
    """All clips of a corpus, and sentences about the whole: problems, notes.

    sample: the file that lists the rows of a submission to its challenge; None without one.
    """

    clips: Sequence[ListedClip]
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()
    sample: Path | None = None


class PublishedCorpus(ABC):
    """One corpus, as it lies on disk when the archives of its authors are unpacked.

    A subclass sets the attributes and implements `read`; files are known by their layout and their headers rather than
    by one path, since releases differ in the folders above.

    Attributes:
        title: name and reference.
        licence: terms of use in a few words, recorded in the cache; None where they are not known.
        restricted: True where the data must not be passed on.
        subjects: what is known about the persons shown, in a sentence.
    """

    title: ClassVar[str]
    licence: ClassVar[str | None]
    restricted: ClassVar[bool] = True
    subjects: ClassVar[str]

    def __init__(self, gold: str = "mean") -> None:
        """`gold`: how several annotators become one gold standard, a key of `GOLD_STANDARDS`."""
        self.gold = gold

    @abstractmethod
    def read(self, disk: Disk) -> ListedCorpus:
        """Returns the clips of the corpus.

        Args:
            disk: the files below the folder that the user names.

        Raises:
            InputError: if these are not the files of this corpus. A fault of one clip is one of its problems instead.
        """


def corpus_names() -> list[str]:
    """Returns the names of our own corpora, then of those that packages add."""
    return names_with_added(GROUP, _own())


def find_corpus(name: str) -> type[PublishedCorpus]:
    """Returns the class of a corpus.

    Raises:
        InputError: for an unknown name, or if a package's entry point is no `PublishedCorpus`.
    """
    return find_by_name("corpus", GROUP, _own(), name, _fault)


def _fault(added: Any) -> str | None:
    right = isinstance(added, type) and issubclass(added, PublishedCorpus)
    return None if right else "no subclass of PublishedCorpus"


def _own() -> dict[str, type[PublishedCorpus]]:
    from .affwild2 import AffWild2
    from .avec import Recola, Sewa
    from .folder import Folder
    from .iemocap import Iemocap
    from .muse import MuSe

    return {
        "affwild2": AffWild2,
        "muse": MuSe,
        "recola": Recola,
        "sewa": Sewa,
        "iemocap": Iemocap,
        "folder": Folder,
    }


Result = TypeVar("Result")


def attempt(problems: list[str], clip_id: str, read: Callable[[], Result]) -> Result | None:
    """Returns what `read` returns; where it raises an InputError, None, and the message is a problem of the clip."""
    try:
        return read()
    except InputError as error:
        problems.append(one_line(error, clip_id))
        return None


def one_line(error: InputError, place: Path | str) -> str:
    """Returns the message of a fault for a reader who sees it after its place."""
    return " ".join(error.about(str(place)).split()).rstrip(".")
