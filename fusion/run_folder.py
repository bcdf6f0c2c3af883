"""A run on disk: `model.safetensors` (the epoch that is kept), `config.json`, the resolved YAML, the split, its origin.

While it is trained, `last.safetensors` and `errors.safetensors` hold what it takes to go on.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..data.atomic import PART, replacing, write_text
from ..data.crops import CropTemplate, template_of
from ..data.errors import InputError
from ..data.store.base import Store
from ..data.tensor_file import load_tensors, save_tensors
from ..data.windows.corpus import Stream
from ..data.windows.memmap_cache import address_of
from ..data.windows.splits import Role, read_split
from .config import Config, check_config, load_config
from .models.base import VAModel
from .models.size import check_size
from .models.variants import build_model
from .provenance import provenance

MODEL, CONFIG, RESOLVED, SPLIT, METRICS, TABLE, TRACKERS, LAST, ERRORS = (
    "model.safetensors",
    "config.json",
    "config.yaml",
    "split.csv",
    "metrics.jsonl",
    "metrics.csv",
    "trackers.json",
    "last.safetensors",
    "errors.safetensors",
)
SPLIT_PART, RESOLVED_PART = f"{PART}{SPLIT}", f"{PART}{RESOLVED}"
UNFINISHED = (
    LAST,
    ERRORS,
    *(f"{PART}{name}" for name in (SPLIT, RESOLVED, LAST, ERRORS, MODEL, CONFIG, METRICS, TABLE, TRACKERS)),
)
OF_A_RUN = {RESOLVED, SPLIT, METRICS, TABLE, TRACKERS, MODEL, *UNFINISHED}
ORIGIN = ("cache", "labels", "licence", "restricted", "smoothing_s", "sigma")


@dataclass(frozen=True)
class Run:
    """A finished run, loaded.

    model on its device in evaluation mode; config; streams it takes; roles clip_id -> train, val or test; cache and
    labels as given at training time; terms of use of the cache; smoothing_s chosen on the validation clips; sigma of
    equation (15), the error at which the target of the reliability is 1 / e, None where no gate was trained.
    crop_template: of the crops that it takes; None where it takes none.
    """

    path: Path
    model: VAModel
    config: Config
    streams: list[Stream]
    roles: Mapping[str, Role]
    cache: str
    labels: str
    licence: str | None
    restricted: bool
    smoothing_s: float
    sigma: float | None
    crop_template: CropTemplate | None = None

    @property
    def scored_split(self) -> Role:
        """The part of its clips that it is scored on: test, or val where there is no test."""
        return "test" if "test" in self.roles.values() else "val"

    @property
    def random_weights(self) -> list[str]:
        """Names of the streams whose encoder was never trained."""
        return [stream.name for stream in self.streams if stream.random_weights]


def check_new(out: Path) -> None:
    """Checks that the place of a run is free; runs are never overwritten.

    Raises:
        InputError: if it is not.
    """
    if any((run / SPLIT).exists() and not (run / CONFIG).exists() for run in (out, *fold_runs(out))):
        todo = "Resume it with `train --resume`, or choose another --out."
        raise InputError(out, expected="a new folder", got="an unfinished run", todo=todo)
    names = {file.name for file in out.iterdir()} if out.is_dir() else set[str]()
    if SPLIT_PART in names and names <= {SPLIT_PART, RESOLVED_PART, RESOLVED}:  # killed as it began
        return
    if names or out.is_file():
        raise InputError(out, expected="a new folder", got="one with files in it", todo="Choose another --out.")


def origin_of(store: Store, labels: Path) -> dict[str, Any]:
    """Returns the source of the data and their terms of use: the part of `ORIGIN` that is known before training."""
    terms = store.root()
    return {
        "cache": address_of(store),
        "labels": str(labels.resolve()),
        "licence": terms["licence"],
        "restricted": terms["restricted"],
    }


def start_run(out: Path, config: Config, roles: Mapping[str, Role]) -> None:
    """Makes the folder of a run, which must be new, with its configuration and split."""
    check_new(out)
    try:
        with replacing(out / SPLIT) as part:
            with part.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([("clip_id", "split"), *sorted(roles.items())])
            write_text(out / RESOLVED, config.to_yaml())
    except BaseException:
        (out / RESOLVED).unlink(missing_ok=True)
        raise


def finish_run(out: Path, model: VAModel, config: Config, origin: Mapping[str, Any]) -> None:
    """Writes the weights, then `config.json`, which marks the run as finished.

    Args:
        origin: what `Run` keeps under the names of `ORIGIN`, and what else is to be known; `provenance`
            as of the start of the training, else of now.
    """
    save_tensors(out / MODEL, model.state_dict())
    template = template_of(stream.fingerprint for stream in model.streams)
    described = {
        "config": config.model_dump(mode="json"),
        "streams": [asdict(stream) for stream in model.streams],
        "crop_template": template and template.to_json(),
        **({} if "versions" in origin else provenance()),
        **origin,
    }
    write_json(out / CONFIG, described)
    for name in UNFINISHED:
        (out / name).unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Makes or replaces a file of a run, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False))


def begun(config: Config, out: Path) -> bool:
    """Returns True if the folder holds a run of this configuration, finished or not.

    Raises:
        InputError: if it holds a run of another configuration, or something else.
    """
    if not (out / SPLIT).exists():
        check_new(out)
        return False
    kept = load_config(out / RESOLVED).flat()
    for key, value in config.flat().items():
        if kept[key] != value:
            todo = "Give the settings that it began with, or choose another --out."
            raise InputError(out, expected=f"a run of {key} = {value}", got=f"one of {kept[key]}", todo=todo)
    return True


def load_run(path: Path, device: torch.device | str = "cpu") -> Run:
    """Loads a finished run.

    Raises:
        InputError: if the folder is not one, or its weights do not fit its configuration.
    """
    if not (path / CONFIG).exists():
        got, todo = "none", "Train one with `sage-va train`, or wait until it is done."
        if folds := fold_runs(path):
            got, todo = f"{len(folds)} folds", f"Name one of them, such as {folds[0]}."
        raise InputError(path, expected="the folder of a finished run", got=got, todo=todo)
    try:
        described = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        config = check_config(described["config"], str(path / CONFIG))
        streams = [Stream(**{**s, "quality_names": tuple(s["quality_names"])}) for s in described["streams"]]
        check_size(path / MODEL, streams, config.model)
        model = build_model(streams, config.model)
        model.lag_s = config.labels.settled_s
        model.load_state_dict(load_tensors(path / MODEL)[0])
        roles = read_split(path / SPLIT)
        kept = {name: described[name] for name in ORIGIN}
        template = CropTemplate.from_json(described.get("crop_template"))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        got = " ".join(str(error).split())[:200]
        raise InputError(path, expected="a whole run", got=got, todo="Copy it again, or train again.") from None
    return Run(path, model.to(device).eval(), config, streams, roles, **kept, crop_template=template)


def fold_runs(path: Path) -> list[Path]:
    """Returns the runs `fold-0`, `fold-1`, … of a cross-validation run, in order."""
    folders = [folder for folder in path.glob("fold-*") if folder.name[5:].isdigit()]
    return sorted(folders, key=lambda folder: int(folder.name[5:]))
