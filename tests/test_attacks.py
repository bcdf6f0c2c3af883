"""Small files that ask for gigabytes: one line, a run that goes on, and memory under the ceiling of docs/limits.md."""

from pathlib import Path

import pytest

from sage_va.tests.attacks import attacks, run

CEILING_BYTES = 2 << 30  # of resident memory; torch and the encoders alone take 0.7 to 1 GB
NAMES = [attack.name for attack in attacks(Path())]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("attacks")


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NAMES)
def test_an_attack_is_refused_below_the_ceiling(folder: Path, name: str) -> None:
    (attack,) = (attack for attack in attacks(folder) if attack.name == name)
    attack.makes()
    ran = run(attack.words)
    assert ran.code == 1, ran.output
    assert "Traceback" not in ran.output
    assert [text for text in attack.says if text not in ran.output] == [], ran.output
    assert ran.peak < CEILING_BYTES
    print(f"{name}: {ran.peak / 2**20:.0f} MB, {ran.wall_s:.0f} s")
    if name.startswith("recordings"):
        assert "failed: good" not in ran.output, "a clip beside them is extracted all the same"
