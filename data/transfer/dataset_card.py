"""The page of a Hugging Face dataset repository that holds a cache: what is in it, how to read it, what is allowed."""

from __future__ import annotations

import re
from typing import Any

from ..store.base import Store
from ..store.fingerprint import stream_alias

CARD = "README.md"
MARK = "<!-- Written by `sage-va cache copy`, which keeps it up to date. Take this line out to keep your own text. -->"
KNOWN_LICENCES = frozenset(
    {  # as the hub spells them
        "apache-2.0",
        "mit",
        "cc0-1.0",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc-by-nc-3.0",
        "cc-by-nc-4.0",
        "cc-by-nd-4.0",
        "cc-by-nc-nd-3.0",
        "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-3.0",
        "cc-by-nc-sa-4.0",
    }
)
TAGS = ["sage-va", "zarr", "affective-computing", "valence-arousal", "emotion-recognition", "features"]
COLUMNS = ("stream", "dimensions", "dtype", "clips", "frames", "hours", "encoder", "fingerprint")
GATE = (
    "These features derive from data under terms of use. By asking for access you confirm that you have the right to "
    "use that data, and that you will not pass the features on."
)
GATE_FIELDS = {
    "Name": "text",
    "Affiliation": "text",
    "I have signed the terms of the data that these features derive from": "checkbox",
}


def card(store: Store, url: str) -> str:
    """Returns the text of `README.md` for a cache at an address."""
    root = store.root()
    rows = [_row(store, stream) for stream in store.streams()]
    table = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS), *(" | ".join(map(_cell, row)) for row in rows)]
    lines = "\n".join(f"| {line} |" for line in table)
    name = re.sub(r"[\r\n`]", " ", url)
    return f"---\n{_header(root)}\n---\n{MARK}\n{_TEXT.format(url=name, table=lines, terms=_terms(root))}"


def _header(root: dict[str, Any]) -> str:
    """Returns the YAML that the hub reads."""
    from huggingface_hub import DatasetCardData  # takes a second, and only pushes to the hub need it

    gate = {"extra_gated_prompt": GATE, "extra_gated_fields": GATE_FIELDS} if root["restricted"] else {}
    return DatasetCardData(**_licence(root["licence"]), tags=TAGS, **gate).to_yaml()


def _licence(licence: str | None) -> dict[str, str]:
    if licence is not None and licence.lower() in KNOWN_LICENCES:
        return {"license": licence.lower()}
    name = re.sub(r"[^a-z0-9.]+", "-", (licence or "not stated").lower()).strip("-") or "other"
    return {"license": "other", "license_name": name}


def _row(store: Store, stream: str) -> list[str]:
    """One line of the table; hours are "?" where the length of a clip is not known."""
    records = [store.record(clip_id, stream) for clip_id in store.clip_ids(stream)]
    lengths = [record["clip"].get("duration_s") for record in records]
    hours = "?" if None in lengths else f"{sum(lengths) / 3600:.2f}"
    fingerprint = records[0]["fingerprint"]
    encoder = fingerprint.get("encoder", {})
    dims = ", ".join(sorted({str(record["shape"][1]) for record in records}))
    dtypes = ", ".join(sorted({record["dtype"] for record in records}))
    frames = sum(record["shape"][0] for record in records)
    named = str(encoder.get("name", "?") if isinstance(encoder, dict) else encoder)
    return [stream_alias(stream), dims, dtypes, str(len(records)), str(frames), hours, named, stream[-8:]]


def _cell(text: str) -> str:
    return re.sub(r"[\r\n|<>]", " ", text)


def _terms(root: dict[str, Any]) -> str:
    licence = re.sub(r"[\r\n<>]", " ", root["licence"] or "not stated")
    if not root["restricted"]:
        return f"Licence: {licence}."
    return (
        f"Licence: {licence}. **Restricted:** these features derive from gated data. Keep this repository private, or "
        "switch on access requests in its settings: the hub does not do so by itself."
    )


_TEXT = """
# Features for valence and arousal

Embeddings of faces and voices, frame by frame, each with its time, mask and quality; made by sage-va.

{table}

## Read it

With sage-va: `pip install "sage-va[share]"`, then

```sh
sage-va cache copy {url} features.zarr
```

With plain zarr: each file under `packs/` is a whole Zarr v3 hierarchy in an uncompressed ZIP.

```python
import zarr

pack = zarr.open_group(zarr.storage.ZipStore("packs/<name>.zip", mode="r"), mode="r")
for stream, clips in pack["visual"].groups():
    for key, entry in clips.groups():
        values, frames = entry["values"][:], entry["frames"][:]  # frames: time in seconds, mask, quality signals
```

A frame with mask 0 has no value (NaN). The attributes of an entry are its metadata: clip, fingerprint, columns of
`frames`, and the SHA-256 of each array. A dtype of `bfloat16` lies as the uint16 of its bits.

## Terms

{terms}
"""
