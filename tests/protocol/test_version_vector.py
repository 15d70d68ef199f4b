"""Version vectors: what one side lacks."""

from identity.did import DeviceId
from identity.testing import key_from_number
from protocol.feed import EMPTY_HEAD, EntryId, Head
from protocol.version_vector import Held, VersionVector, decode_vector, encode_vector, first_missing

A, B, C = sorted(key_from_number(number).did for number in (1, 2, 3))


def entry_id(author: DeviceId, sequence: int) -> EntryId:
    return EntryId(f"{ord(author[-1]):02x}{sequence:02x}" * 16) if sequence else EMPTY_HEAD.id


def head(author: DeviceId, sequence: int) -> Head:
    return Head(sequence, entry_id(author, sequence))


def vector(**sequences: int) -> VersionVector:
    authors = {"a": A, "b": B, "c": C}
    return VersionVector({authors[name]: Held(head(authors[name], at)) for name, at in sequences.items()})


def test_a_vector_survives_encoding() -> None:
    whole = VersionVector({A: Held(head(A, 3)), B: Held(EMPTY_HEAD, closed=True)})
    assert decode_vector(list[object](encode_vector(whole))) == whole


def test_what_is_missing_starts_after_what_the_other_holds() -> None:
    assert first_missing(vector(a=5, b=2), vector(a=3), entry_id) == {A: 4, B: 1}
    assert first_missing(vector(a=3), vector(a=5, c=9), entry_id) == {}
    assert first_missing(vector(a=3), vector(a=3), entry_id) == {}
    assert first_missing(vector(), vector(a=3), entry_id) == {}


def test_nothing_is_sent_of_an_author_that_the_other_has_closed() -> None:
    closed = VersionVector({A: Held(head(A, 3), closed=True), B: Held(EMPTY_HEAD, closed=True)})
    assert first_missing(vector(a=5, b=5, c=1), closed, entry_id) == {C: 1}


def test_a_rival_head_is_answered_with_ours_of_its_sequence() -> None:
    rival = VersionVector({A: Held(Head(3, EntryId("ff" * 32)))})
    assert first_missing(vector(a=3), rival, entry_id) == {A: 3}
    assert first_missing(vector(a=7), rival, entry_id) == {A: 3}
    assert first_missing(vector(a=2), rival, entry_id) == {}  # the other side will see it
