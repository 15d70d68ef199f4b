"""The short way of `Text` to and from its bytes says what the long way says, for every input."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import encode
from protocol.errors import NotEncodable, ProtocolError
from protocol.worker.codec import _FROM_WORKER, _decode, _encode, decode_from_worker, encode_from_worker
from protocol.worker.fast_text import decode_text, encode_text
from protocol.worker.messages import MAX_TOKENS, Done, Text

texts = st.builds(
    Text,
    request=st.integers(0, 2**63 - 1),
    text=st.text(st.characters(exclude_categories=["Cs"])),
    thinking=st.booleans(),
    tokens=st.integers(0, MAX_TOKENS),
    logprobs_json=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
values = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5) | st.binary(max_size=5)


@given(texts)
def test_both_ways_agree(message: Text) -> None:
    data = _encode(message)
    assert encode_text(message) == data == encode_from_worker(message)
    assert decode_text(data) == message == _decode(data, _FROM_WORKER)


@given(texts, st.data())
def test_damaged_bytes_are_refused_or_read_as_the_long_way_does(message: Text, choice: st.DataObject) -> None:
    data = bytearray(encode_text(message))
    for _ in range(choice.draw(st.integers(1, 3))):
        data[choice.draw(st.integers(0, len(data) - 1))] = choice.draw(st.integers(0, 255))
    try:
        expected = _decode(bytes(data), _FROM_WORKER)
    except ProtocolError:
        assert decode_text(bytes(data)) is None
    else:
        assert decode_from_worker(bytes(data)) == expected


@given(st.dictionaries(st.sampled_from(["logprobs_json", "request", "text", "thinking", "tokens", "v"]), values))
def test_wrong_fields_are_left_to_the_long_way(wrong: dict[str, object]) -> None:
    right = {"logprobs_json": "", "request": 7, "t": "text", "text": "x", "thinking": False, "tokens": 1, "v": 1}
    data = encode({**right, **wrong})
    try:
        expected = _decode(data, _FROM_WORKER)
    except ProtocolError:
        assert decode_text(data) is None
    else:
        assert decode_text(data) in (expected, None)


def test_other_messages_and_other_orders_are_left_to_the_long_way() -> None:
    assert decode_text(encode_from_worker(Done(1, "stop", 1, 1, 1, 1, ()))) is None
    assert decode_text(b"") is None
    data = encode_text(Text(7, "x", False, 1))
    assert decode_text(data + b"\x00") is None
    assert decode_text(data[:-1]) is None


def test_half_a_character_is_our_own_bug() -> None:
    with pytest.raises(NotEncodable):
        encode_text(Text(1, "\ud800", False, 1))
    assert decode_text(encode_text(Text(1, "after it", False, 1)))
