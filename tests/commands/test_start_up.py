"""Start-up: a command imports only what it needs, and `python -m sage_va` is the command line."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "zarr", "h5py", "timm", "transformers", "torchvision", "av", "cv2", "matplotlib", "pydantic"}
NUMERIC = HEAVY | {"numpy", "ml_dtypes", "yaml", "tqdm", "fsspec", "huggingface_hub"}
CACHE = str(Path(__file__).parents[1] / "golden" / "schema-1" / "c.zarr")
CODE = """
import sys
sys.argv = ["sage-va", *{arguments!r}]
from sage_va.cli import main
try:
    main()
finally:
    print("imported:", *sorted({watched!r} & sys.modules.keys()), file=sys.stderr)
"""


def imported(*arguments: str, code: int = 0) -> tuple[set[str], str]:
    """The watched packages that a command imports, and what it prints."""
    script = CODE.format(arguments=list(arguments), watched=NUMERIC)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == code, done.stderr
    *errors, last = done.stderr.splitlines()
    return set(last.removeprefix("imported:").split()), done.stdout + "\n".join(errors)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["train", "--help"], ["cache", "copy", "-h"]], ids=" ".join
)
def test_help_imports_no_numeric_package(arguments: list[str]) -> None:
    packages, text = imported(*arguments)
    assert packages == set()
    assert "sage" in text


def test_cache_info_reads_without_zarr_and_torch() -> None:
    packages, text = imported("cache", "info", CACHE)
    assert not packages & HEAVY
    assert "content " in text


def test_variants_are_listed_without_their_networks() -> None:
    packages, text = imported("variants")
    assert not packages & HEAVY
    assert "sage-no-stage" in text


def test_errors_of_a_manifest_come_before_heavy_imports(tmp_path: Path) -> None:
    manifest = tmp_path / "clips.csv"
    manifest.write_text("clip,path\na,a.mp4\n")
    packages, text = imported("extract", str(manifest), "--out", str(tmp_path / "c.zarr"), "--visual", "x", code=1)
    assert not packages & HEAVY
    assert "clip_id" in text


def test_the_module_is_the_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "sage_va", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: sage-va ")
    assert "predict" in done.stdout
