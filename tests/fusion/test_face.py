"""`sage_va.fusion` offers what the author of a variant needs, and imports torch only when a name is used."""

import subprocess
import sys

import pytest

from sage_va import fusion


def test_every_name_is_there_and_others_are_not() -> None:
    assert set(fusion.__all__) <= set(dir(fusion))
    for name in fusion.__all__:
        assert getattr(fusion, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'Varient'"):
        _ = fusion.Varient  # pyright: ignore[reportAttributeAccessIssue]


def test_the_package_itself_does_not_import_torch() -> None:
    code = "import sys, sage_va.fusion; sage_va.fusion.Variant; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
