"""Hostile bytes into the decoders of frames and values: only named errors come out."""

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import decode, decode_message, encode
from protocol.errors import CodecInvalid, FieldInvalid, FrameTooLarge
from protocol.refusal import parse_refusal
from protocol.wire import FrameReader


@given(st.binary(max_size=400))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    with suppress(CodecInvalid):
        assert encode(decode(data, 400)) == data


@given(st.binary(max_size=400))
def test_any_bytes_are_a_message_or_are_refused(data: bytes) -> None:
    with suppress(CodecInvalid, FieldInvalid):
        kind, fields = decode_message(data, 400)
        assert kind
        parse_refusal(fields)


@given(st.lists(st.binary(max_size=40)))
def test_any_bytes_are_frames_or_are_refused(chunks: list[bytes]) -> None:
    reader = FrameReader(30)
    with suppress(FrameTooLarge):
        for chunk in chunks:
            reader.receive_data(chunk)
            while (frame := reader.next_frame()) is not None:
                assert len(frame) <= 30
