"""A report of a fault without names and paths of its author."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import socket
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

QUOTED_PATH = re.compile(r"(?<!\w)(['\"])(?:~|[A-Za-z]:)?[/\\][^'\"]*\1")  # may have spaces
PATH = re.compile(r"(?<![\w./<])(?:~|[A-Za-z]:)?[/\\][^\s:,;'\"()<>]+")
OUR_WORDS = {
    "audio",
    "cache",
    "clip",
    "model",
    "run",
    "runs",
    "sage",
    "sage-va",
    "test",
    "train",
    "val",
    "video",
    "visual",
}  # reveal nothing
REMOTE = re.compile(r"\b(?:s3|gs|hf|https?|icechunk|file)://[^\s,;'\"()<>]+")


def private_names(target: str | None) -> dict[str, str]:
    """Returns names that a report must not hold -> what stands in their place.

    Args:
        target: a cache or a run; its name, and those of its clips, are private.
    """
    host = socket.gethostname()
    names = {str(Path.cwd()): "<folder>", tempfile.gettempdir(): "<folder>"}
    with contextlib.suppress(RuntimeError):  # no home, as in some containers
        names[str(Path.home())] = "<home>"
    names |= {host: "<host>", host.partition(".")[0]: "<host>", **dict.fromkeys(_users(), "<user>")}
    if target:
        place = Path(target)  # as errors write it: without a last slash
        names |= dict.fromkeys((target, str(place), str(place.resolve()), place.name), "<target>")
        names |= _names_in(target)
    return {name: stand_in for name, stand_in in names.items() if len(name) > 1 and name.lower() not in OUR_WORDS}


def anonymous(value: Any, names: Mapping[str, str]) -> Any:
    """Returns a copy of plain values whose texts have no private names and no paths."""
    if isinstance(value, str):
        return _without(value, names)
    if isinstance(value, Mapping):
        return {_without(str(key), names): anonymous(each, names) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [anonymous(each, names) for each in value]
    return value


def _without(text: str, names: Mapping[str, str]) -> str:
    places = {name: stand_in for name, stand_in in names.items() if "/" in name}
    text = _replaced(REMOTE.sub("<address>", text), places)
    return _replaced(PATH.sub("<path>", QUOTED_PATH.sub(r"\1<path>\1", text)), names)


def _replaced(text: str, names: Mapping[str, str]) -> str:
    for name in sorted(names, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", names[name], text)
    return text


def _users() -> Iterable[str]:
    users = {os.environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME")}
    with contextlib.suppress(KeyError, OSError):  # no entry in passwd, as in some containers
        users.add(getpass.getuser())
    return users - {""}


def _names_in(target: str) -> dict[str, str]:
    """Returns the clips and local encoders of a cache, or of that of a run; none where it cannot be read."""
    from ..data import InputError, open_store
    from ..data.store.base import is_cache

    try:
        if not is_cache(target):
            from ..fusion.export.ensemble import cache_of

            target = cache_of(target)
        store = open_store(target)
        names = dict.fromkeys(store.clip_ids(), "<clip>")
        for stream in store.streams():
            encoder = store.record(store.clip_ids(stream)[0], stream)["fingerprint"].get("encoder", {})
            if encoder.get("kind") == "transformers" and "/" not in encoder["name"]:
                names[encoder["name"]] = "<encoder>"
        return names
    except (InputError, OSError):
        return {}
