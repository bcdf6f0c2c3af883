"""The page of a Hugging Face dataset repository that holds a cache: its content, how to read it, its terms."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..store.base import Store
from ..store.fingerprint import stream_alias
from ..terms import Terms, table, untrained_mark

CARD = "README.md"
MARK = "<!-- Written by `sage-va cache copy`, which keeps it up to date. Take this line out to keep your own text. -->"
TAGS = ["sage-va", "zarr", "affective-computing", "valence-arousal", "emotion-recognition", "features"]
COLUMNS = ("stream", "dimensions", "dtype", "clips", "frames", "hours", "encoder", "fingerprint")
RESTRICTION = (
    "these features derive from gated data. Keep this repository private, or switch on access requests in its "
    "settings: the hub does not do so by itself."
)
GATE_FIELDS = {
    "Name": "text",
    "Affiliation": "text",
    "I have signed the terms of the data that these features derive from": "checkbox",
}


def card(store: Store, url: str) -> str:
    """Returns the text of `README.md` for a cache at an address."""
    root, streams = store.root(), store.streams()
    terms = Terms(root["licence"], root["restricted"])
    records = {stream: [store.record(clip_id, stream) for clip_id in store.clip_ids(stream)] for stream in streams}
    text = _TEXT.format(
        marks="".join(f"\n> **{untrained_mark(names)}.**\n" for names in [_untrained(records)] if names),
        url=re.sub(r"[\r\n`]", " ", url),
        table=table(COLUMNS, [_row(stream, records[stream]) for stream in streams]),
        terms=terms.paragraph("Licence", RESTRICTION),
    )
    return f"---\n{_header(terms)}\n---\n{MARK}\n{text}"


def _header(terms: Terms) -> str:
    """Returns the YAML that the hub reads."""
    from huggingface_hub import DatasetCardData  # takes a second, and only pushes to the hub need it

    gate = terms.gate("These features derive from", "the features")
    gated = {"extra_gated_prompt": gate, "extra_gated_fields": GATE_FIELDS} if gate else {}
    return DatasetCardData(**terms.header(), tags=TAGS, **gated).to_yaml()


def _untrained(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The streams whose encoders were never trained."""
    encoders = {stream: of_stream[0]["fingerprint"].get("encoder") for stream, of_stream in records.items()}
    return [
        stream
        for stream, encoder in encoders.items()
        if isinstance(encoder, Mapping) and encoder.get("weights") == "random"
    ]


def _row(stream: str, records: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line of the table; hours are "?" where the length of a clip is not known."""
    lengths = [record["clip"].get("duration_s") for record in records]
    hours = "?" if None in lengths else f"{sum(lengths) / 3600:.2f}"
    fingerprint = records[0]["fingerprint"]
    encoder = fingerprint.get("encoder", {})
    dims = ", ".join(sorted({str(record["shape"][1]) for record in records}))
    dtypes = ", ".join(sorted({record["dtype"] for record in records}))
    frames = sum(record["shape"][0] for record in records)
    named = str(encoder.get("name", "?") if isinstance(encoder, dict) else encoder)
    return [stream_alias(stream), dims, dtypes, str(len(records)), str(frames), hours, named, stream[-8:]]


_TEXT = """
# Features for valence and arousal
{marks}
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
