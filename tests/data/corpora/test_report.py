"""Terms of use go from a prepared manifest into the cache."""

from pathlib import Path

import pytest

from sage_va.data import InputError
from sage_va.data.corpora.report import terms_beside, terms_to_record
from sage_va.data.terms import Terms
from sage_va.tests.corpora import write


def test_terms_of_prepared_manifests(tmp_path: Path) -> None:
    write(tmp_path / "a/prepared.json", '{"licence": "EULA", "restricted": true}')
    write(tmp_path / "b/prepared.json", '{"licence": "CC0", "restricted": false}')
    write(tmp_path / "d/prepared.json", '{"licence": null, "restricted": false}')
    a, b, c, d = (str(tmp_path / name / "manifest.csv") for name in "abcd")
    assert terms_beside([d]) == Terms(None, False)
    assert terms_beside([a]) == Terms("EULA", True)
    assert terms_beside([b]) == Terms("CC0", False)
    assert terms_beside([b, a, str(tmp_path / "a/audio.csv")]) == Terms("CC0; EULA", True)
    assert terms_beside([c, str(tmp_path / "a"), str(tmp_path / "a/video.mp4")]) == Terms(None, False)


def test_what_an_extraction_records(tmp_path: Path) -> None:
    write(tmp_path / "prepared.json", '{"licence": "EULA", "restricted": true}')
    prepared, other = [str(tmp_path / "manifest.csv")], ["videos/"]
    old, free = {"licence": "EULA", "restricted": True}, {"licence": "CC0", "restricted": False}
    assert terms_to_record(prepared, "c", None, None, None) == {"licence": "EULA", "restricted": True}
    assert terms_to_record(prepared, "c", None, "mine", False) == {"licence": "mine", "restricted": False}
    assert terms_to_record(prepared, "c", old, None, None) == {"licence": None, "restricted": True}
    assert terms_to_record(prepared, "c", free, None, False) == {"licence": None, "restricted": False}
    assert terms_to_record(other, "c", free, None, None) == {"licence": None, "restricted": None}
    with pytest.raises(
        InputError, match=r"c: restricted data \(EULA\) in a cache that is not restricted\. Choose another"
    ):
        terms_to_record(prepared, "c", free, None, None)


@pytest.mark.parametrize("text", ["{", "[]", '{"licence": "EULA"}'])
def test_a_report_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    write(tmp_path / "prepared.json", text)
    with pytest.raises(
        InputError, match=r"prepared\.json: not a report of `sage-va prepare` \(\w+: .*Prepare the corpus"
    ):
        terms_beside([str(tmp_path / "manifest.csv")])
