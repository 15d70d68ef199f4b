"""What the process that converts weights says to the node while it works (specs/0021 §Conversion).

Frames of `protocol.wire` on a socketpair, each a message of `protocol.codec`, in one direction: the node says nothing
after the command line, and hangs up to end the process.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from protocol.codec import decode_message, encode_message
from protocol.errors import FieldInvalid

MAX_FRAME_BYTES: Final = 64 * 1024
MAX_ITEM_BYTES: Final = 1024
MAX_WHY_BYTES: Final = 2000
MAX_TOOLS: Final = 32
MAX_TOOL_BYTES: Final = 256
_MAX_COUNT: Final = 2**63 - 1


@dataclass(frozen=True)
class Converting:
    """`done` of `total` bytes of the new weights are written; `item` is the tensor that comes next."""

    item: str
    done: int
    total: int


@dataclass(frozen=True)
class Converted:
    """The files are written; `tools` are what did it: tool → version, and `device`. The process ends after it."""

    tools: Mapping[str, str]


@dataclass(frozen=True)
class Refused:
    """These weights cannot be converted so; the process ends after it."""

    why: str


FromConverter = Converting | Converted | Refused


def encode_from_converter(message: FromConverter) -> bytes:
    """Return the payload of a frame to the node."""
    match message:
        case Converting(item, done, total):
            return encode_message("converting", item=item, done=done, total=total)
        case Converted(tools):
            rows = [{"tool": tool, "version": version} for tool, version in sorted(tools.items())]
            return encode_message("converted", tools=rows)
        case Refused(why):
            return encode_message("refused", why=why)


def decode_from_converter(payload: bytes) -> FromConverter:
    """Return the message in `payload`.

    Raises:
        CodecInvalid: the bytes are not canonical.
        FieldInvalid: an unknown message, or a field that is missing, unknown or out of range.
    """
    kind, fields = decode_message(payload, MAX_FRAME_BYTES)
    message: FromConverter
    if kind == "converting":
        item = fields.text("item", max=MAX_ITEM_BYTES)
        message = Converting(item, fields.int("done", 0, _MAX_COUNT), fields.int("total", 0, _MAX_COUNT))
    elif kind == "converted":
        tools: dict[str, str] = {}
        rows = fields.each("tools", max=MAX_TOOLS)
        for row in rows:
            tools[row.text("tool", max=MAX_TOOL_BYTES)] = row.text("version", max=MAX_TOOL_BYTES)
            row.done()
        if len(tools) != len(rows) or list(tools) != sorted(tools):
            raise FieldInvalid("message.tools", "a tool twice, or not in name order")
        message = Converted(tools)
    elif kind == "refused":
        message = Refused(fields.text("why", max=MAX_WHY_BYTES))
    else:
        raise FieldInvalid("message.t", f"{kind!r} is unknown")
    fields.done()
    return message
