"""Frames: `u32be length ‖ payload`, the unit of every message between two nodes (specs/0010-wire)."""

from typing import Final

from protocol.errors import FrameTooLarge, FrameTruncated

HEADER_BYTES: Final = 4
MAX_FRAME_BYTES: Final = 16 * 1024 * 1024


def encode_frame(payload: bytes, max_bytes: int) -> bytes:
    """Return `payload` with its length before it.

    Raises:
        FrameTooLarge: the payload has more than `max_bytes`, the cap of the receiver.
    """
    _require_size(len(payload), max_bytes)
    return len(payload).to_bytes(HEADER_BYTES, "big") + payload


def frame_size(header: bytes, max_bytes: int) -> int:
    """Return the payload size that a 4-byte header announces, checked before anybody allocates it.

    Raises:
        FrameTooLarge: more than `max_bytes` are announced.
    """
    size = int.from_bytes(header, "big")
    _require_size(size, max_bytes)
    return size


class FrameReader:
    """Cuts a byte stream into payloads of at most `max_bytes`; holds nothing beyond what it was fed."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def receive_data(self, data: bytes) -> None:
        """Take bytes as they came from the stream."""
        self._buffer += data

    def next_frame(self) -> bytes | None:
        """Return the next whole payload, or None until more bytes come.

        Raises:
            FrameTooLarge: the next frame announces more than the cap; the stream cannot be read any further.
        """
        if len(self._buffer) < HEADER_BYTES:
            return None
        end = HEADER_BYTES + frame_size(bytes(self._buffer[:HEADER_BYTES]), self._max_bytes)
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[HEADER_BYTES:end])
        del self._buffer[:end]
        return payload

    def receive_eof(self) -> None:
        """Note that the stream ended.

        Raises:
            FrameTruncated: it ended in the middle of a frame.
        """
        if self._buffer:
            raise FrameTruncated(len(self._buffer))


def _require_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise FrameTooLarge(size, max_bytes)
