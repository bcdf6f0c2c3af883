"""The rule that chooses a person is hashed into the identity of streams: its text must not change by accident."""

from hashlib import sha256

from sage_va.extract.faces.tracking import PERSON


def test_the_rule_that_chooses_a_person_keeps_its_words() -> None:
    assert sha256(PERSON.encode()).hexdigest() == "c9c8ac778d284158e8db68e41d0a96c76938f6336f1a3b0d7a07dd7a56de544e"
