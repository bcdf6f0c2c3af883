"""Notes on clips that were extracted but lost something on the way: one line each, so that no loss is silent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...data.clip import Track
from ...data.manifest import Source

NOTED_SHARE = 0.02  # of frames or of audio
NOTED_S = 0.5  # beyond the end
FEW_FACES = 0.5  # of the frames


def notes_of(source: Source, duration_end_s: float, reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the notes on a clip, one line each.

    Args:
        source: the clip.
        duration_end_s: where what was decoded ends, in seconds on the recording's clock.
        reports: modality -> the decoder's report.
    """
    visual, audio = reports.get("visual", {}), reports.get("audio", {})
    findings = [line for report in (visual, audio) for line in report.get("findings", ())]
    return [*_on_cut(source, duration_end_s), *_on_frames(source, visual), *_on_audio(audio), *dict.fromkeys(findings)]


def note_on_faces(track: Track, report: Mapping[str, Any]) -> list[str]:
    """Returns a note where the face was found in less than half of the frames, but in some."""
    share = float(track.mask.mean())
    if not 0 < share < FEW_FACES:
        return []
    num_people = report["faces"]["num_people"]
    people = "1 person" if num_people == 1 else f"{num_people} people"
    return [f"face in {100 * share:.0f} % of frames ({people} seen); see --person, and `sage-va faces`"]


def _on_cut(source: Source, end_s: float) -> list[str]:
    if source.end_s is None or source.end_s - end_s <= NOTED_S:
        return []
    return [f"end_s {source.end_s:g} lies past the end of the recording at {end_s:.2f} s"]


def _on_frames(source: Source, report: Mapping[str, Any]) -> list[str]:
    promised, num = report.get("num_frames_promised"), report.get("num_frames")
    if not promised or num is None or source.start_s or source.end_s is not None:
        return []
    lost = abs(promised - num) / promised > NOTED_SHARE
    return [f"{num} frames were decoded, where the header counts {promised}"] if lost else []


def _on_audio(report: Mapping[str, Any]) -> list[str]:
    notes = [f"audio of track {report['audio_track']}"] if report.get("audio_track") else []
    length_s = report.get("audio_s") or 0.0
    for key, what in (("audio_filled_s", "were missing, and are masked"), ("audio_dropped_s", "overlapped")):
        lost_s = report.get(key) or 0.0
        if lost_s > NOTED_SHARE * length_s:
            notes.append(f"{lost_s:.2f} of {length_s:.2f} s of audio {what}")
    return notes
