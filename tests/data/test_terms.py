"""Terms and marks: one text for the cards of data sets and of models."""

from sage_va.data.terms import Terms, cell, table, untrained_mark


def test_a_licence_is_named_as_the_hub_spells_it() -> None:
    assert Terms("CC-BY-4.0", False).header() == {"license": "cc-by-4.0"}
    assert Terms("EULA of X!", False).header() == {"license": "other", "license_name": "eula-of-x"}
    assert Terms(None, False).header() == {"license": "other", "license_name": "not-stated"}
    assert Terms("©", False).header() == {"license": "other", "license_name": "other"}


def test_restricted_data_have_a_gate_and_a_warning() -> None:
    free, gated = Terms("mit", False), Terms("EULA | <b>", True)
    assert free.gate("This model was trained on", "the model") is None
    assert free.paragraph("Licence", "keep it private.") == "Licence: mit."
    assert (gated.gate("This model was trained on", "the model") or "").startswith(
        "This model was trained on data under"
    )
    assert (gated.gate("", "the features") or "").endswith("you will not pass the features on.")
    assert gated.paragraph("Licence", "keep it private.") == "Licence: EULA    b . **Restricted:** keep it private."


def test_marks_and_tables() -> None:
    assert untrained_mark(["visual/a", "audio/b"]) == "UNTRAINED ENCODER (random weights): visual/a, audio/b"
    assert table(["a", "b"], [["1|2", "x\n"]]) == "| a | b |\n| --- | --- |\n| 1 2 | x  |"
    assert cell("<a|b>") == " a b "
