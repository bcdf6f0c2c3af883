"""Encoders that other packages add: the documented ones run as they stand there, and broken ones are one line."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from sage_va.cli import main
from sage_va.data import InputError, open_store
from sage_va.data.manifest import find_sources
from sage_va.extract.encoders.factory import encoder_from_fingerprint, encoders_from
from sage_va.extract.engine.pipeline import extract
from sage_va.extract.identity import check_same, stream_of
from sage_va.extract.options import ExtractOptions
from sage_va.tests.media import noisy_frames, tone, write_media

DOC = (Path(__file__).resolve().parents[3] / "docs/encoders.md").read_text(encoding="utf-8")
FILES = {text.split("\n")[0].removeprefix("# "): text for text in re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)}
POINTS = re.search(r"\[project.entry-points.*?\]\n(.*?)\n\n", DOC, re.DOTALL)[1].replace('"', "")


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Lays files and entry points where an installed package has them."""

    def into(files, points, version="1.0", package="my-encoders"):
        folder = tmp_path / f"site-{package}"
        info = folder / f"{package.replace('-', '_')}-1.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
            monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[sage_va.encoders]\n{points}\n")
        monkeypatch.syspath_prepend(str(folder))

    yield into
    for name in ("palette", "melody", "broken"):
        sys.modules.pop(name, None)


def visual(name, **options):
    return encoders_from(visual=name, device="cpu", **options)[0]


def audio(name, **options):
    return encoders_from(audio=name, device="cpu", **options)[1]


def test_the_documented_encoders_run_as_they_stand(install, tmp_path):
    assert sorted(FILES) == ["melody.py", "palette.py"]
    install(FILES, POINTS)
    write_media(tmp_path / "media/a.mov", noisy_frames(11), audio=tone(1.0))
    out = str(tmp_path / "x.zarr")
    run = ["extract", str(tmp_path / "media"), "--out", out, "--visual", "palette", "--audio", "melody"]
    done = CliRunner().invoke(main, [*run, "--device", "cpu"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    store = open_store(out)
    of_audio, of_images = sorted(store.streams())
    assert re.fullmatch(r"audio/melody-random-\w{8}", of_audio)
    assert re.fullmatch(r"visual/palette-\w{8}", of_images)
    assert not [problem for *_, problem in store.verify() if problem]
    images, steps = store.read("a.mov", of_images), store.read("a.mov", of_audio)
    assert (images.values.shape, steps.values.shape) == ((11, 64), (49, 40))
    np.testing.assert_allclose(images.values.astype(float).sum(axis=1), 1, atol=0.01)
    assert steps.times_s[0] == pytest.approx(320 / 16_000)
    for stream in (of_images, of_audio):  # as `predict` does
        fingerprint = store.record("a.mov", stream)["fingerprint"]
        again = encoder_from_fingerprint(fingerprint, device="cpu")
        check_same(fingerprint, again, ExtractOptions())
        assert stream_of(again, ExtractOptions()) == stream
        assert fingerprint["encoder"]["package"] == "my-encoders 1.0"


def test_other_code_or_another_version_is_another_stream(install):
    install(FILES, POINTS)
    first = stream_of(visual("palette"), ExtractOptions())
    fingerprint = visual("palette").fingerprint
    install(FILES, POINTS, version="1.1")
    assert stream_of(visual("palette"), ExtractOptions()) != first
    install({"palette.py": FILES["palette.py"].replace("// 64", "// 65")}, POINTS)
    assert stream_of(visual("palette"), ExtractOptions()) != first
    with pytest.raises(InputError, match=r"palette: expected the code of my-encoders 1\.0 .*, got other code"):
        encoder_from_fingerprint(fingerprint, device="cpu")
    install({}, "")
    with pytest.raises(InputError, match=r"palette: expected the encoder of my-encoders 1\.0, got no plug-in"):
        encoder_from_fingerprint(fingerprint, device="cpu")


def test_unknown_names_are_compared_with_added_ones(install):
    install(FILES, POINTS)
    with pytest.raises(
        InputError, match=r"visual: expected the name of a timm model, got 'palete'\. Did you mean palette"
    ):
        visual("palete", visual_weights="random")
    with pytest.raises(InputError, match=r"audio: expected a hub id, .* got 'melodie'\. Did you mean melody\?"):
        audio("melodie")


def test_an_option_that_it_does_not_take_is_refused(install):
    install(FILES, POINTS)
    for options, option in (
        ({"precision": "bfloat16"}, "precision, and 'bfloat16'"),
        ({"visual_weights": "x.pth"}, "visual_weights, and 'x.pth'"),
    ):
        with pytest.raises(InputError, match=rf"encoder palette: it takes no {option} was given"):
            visual("palette", **options)
    with pytest.raises(InputError, match=r"encoder melody: it takes no layer, and '3' was given"):
        audio("melody", layer="3")
    with pytest.raises(InputError, match=r"encoder palette: .*derived from AudioEncoder, got .*Pass it to --visual"):
        audio("palette")


BROKEN = {
    "return np.zeros((len(items), 7))": r"expected floats of shape \(2, 5\), got float64 of shape \(2, 7\)",
    "return np.zeros((len(items), 5), int)": r"expected floats of shape \(2, 5\), got int64 of shape \(2, 5\)",
    "return np.full((len(items), 5), np.nan)": "it returns NaN or infinity for a batch of noise",
    "raise KeyError('eyes')": "it fails on a batch of noise: KeyError: 'eyes'",
}
CLASS = """
import numpy as np
from sage_va.extract import VisualEncoder

class Broken(VisualEncoder):
    dim, size = 5, (8, 8)
    def embed(self, items):
        {body}
"""


@pytest.mark.parametrize("body", BROKEN)
def test_a_broken_encoder_is_one_line_with_its_name(install, body):
    install({"broken.py": CLASS.format(body=body)}, "broken = broken:Broken")
    with pytest.raises(InputError, match=f"^encoder broken: {BROKEN[body]}") as error:
        visual("broken")
    assert "\n" not in str(error.value)


def test_one_that_breaks_in_the_middle_of_a_run_is_named(install, tmp_path):
    body = "return np.zeros((len(items), 5 if len(items) == 2 else 6))"
    install({"broken.py": CLASS.format(body=body)}, "broken = broken:Broken")
    clip = write_media(tmp_path / "a.mp4", noisy_frames(4))
    run = ["extract", str(clip), "--out", str(tmp_path / "x.zarr"), "--visual", "broken"]
    done = CliRunner().invoke(main, run)
    assert done.exit_code == 1
    assert "encoder broken: expected floats of shape (32, 5), got float64 of shape (32, 6)" in done.output


def test_one_that_gives_nan_for_a_clip_is_named_in_its_failure(install, tmp_path):
    body = "return np.full((len(items), 5), 0.0 if len(items) == 2 else np.nan)"
    install({"broken.py": CLASS.format(body=body)}, "broken = broken:Broken")
    write_media(tmp_path / "media/a.mov", noisy_frames(4))
    store = open_store(tmp_path / "x.zarr", "a")
    (failure,) = extract(find_sources([str(tmp_path / "media")]), store, visual=visual("broken")).failures
    reason = "expected finite features from plug-in broken, got NaN or infinity. Mend its `embed`."
    assert (failure.clip_id, failure.reason) == ("a.mov", reason)


def test_one_that_cannot_be_loaded_is_one_line(install):
    install({"broken.py": "import no_such_package"}, "broken = broken:Broken")
    with pytest.raises(InputError, match=r"encoder broken: broken:Broken cannot be imported: ModuleNotF"):
        visual("broken")
    install({"broken.py": "Broken = 3"}, "broken = broken:Broken")
    with pytest.raises(
        InputError, match=r"expected a class derived from VisualEncoder, got 3\. Mend or uninstall my-enc"
    ):
        visual("broken")
    install(
        {"broken.py": CLASS.format(body="pass").replace("dim, size = 5, (8, 8)", "size = (8, 8)")},
        "broken = broken:Broken",
    )
    with pytest.raises(InputError, match="encoder broken: it fails on a batch of noise: AttributeError"):
        visual("broken")
    text = CLASS.format(body="pass") + "    def __init__(self):\n        raise OSError('no disk')\n"
    install({"broken.py": text}, "broken = broken:Broken")
    with pytest.raises(InputError, match="encoder broken: broken:Broken cannot be built: OSError: no disk"):
        visual("broken")


def test_two_packages_with_one_name_are_refused(install):
    install(FILES, POINTS)
    install({"broken.py": "Broken = 3"}, "palette = broken:Broken", package="others")
    with pytest.raises(
        InputError, match=r"encoder palette: expected one package that adds it, got broken:Broken of others"
    ):
        visual("palette")
