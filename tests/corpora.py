"""Miniatures of published corpora: folders and columns as their authors name them, with the traps of the real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

AFFWILD2 = {  # name of the annotations: part, recording, label rows
    "1-30-1280x720": ("Train_Set", "batch1/1-30-1280x720.mp4", 11),  # one row more than frames
    "10-60-1280x720": ("Train_Set", "batch1/10-60-1280x720.mp4", 10),  # an odd pair: the person without a side is left
    "10-60-1280x720_right": ("Train_Set", "batch1/10-60-1280x720.mp4", 10),
    "video5_left": ("Train_Set", "batch1/video5.avi", 10),
    "video5_right": ("Train_Set", "batch1/video5.avi", 10),
    "28-30-1280x720-1": ("Train_Set", "batch2/28-30-1280x720-1.mp4", 10),  # no part of 28-30-1280x720-2
    "28-30-1280x720-2": ("Validation_Set", "batch2/28-30-1280x720-2.mp4", 10),
    "video2": ("Validation_Set", "batch2/video2.mp4", 10),  # an odd pair: the person without a side is right
    "video2_left": ("Validation_Set", "batch2/video2.mp4", 10),
    "video73_1": ("test", "batch1/video73_1.mp4", 10),
    "video49_left": ("test", "batch1/video49.mp4", 10),
}


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_affwild2(root: Path, *, above: str = "") -> Path:
    """Aff-Wild2 without a single image or frame: empty files of the right names.

    Row 3 of each label file is not annotated, crop 4 of each folder is absent. `above` puts folders above each archive.
    """
    for name, (part, recording, num_rows) in AFFWILD2.items():
        write(root / above / recording)
        for number in {*range(1, 11)} - {4}:
            write(root / above / f"cropped_aligned/{name}/{number:05d}.jpg")
        write(root / above / f"cropped_aligned/{name}/.DS_Store")
        if part != "test":
            rows = ["-5,-5" if k == 2 else f"{k / 20},{-k / 20}" for k in range(num_rows)]
            write(
                root / above / f"VA_Estimation_Challenge/{part}/{name}.txt", "\n".join(["valence,arousal", *rows, ""])
            )
    others = "Neutral,Anger\n1,0\n"  # the annotations of another challenge have the same names
    write(root / above / "EXPR_Classification_Challenge/Train_Set/video5_left.txt", others)
    test = [name for name, (part, *_) in AFFWILD2.items() if part == "test"]
    write(root / above / "Valence_Arousal_Estimation_Challenge_test_set_release.txt", "\n".join(test) + "\n")
    write(root / above / "Expression_Classification_Challenge_test_set_release.txt", "video999\n")
    sample = [f"{name}/{number:05d}.jpg,0.0,0.0" for name in test for number in range(1, 11)]
    write(root / above / "CVPR_ABAW_VA_test_set_sample.txt", "\n".join(["image_location,valence,arousal", *sample, ""]))
    return root


def write_muse(root: Path) -> Path:
    """MuSe: a label file per target with milliseconds, a gap between two segments, and a test clip without labels."""
    parts = {"1": "train", "2": "train", "10": "devel", "11": "test"}
    write(root / "metadata/partition.csv", "Id,Proposal\n" + "".join(f"{k},{v}\n" for k, v in parts.items()))
    for name, part in parts.items():
        write(root / f"raw/video/{name}.mp4")
        write(root / f"raw/audio/{name}.wav")
        write(root / f"feature_segments/egemaps/{name}.csv", "timestamp,segment_id,F0\n0,1,0.5\n")
        if part != "test":
            for target, sign in (("valence", 1), ("arousal", -1)):
                rows = [
                    f"{ms},{sign * ms / 10000},{1 + ms // 1500}\n"
                    for ms in [*range(0, 1500, 250), *range(4000, 5000, 250)]
                ]
                write(root / f"label_segments/{target}/{name}.csv", "timestamp,value,segment_id\n" + "".join(rows))
    return root


def write_recola(root: Path, *, individual: bool = False) -> Path:
    """RECOLA as AVEC releases it: the gold standard in ARFF; `individual`: the ratings of six annotators alone."""
    for name in ("train_1", "dev_1", "test_1"):
        write(root / f"recordings_video/{name}.mp4")
        write(root / f"recordings_audio/{name}.wav")
        if name == "test_1":
            continue
        for target in ("arousal", "valence"):
            times = [k * 0.04 for k in range(100)]
            if individual:
                head = "time;FM1 ;FM2 ;FM3 ;FF1 ;FF2 ;FF3\n"
                rows = [";".join([f"{t:.2f}", *(f"{(0.5 + j / 20) * t / 4:.4f}" for j in range(6))]) for t in times]
                write(root / f"ratings_individual/{target}/{name}.csv", head + "\n".join(rows) + "\n")
            else:
                attributes = ["Instance_name string", "frameTime numeric", "GoldStandard numeric"]
                head = "\n".join(
                    ["@relation gold", "", *(f"@attribute {text}" for text in attributes), "", "@data", ""]
                )
                rows = [f"'{name}',{t:.2f},{t / 8:.4f}" for t in times]
                write(root / f"ratings_gold_standard/{target}/{name}.arff", head + "\n".join(rows) + "\n")
    return root


def write_sewa(root: Path) -> Path:
    """SEWA as AVEC releases it: `;` between columns, quoted names, Devel, and the language in the name."""
    for name in ("Train_DE_01", "Devel_HU_03", "Test_CN_01"):
        write(root / f"video/{name}.avi")
        if not name.startswith("Test"):
            rows = [f"'{name}';{k / 10:.1f};{k / 100};{-k / 100};0.0" for k in range(30)]
            write(root / f"labels/{name}.csv", "\n".join(["name;time;arousal;valence;liking", *rows, ""]))
    return root


def write_iemocap(root: Path) -> Path:
    """IEMOCAP: two sessions of one dialogue each, turns of both speakers that overlap."""
    for session in (1, 2):
        dialogue = f"Ses0{session}F_impro01"
        folder = root / f"IEMOCAP_full_release/Session{session}"
        turns = [("F000", 1.0, 3.0, 4.5, 2.0), ("M000", 2.5, 4.0, 1.0, 5.0), ("F001", 5.0, 6.0, 3.0, 3.0)]
        lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        for turn, start_s, end_s, valence, arousal in turns:
            lines += [f"[{start_s:.4f} - {end_s:.4f}]\t{dialogue}_{turn}\tneu\t[{valence:.4f}, {arousal:.4f}, 2.5000]"]
            lines += ["C-E2:\tNeutral;\t()", "A-E3:\tval 3; act 2; dom  2;\t()", ""]
        write(folder / f"dialog/EmoEvaluation/{dialogue}.txt", "\n".join(lines))
        write(folder / f"dialog/EmoEvaluation/Categorical/{dialogue}_e2_cat.txt", "x\n")
        write(folder / f"dialog/avi/DivX/{dialogue}.avi")
        write(folder / f"dialog/wav/{dialogue}.wav")
        write(folder / f"sentences/wav/{dialogue}/{dialogue}_F000.wav")
    return root


def eaf(tiers: Mapping[str, Sequence[tuple[int, int, str]]]) -> str:
    """An ELAN document: tier -> annotations (start and end in ms, text)."""
    slots: list[str] = []
    bodies: list[str] = []
    for name, spans in tiers.items():
        body: list[str] = []
        for start_ms, end_ms, text in spans:
            first = len(slots) + 1
            slots += [
                f'<TIME_SLOT TIME_SLOT_ID="ts{first + k}" TIME_VALUE="{ms}"/>'
                for k, ms in enumerate((start_ms, end_ms))
            ]
            body.append(
                f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{first}" TIME_SLOT_REF1="ts{first}" '
                f'TIME_SLOT_REF2="ts{first + 1}"><ANNOTATION_VALUE>{text}</ANNOTATION_VALUE>'
                "</ALIGNABLE_ANNOTATION></ANNOTATION>"
            )
        bodies.append(f'<TIER LINGUISTIC_TYPE_REF="default-lt" TIER_ID="{name}">{"".join(body)}</TIER>')
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<ANNOTATION_DOCUMENT FORMAT="3.0" VERSION="3.0">'
    return f"{head}<TIME_ORDER>{''.join(slots)}</TIME_ORDER>{''.join(bodies)}</ANNOTATION_DOCUMENT>\n"


def fill_with_media(root: Path) -> Path:
    """Makes the empty files of a miniature real: recordings of 2 s with 10 frames and a tone, grey crops."""
    from sage_va.tests.media import grey_frames, tone, write_crops, write_media

    for seed, path in enumerate(sorted(root.rglob("*"))):  # no two recordings sound alike: they would be one group
        if path.suffix in (".mp4", ".avi", ".wav"):
            write_media(path, None if path.suffix == ".wav" else grey_frames(10), fps=5, audio=tone(2, seed=seed))
        elif path.suffix == ".jpg":
            write_crops(path.parent, [int(path.stem)])
    return root
