"""Frames: cut at every place, capped before allocation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import FrameTooLarge, FrameTruncated
from protocol.wire import FrameReader, encode_frame


@given(st.lists(st.binary(max_size=50)), st.integers(1, 7))
def test_frames_survive_any_cutting(payloads: list[bytes], step: int) -> None:
    stream = b"".join(encode_frame(payload, 50) for payload in payloads)
    reader, found = FrameReader(50), []
    for start in range(0, len(stream), step):
        reader.receive_data(stream[start : start + step])
        while (frame := reader.next_frame()) is not None:
            found.append(frame)
    reader.receive_eof()
    assert found == payloads


def test_a_length_over_the_cap_is_refused_on_the_header_alone() -> None:
    reader = FrameReader(10)
    reader.receive_data(b"\x00\x00\x00\x0b")
    with pytest.raises(FrameTooLarge) as caught:
        reader.next_frame()
    assert (caught.value.size_bytes, caught.value.max_bytes) == (11, 10)


def test_the_cap_itself_is_allowed() -> None:
    reader = FrameReader(10)
    reader.receive_data(encode_frame(bytes(10), 10))
    assert reader.next_frame() == bytes(10)


def test_too_much_is_not_sent_either() -> None:
    with pytest.raises(FrameTooLarge):
        encode_frame(bytes(11), 10)


def test_an_end_inside_a_frame_is_named() -> None:
    reader = FrameReader(10)
    reader.receive_data(b"\x00\x00\x00\x02a")
    assert reader.next_frame() is None
    with pytest.raises(FrameTruncated):
        reader.receive_eof()
