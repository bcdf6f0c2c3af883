"""Files of predictions, one per clip: CSV, Aff-Wild2's txt, ELAN's eaf and WebVTT; each whole or not at all."""

from __future__ import annotations

import csv
import io
import mimetypes
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as Xml

import numpy as np

from ...data.atomic import write_text
from ...data.clip import Clip
from ...data.errors import InputError
from ...data.timebase import usual_gap_s
from .predict import TARGETS, Floats, Prediction

EAF_SCHEMA = "http://www.mpi.nl/tools/elan/EAFv3.0.xsd"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"


def write_prediction(path: Path, prediction: Prediction, clip: Clip, labels: Sequence[str]) -> None:
    """Writes a prediction in the format that the suffix of a path names, one of `FORMATS`.

    Args:
        path: of the file.
        prediction: at the instants that are to be written.
        clip: that it belongs to.
        labels: of the M streams.

    Raises:
        InputError: if two instants are too near for the format.
    """
    write_text(path, FORMATS[path.suffix[1:]](prediction, clip, labels))


def csv_text(prediction: Prediction, clip: Clip, labels: Sequence[str]) -> str:
    """Returns the columns time_s, valence, arousal, then reliability_<stream> and mask_<stream> for each stream.

    A reliability is left empty where the stream is masked or the variant has no gate; mask is 1 = valid.
    """
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    of_streams = [f"{name}_{label}" for label in labels for name in ("reliability", "mask")]
    writer.writerow(["time_s", *TARGETS, *of_streams])
    reliability = prediction.reliability
    for step, time_s in enumerate(prediction.times_s):
        cells: list[str] = []
        for m, valid in enumerate(prediction.mask[step]):
            cell = f"{reliability[step, m]:.4f}" if valid and reliability is not None else ""
            cells += [cell, str(int(valid))]
        valence, arousal = prediction.va[step]
        writer.writerow([f"{time_s:.6f}", f"{valence:.5f}", f"{arousal:.5f}", *cells])
    return file.getvalue()


def affwild2_text(prediction: Prediction, clip: Clip, labels: Sequence[str]) -> str:
    """Returns an annotation file as Aff-Wild2 has them: a header, then row k for frame k."""
    rows = (f"{valence:.5f},{arousal:.5f}\n" for valence, arousal in prediction.va)
    return f"{','.join(TARGETS)}\n{''.join(rows)}"


def vtt_text(prediction: Prediction, clip: Clip, labels: Sequence[str]) -> str:
    """Returns subtitles that show valence and arousal, a cue for each instant."""
    ends_ms = _ends_ms(prediction.times_s, clip)
    cues = [
        f"{_clock(start)} --> {_clock(end)}\nvalence {valence:+.2f}  arousal {arousal:+.2f}\n"
        for start, end, (valence, arousal) in zip(ends_ms[:-1], ends_ms[1:], prediction.va, strict=True)
    ]
    return "\n".join(["WEBVTT\n", *cues])


def eaf_text(prediction: Prediction, clip: Clip, labels: Sequence[str]) -> str:
    """Returns a document of ELAN with the tiers valence and arousal, an annotation for each instant."""
    ends_ms = _ends_ms(prediction.times_s, clip)
    root = _eaf_root(clip, num_annotations=len(TARGETS) * len(prediction.va))
    order = Xml.SubElement(root, "TIME_ORDER")
    for number, end_ms in enumerate(ends_ms, 1):
        Xml.SubElement(order, "TIME_SLOT", TIME_SLOT_ID=f"ts{number}", TIME_VALUE=str(end_ms))
    for target, name in enumerate(TARGETS):
        tier = Xml.SubElement(root, "TIER", LINGUISTIC_TYPE_REF="value", TIER_ID=name)
        first = 1 + target * len(prediction.va)
        for step, value in enumerate(prediction.va[:, target]):
            about = {"ANNOTATION_ID": f"a{first + step}"}
            about |= {"TIME_SLOT_REF1": f"ts{step + 1}", "TIME_SLOT_REF2": f"ts{step + 2}"}
            outer = Xml.SubElement(tier, "ANNOTATION")
            inner = Xml.SubElement(outer, "ALIGNABLE_ANNOTATION", about)
            Xml.SubElement(inner, "ANNOTATION_VALUE").text = f"{value:.5f}"
    Xml.SubElement(
        root, "LINGUISTIC_TYPE", GRAPHIC_REFERENCES="false", LINGUISTIC_TYPE_ID="value", TIME_ALIGNABLE="true"
    )
    Xml.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{Xml.tostring(root, encoding="unicode")}\n'


def _eaf_root(clip: Clip, num_annotations: int) -> Xml.Element:
    """The document with its header, which names the recording."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    about = {"AUTHOR": "sage-va", "DATE": now, "FORMAT": "3.0", "VERSION": "3.0"}
    root = Xml.Element("ANNOTATION_DOCUMENT", about)
    Xml.register_namespace("xsi", _XSI)
    root.set(f"{{{_XSI}}}noNamespaceSchemaLocation", EAF_SCHEMA)
    header = Xml.SubElement(root, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    if clip.media:
        path = str(clip.media["path"])
        place = (
            {"MEDIA_URL": f"file://{path}"} if path.startswith("/") else {"MEDIA_URL": "", "RELATIVE_MEDIA_URL": path}
        )
        place["MIME_TYPE"] = mimetypes.guess_type(path)[0] or "unknown"
        Xml.SubElement(header, "MEDIA_DESCRIPTOR", place)
    Xml.SubElement(header, "PROPERTY", NAME="lastUsedAnnotationId").text = str(num_annotations)
    return root


def _ends_ms(times_s: Floats, clip: Clip) -> list[int]:
    """Returns the T + 1 ends, in milliseconds, of the spans around T instants: half way to the neighbours."""
    half = usual_gap_s(times_s) / 2 or 0.5
    ends = np.concatenate([[times_s[0] - half], (times_s[:-1] + times_s[1:]) / 2, [times_s[-1] + half]])
    ends_ms = np.round(np.maximum(ends, 0) * 1000).astype(np.int64)
    if (np.diff(ends_ms) <= 0).any():
        todo = "Ask for a lower rate."
        raise InputError(clip.clip_id, "some instants are less than a millisecond apart, or before 0 s", todo=todo)
    return ends_ms.tolist()


def _clock(time_ms: int) -> str:
    seconds, ms = divmod(time_ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{ms:03}"


FORMATS: dict[str, Callable[[Prediction, Clip, Sequence[str]], str]] = {
    "csv": csv_text,
    "txt": affwild2_text,
    "eaf": eaf_text,
    "vtt": vtt_text,
}
