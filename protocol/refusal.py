"""The one way to say no on any stream: `{"v":1,"t":"refused","code":…,"why":…}` (specs/0010-wire)."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from protocol.codec import Fields, encode_message
from protocol.text import clean_text

REFUSED: Final = "refused"
MAX_WHY_BYTES: Final = 300


class RefusalCode(StrEnum):
    """Why a stream was refused; a receiver treats a code that it does not know as `bad-request`."""

    NOT_LINKED = "not-linked"
    NOT_OWN_DEVICE = "not-own-device"
    NOT_FOUND = "not-found"
    BUSY = "busy"
    BAD_REQUEST = "bad-request"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Refusal:
    """A refusal as it was received; `why` is cleaned for display and never decides anything."""

    code: str
    why: str


def encode_refusal(code: str, why: str) -> bytes:
    """Return the refusal message; `why` is cut to what the receiver accepts."""
    return encode_message(REFUSED, code=str(code), why=clean_text(why, MAX_WHY_BYTES // 4))


def parse_refusal(fields: Fields) -> Refusal:
    """Return the refusal in a message whose type was `refused`.

    Raises:
        FieldInvalid: `code` or `why` is missing or too long, or there is another field.
    """
    code = clean_text(fields.text("code", max=32), 32)
    why = clean_text(fields.text("why", max=MAX_WHY_BYTES), MAX_WHY_BYTES)
    fields.done()
    return Refusal(code, why)
