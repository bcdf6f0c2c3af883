"""The rule that chooses a person is hashed into the identity of streams: its text must not change by accident."""

from hashlib import sha256

from sage_va.extract.faces.tracking import PERSON


def test_the_rule_that_chooses_a_person_keeps_its_words() -> None:
    assert sha256(PERSON.encode()).hexdigest() == "8d54cfbdc7a60e8b48eafbc21d898298f78e302fca0a85a5668c442ea7547008"
