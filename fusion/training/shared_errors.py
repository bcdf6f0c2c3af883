"""Out-of-fold errors that runs share, in a folder beside them: one cross-fit per seed and fold.

    KEY.safetensors is there: read
    it is absent: lock KEY.lock; where another process has made it meanwhile: read
                                 else: cross-fit, write KEY.safetensors whole, unlock

The lock ends with its process, so a killed one leaves nothing behind that others would wait for. KEY is a hash of
everything that decides the errors; on a disk without locks the same errors may be computed twice.
"""

from __future__ import annotations

import fcntl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...data.atomic import locked, make_folder
from ...data.hashing import json_sha256
from ...data.tensor_file import DamagedTensorsError, load_tensors, save_tensors
from ...data.windows.corpus import Corpus
from ..config import Config
from ..provenance import versions
from .crossfit import crossfit_config, out_of_fold_errors
from .labelled import crossfit_folds, labels_sha256
from .trainer import Log


@dataclass(frozen=True)
class SharedErrors:
    """The folder of errors that runs on one set of labelled clips share.

    Args:
        folder: made when it is needed.
        features: hash of the features of each stream, as `Labelled.features`.
        device: where errors are computed, such as `cuda:1`.
    """

    folder: Path
    features: Mapping[str, str]
    device: str

    def key(self, corpus: Corpus, training: Sequence[int], config: Config) -> str:
        """Returns the hash of everything that decides the errors of a run.

        Raises:
            InputError: if all training clips belong together, so that there are no such errors.
        """
        clip_ids = [clip.clip_id for clip in corpus.clips]
        probes = crossfit_config(config).model_dump(mode="json", exclude={"split"})
        del probes["data"]["streams"]  # names and aliases; which streams they mean is in `features`
        return json_sha256(
            {
                "features": [[stream.name, self.features[stream.name]] for stream in corpus.streams],
                "labels": labels_sha256(corpus),
                "training": [clip_ids[index] for index in training],
                "folds": [[clip_ids[index] for index in fold] for fold in crossfit_folds(corpus, training, config)],
                "probes": probes,
                "device": self.device.split(":")[0],
                "versions": versions(),
            }
        )

    def has(self, key: str) -> bool:
        """Returns True if errors are there."""
        return self._path(key).exists()

    def in_work(self, key: str) -> bool:
        """Returns True if a process computes them at this moment."""
        if not (lock := self._path(key).with_suffix(".lock")).exists():
            return False
        with locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB) as free:
            return not free

    def __call__(self, corpus: Corpus, training: list[int], config: Config, log: Log) -> Tensor:
        """Returns `out_of_fold_errors`, from the folder if they are there; waits for a process that computes them."""
        key = self.key(corpus, training, config)
        path = self._path(key)
        errors = _read(path)
        if errors is None:
            make_folder(self.folder)
            with locked(path.with_suffix(".lock"), fcntl.LOCK_EX):
                errors = _read(path)
                if errors is None:
                    errors = out_of_fold_errors(corpus, training, config, log)
                    save_tensors(path, {"errors": errors})
        return errors.to(corpus.device)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def _read(path: Path) -> Tensor | None:
    """Returns the errors in a file; None where there is none, or a damaged one."""
    try:
        return load_tensors(path)[0]["errors"]
    except (OSError, KeyError, DamagedTensorsError):
        return None
