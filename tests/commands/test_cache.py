"""The verbs of `sage-va cache` as a user meets them: output, exit codes, and one line per error."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from sage_va.cli import main

CLIPS = ["anna/1", "anna/2", "bert"]


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def ok(*arguments: Any) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: Any) -> str:
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, dim in (("face", 6), ("voice", 5)):
        for clip in CLIPS:
            (tmp_path / name / clip).parent.mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / name / f"{clip}.npy", rng.standard_normal((50, dim)).astype(np.float32))
    for modality, name in (("visual", "face"), ("audio", "voice")):
        terms = ["--licence", "EULA", "--restricted"]
        ok(
            "cache",
            "import",
            tmp_path / name,
            "--stream",
            f"{modality}/{name}",
            "--hz",
            25,
            "--out",
            tmp_path / "c.zarr",
            *terms,
        )
    return tmp_path / "c.zarr"


def stream_of(cache: Path, modality: str) -> str:
    result = json.loads(ok("cache", "info", cache, "--json"))["streams"]
    return next(name for name in result if name.startswith(modality))


def hurt(cache: Path, clip: str) -> None:
    (file,) = cache.glob(f"visual/face-*/{clip}/values/c/0/0")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))


def test_verify_and_repair(cache: Path, tmp_path: Path) -> None:
    assert "6 streams checked, whole" in ok("cache", "verify", cache)
    assert json.loads(ok("cache", "verify", cache, "--subset", "1/2", "--json"))["streams_checked"] < 6
    assert "Error: --subset: expected a part like 1/7 or 5%" in refused("cache", "verify", cache, "--subset", "half")
    hurt(cache, "bert")
    assert run("cache", "verify", cache).exit_code == 1
    assert "1 damaged streams removed" in ok("cache", "repair", cache)
    assert "5 streams checked, whole" in ok("cache", "verify", cache)
    text = ok("cache", "import", tmp_path / "face", "--stream", "visual/face", "--hz", 25, "--out", cache)
    assert text.startswith("3 clips in visual/face-")
    assert "6 streams checked, whole" in ok("cache", "verify", cache)


def test_a_newer_stream_takes_the_alias_and_gc_the_older(cache: Path, tmp_path: Path) -> None:
    old = stream_of(cache, "visual")
    ok("cache", "import", tmp_path / "face", "--stream", "visual/face", "--hz", 50, "--out", cache)
    assert f"{old}: 3 clips" in ok("cache", "info", cache)
    assert "(no alias" in ok("cache", "info", cache)
    assert old in ok("cache", "ls", cache)
    assert f"would remove {old}: 3 clips" in ok("cache", "gc", cache, "--dry-run")
    assert ok("cache", "alias", cache, "visual/slow", old) == f"visual/slow -> {old}\n"
    assert ok("cache", "gc", cache) == "nothing to remove\n"
    assert "expected MODALITY/NAME" in refused("cache", "alias", cache, "slow", old)
    ok("cache", "alias", cache, "visual/slow", "visual/face")
    assert f"removed {old}: 3 clips" in ok("cache", "gc", cache)
    assert len(json.loads(ok("cache", "info", cache, "--json"))["streams"]) == 2


@pytest.mark.parametrize("name", ["d.zarr", "d.h5", "d.zarr.zip", "d.packs", "icechunk"])
def test_copy(cache: Path, tmp_path: Path, name: str) -> None:
    place = f"icechunk://{tmp_path / 'd'}" if name == "icechunk" else str(tmp_path / name)
    assert "2 entries copied" in ok("cache", "copy", cache, place, "--clip", "anna/*", "--streams", "visual")
    assert "4 entries copied" in ok("cache", "copy", cache, place)
    assert "0 entries copied" in ok("cache", "copy", cache, place)
    result, wanted = (json.loads(ok("cache", "info", url, "--json")) for url in (place, cache))
    for key in ("content_sha256", "aliases", "licence", "restricted", "streams"):
        assert result[key] == wanted[key]
    assert "6 streams checked, whole" in ok("cache", "verify", place)
    ok("cache", "copy", place, tmp_path / "back.zarr")
    assert (
        json.loads(ok("cache", "info", tmp_path / "back.zarr", "--json"))["content_sha256"] == wanted["content_sha256"]
    )


def test_a_restricted_cache_stays_here(cache: Path) -> None:
    text = refused("cache", "copy", cache, "s3://bucket/c")
    assert "--i-have-permission" in text
    assert "EULA" in text


def test_damage_at_the_source_is_listed(cache: Path, tmp_path: Path) -> None:
    hurt(cache, "bert")
    result = run("cache", "copy", cache, tmp_path / "d.zarr")
    assert result.exit_code == 1
    assert "5 entries copied" in result.stdout
    assert "failed: bert visual/face-" in result.stdout


def test_export_and_back(cache: Path, tmp_path: Path) -> None:
    allowed = "--i-have-permission"
    assert "EULA" in refused("cache", "export", cache, "--stream", "visual", "--out", tmp_path / "out")
    text = ok("cache", "export", cache, "--stream", "visual", "--out", tmp_path / "out", allowed)
    assert text.startswith("3 clips of visual/face-")
    assert np.array_equal(np.load(tmp_path / "out/bert.npy"), np.load(tmp_path / "face/bert.npy"))
    terms = json.loads((tmp_path / "out/cache.json").read_text())
    assert (terms["licence"], terms["restricted"]) == ("EULA", True)
    ok(
        "cache",
        "export",
        cache,
        "--stream",
        "audio",
        "--out",
        tmp_path / "csv",
        "--format",
        "csv",
        "--clip",
        "anna/1",
        allowed,
    )
    assert (tmp_path / "csv/anna/1.csv").read_text().startswith("time_s,mask,feat_0")
    assert "expected" in refused("cache", "export", cache, "--stream", "visual", "--out", tmp_path / "csv", allowed)


def test_tags(cache: Path, tmp_path: Path) -> None:
    pytest.importorskip("icechunk")
    team = f"icechunk://{tmp_path / 'team'}"
    ok("cache", "copy", cache, team, "--clip", "bert")
    ok("cache", "tag", team, "v1")
    ok("cache", "copy", cache, team)
    assert len(json.loads(ok("cache", "ls", f"{team}@v1", "--json"))["clips"]) == 1
    assert len(json.loads(ok("cache", "ls", team, "--json"))["clips"]) == 3
    assert len(json.loads(ok("cache", "tag", team, "--json"))["history"]) >= 3
    assert "expected a new name" in refused("cache", "tag", team, "v1")
    assert "expected an Icechunk cache" in refused("cache", "tag", cache, "v1")


def test_status(cache: Path) -> None:
    assert "audio/voice-" in ok("status", cache)
    result = json.loads(ok("status", cache, "--json"))
    assert sorted(result["done"].values()) == [3, 3]
    assert result["clips"] is None
