"""`Text`, the message of which there is one for each token, to and from its bytes in a tenth of the time.

The bytes are those that `protocol.codec` writes, and what it would refuse is left for it to refuse: here the work is
done by msgpack's own code, and a decoded message counts only if it encodes to the very bytes that it came from.
"""

from typing import Any, Final

import msgpack

from protocol.codec import VERSION
from protocol.errors import NotEncodable
from protocol.worker.messages import MAX_TEXT_BYTES, MAX_TOKENS, Text

# Ascending, as the canonical encoding has them.
_KEYS: Final = ("logprobs_json", "request", "t", "text", "thinking", "tokens", "v")
_MAX_COUNT: Final = 2**63 - 1
_BEGIN: Final = b"\x87\xadlogprobs_json"
_pack: Final[Any] = msgpack.Packer(use_bin_type=True).pack
_unpack: Final[Any] = msgpack.unpackb


def encode_text(message: Text) -> bytes:
    """Return the canonical payload of `message`.

    Raises:
        NotEncodable: a text with a lone surrogate (our own bug).
    """
    fields = {
        "logprobs_json": message.logprobs_json,
        "request": message.request,
        "t": "text",
        "text": message.text,
        "thinking": message.thinking,
        "tokens": message.tokens,
        "v": VERSION,
    }
    try:
        return bytes(_pack(fields))
    except UnicodeEncodeError:
        raise NotEncodable("text with a lone surrogate") from None


def decode_text(data: bytes) -> Text | None:
    """Return the message in `data` if it is a well-formed `Text` in its canonical encoding, else None."""
    if not data.startswith(_BEGIN) or len(data) > MAX_TEXT_BYTES:
        return None
    try:
        fields = _unpack(data, max_map_len=len(_KEYS), max_array_len=0, max_ext_len=0)
        if tuple(fields) != _KEYS or _pack(fields) != data:
            return None
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    logprobs_json, request, kind, text, thinking, tokens, version = fields.values()
    well_formed = (
        kind == "text"
        and type(version) is int
        and version == VERSION
        and type(request) is int
        and 0 <= request <= _MAX_COUNT
        and type(tokens) is int
        and 0 <= tokens <= MAX_TOKENS
        and type(text) is str
        and type(logprobs_json) is str
        and type(thinking) is bool
    )
    return Text(request, text, thinking, tokens, logprobs_json) if well_formed else None
