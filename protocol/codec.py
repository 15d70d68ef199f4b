"""Canonical msgpack: one value, one encoding (specs/0010-wire).

Values are None, bool, int (-2^63 … 2^64-1), bytes, str, lists and maps with text keys in ascending order; every
length and integer in its shortest form; no floats, no extension types. Decoding refuses everything else, so that
bytes that were signed or hashed are the only bytes that say the same thing.
"""

import builtins
from collections.abc import Mapping, Sequence
from typing import Final

import msgpack

from protocol.errors import CodecInvalid, FieldInvalid, NotEncodable

MAX_DEPTH: Final = 16
MAX_ITEMS: Final = 65_536
VERSION: Final = 1

_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**64 - 1
# First byte -> (bytes of the number that follows, smallest value that needs this form).
_UINT_FORMS: Final = {0xCC: (1, 0x80), 0xCD: (2, 0x100), 0xCE: (4, 0x1_0000), 0xCF: (8, 0x1_0000_0000)}
# First byte -> (bytes of the number that follows, first value that a shorter form could have held).
_INT_FORMS: Final = {0xD0: (1, -0x20), 0xD1: (2, -0x80), 0xD2: (4, -0x8000), 0xD3: (8, -0x8000_0000)}
_BYTES_FORMS: Final = {0xC4: (1, 0), 0xC5: (2, 0x100), 0xC6: (4, 0x1_0000)}
_TEXT_FORMS: Final = {0xD9: (1, 0x20), 0xDA: (2, 0x100), 0xDB: (4, 0x1_0000)}
_LIST_FORMS: Final = {0xDC: (2, 0x10), 0xDD: (4, 0x1_0000)}
_MAP_FORMS: Final = {0xDE: (2, 0x10), 0xDF: (4, 0x1_0000)}
_CONSTANTS: Final[dict[int, bool | None]] = {0xC0: None, 0xC2: False, 0xC3: True}


def encode(value: object) -> bytes:
    """Return the canonical encoding of `value`.

    Raises:
        NotEncodable: a float, a key that is not text, an integer beyond 64 bits, more than 16 levels (our own bug).
    """
    packed: bytes = msgpack.packb(_canonical(value, 0), use_bin_type=True)
    return packed


def decode(data: bytes, max_bytes: int, max_items: int = MAX_ITEMS) -> object:
    """Return the value that `data` is the canonical encoding of.

    The size is checked first; at most `max_items` values are built.

    Raises:
        CodecInvalid: too large, truncated, followed by more bytes, or not canonical.
    """
    if len(data) > max_bytes:
        raise CodecInvalid(0, f"{len(data)} bytes, at most {max_bytes} are allowed")
    decoder = _Decoder(data, max_items)
    value = decoder.value(0)
    if decoder.position != len(data):
        raise CodecInvalid(decoder.position, f"{len(data) - decoder.position} bytes after the end of the value")
    return value


def encode_message(kind: str, **fields: object) -> bytes:
    """Return a message as it goes into a frame: a map with `v` = 1, `t` = `kind` and `fields`."""
    return encode({"v": VERSION, "t": kind, **fields})


def decode_message(data: bytes, max_bytes: int, max_items: int = MAX_ITEMS) -> "tuple[str, Fields]":
    """Return the message's type and its other fields, still to be read.

    Raises:
        CodecInvalid: the bytes are not canonical.
        FieldInvalid: it is no map, or `v` or `t` is missing or unknown.
    """
    fields = Fields(decode(data, max_bytes, max_items), "message")
    fields.int("v", VERSION, VERSION)
    return fields.text("t", max=32), fields


class Fields:
    """Typed, capped reading of a decoded map; `done()` refuses the keys that nobody asked for."""

    def __init__(self, value: object, path: str) -> None:
        """Take a decoded map; `path` names it in errors, as in `ticket`.

        Raises:
            FieldInvalid: the value is not a map with text keys.
        """
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise FieldInvalid(path, f"expected a map, found {_type_name(value)}")
        self.path = path
        self._values: dict[str, object] = value
        self._read: set[str] = set()

    def has(self, name: str) -> builtins.bool:
        """Return whether the optional field `name` is present."""
        return name in self._values

    def int(self, name: str, lo: builtins.int, hi: builtins.int) -> builtins.int:
        """Return an integer from `lo` to `hi`, both included."""
        value = self._take(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.invalid(name, f"expected an integer, found {_type_name(value)}")
        if not lo <= value <= hi:
            raise self.invalid(name, f"{value} is not between {lo} and {hi}")
        return value

    def bool(self, name: str) -> builtins.bool:
        """Return true or false."""
        value = self._take(name)
        if not isinstance(value, bool):
            raise self.invalid(name, f"expected true or false, found {_type_name(value)}")
        return value

    def bytes(
        self, name: str, *, length: builtins.int | None = None, max: builtins.int | None = None
    ) -> builtins.bytes:
        """Return a byte string of exactly `length` bytes, or of at most `max`."""
        value = self._take(name)
        if not isinstance(value, bytes):
            raise self.invalid(name, f"expected bytes, found {_type_name(value)}")
        if length is not None and len(value) != length:
            raise self.invalid(name, f"{len(value)} bytes, expected {length}")
        if max is not None and len(value) > max:
            raise self.invalid(name, f"{len(value)} bytes, at most {max} are allowed")
        return value

    def text(self, name: str, *, max: builtins.int) -> str:
        """Return a text of at most `max` bytes in UTF-8."""
        value = self._take(name)
        if not isinstance(value, str):
            raise self.invalid(name, f"expected text, found {_type_name(value)}")
        if len(value.encode()) > max:
            raise self.invalid(name, f"text of {len(value.encode())} bytes, at most {max} are allowed")
        return value

    def list(self, name: str, *, max: builtins.int) -> builtins.list[object]:
        """Return a list of at most `max` values."""
        value = self._take(name)
        if not isinstance(value, list):
            raise self.invalid(name, f"expected a list, found {_type_name(value)}")
        if len(value) > max:
            raise self.invalid(name, f"{len(value)} items, at most {max} are allowed")
        return value

    def texts(self, name: str, *, max: builtins.int, max_each: builtins.int) -> "tuple[str, ...]":
        """Return a list of at most `max` texts of at most `max_each` bytes each."""
        values = self.list(name, max=max)
        for index, value in enumerate(values):
            if not isinstance(value, str) or len(value.encode()) > max_each:
                raise self.invalid(f"{name}[{index}]", f"expected text of at most {max_each} bytes")
        return tuple(value for value in values if isinstance(value, str))

    def fields(self, name: str) -> "Fields":
        """Return a nested map."""
        return Fields(self._take(name), f"{self.path}.{name}")

    def each(self, name: str, *, max: builtins.int) -> "builtins.list[Fields]":
        """Return a list of at most `max` maps."""
        values = self.list(name, max=max)
        return [Fields(value, f"{self.path}.{name}[{index}]") for index, value in enumerate(values)]

    def done(self) -> None:
        """Check that every key was read.

        Raises:
            FieldInvalid: a key that this version does not know.
        """
        for name in self._values:
            if name not in self._read:
                raise self.invalid(name[:40], "unknown field")

    def invalid(self, name: str, reason: str) -> FieldInvalid:
        """Return the error for field `name`, to be raised by the caller."""
        return FieldInvalid(f"{self.path}.{name}", reason)

    def _take(self, name: str) -> object:
        if name not in self._values:
            raise self.invalid(name, "missing")
        self._read.add(name)
        return self._values[name]


def _canonical(value: object, depth: int) -> object:
    if depth > MAX_DEPTH:
        raise NotEncodable(f"more than {MAX_DEPTH} levels")
    match value:
        case None | bool() | bytes():
            return value
        case int():
            if not _INT_MIN <= value <= _INT_MAX:
                raise NotEncodable("an integer beyond 64 bits")
            return value
        case str():
            return _require_utf8(value)
        case Mapping():
            if not all(isinstance(key, str) for key in value):
                raise NotEncodable("a key that is not text")
            # Ascending code points are ascending UTF-8 bytes.
            return {_require_utf8(key): _canonical(value[key], depth + 1) for key in sorted(value)}
        case Sequence() if not isinstance(value, bytearray | memoryview):
            return [_canonical(item, depth + 1) for item in value]
    raise NotEncodable(f"a value of type {type(value).__name__}")


def _require_utf8(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise NotEncodable("text with a lone surrogate")
    return text


class _Decoder:
    def __init__(self, data: bytes, max_items: int) -> None:
        self.position = 0
        self._data = data
        self._items_left = max_items

    def value(self, depth: int) -> object:
        start = self.position
        if depth > MAX_DEPTH:
            raise CodecInvalid(start, f"more than {MAX_DEPTH} levels")
        self._items_left -= 1
        if self._items_left < 0:
            raise CodecInvalid(start, "too many items")
        first = self._take(1)[0]
        if first <= 0x7F:
            return first
        if first >= 0xE0:
            return first - 0x100
        if first <= 0x8F:
            return self._map(first & 0x0F, depth)
        if first <= 0x9F:
            return self._list(first & 0x0F, depth)
        if first <= 0xBF:
            return self._text(first & 0x1F)
        return self._long_form(first, start, depth)

    def _long_form(self, first: int, start: int, depth: int) -> object:
        if first in _CONSTANTS:
            return _CONSTANTS[first]
        if first in _TEXT_FORMS:
            return self._text(self._number(_TEXT_FORMS[first]))
        if first in _BYTES_FORMS:
            return self._take(self._number(_BYTES_FORMS[first]))
        if first in _UINT_FORMS:
            return self._number(_UINT_FORMS[first])
        if first in _INT_FORMS:
            return self._negative(_INT_FORMS[first])
        if first in _LIST_FORMS:
            return self._list(self._number(_LIST_FORMS[first]), depth)
        if first in _MAP_FORMS:
            return self._map(self._number(_MAP_FORMS[first]), depth)
        raise CodecInvalid(start, f"type byte 0x{first:02x} is not allowed")

    def _number(self, form: tuple[int, int]) -> int:
        start, (width, smallest) = self.position, form
        value = int.from_bytes(self._take(width), "big")
        if value < smallest:
            raise CodecInvalid(start, "a number that is not in its shortest form")
        return value

    def _negative(self, form: tuple[int, int]) -> int:
        start, (width, shorter) = self.position, form
        value = int.from_bytes(self._take(width), "big", signed=True)
        if value >= shorter:
            raise CodecInvalid(start, "a number that is not in its shortest form")
        return value

    def _text(self, size: int) -> str:
        start = self.position
        try:
            return self._take(size).decode()
        except UnicodeDecodeError as error:
            raise CodecInvalid(start + error.start, "text that is not UTF-8") from None

    def _list(self, count: int, depth: int) -> list[object]:
        return [self.value(depth + 1) for _ in range(count)]

    def _map(self, count: int, depth: int) -> dict[str, object]:
        result: dict[str, object] = {}
        last: str | None = None
        for _ in range(count):
            start = self.position
            key = self.value(depth + 1)
            if not isinstance(key, str):
                raise CodecInvalid(start, f"expected a text key, found {_type_name(key)}")
            if last is not None and key <= last:
                raise CodecInvalid(start, "keys that are not in ascending order")
            last, result[key] = key, self.value(depth + 1)
        return result

    def _take(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self._data):
            raise CodecInvalid(self.position, f"expected {size} bytes, found {len(self._data) - self.position}")
        taken = self._data[self.position : end]
        self.position = end
        return taken


def _type_name(value: object) -> str:
    names = {dict: "a map", list: "a list", str: "text", bytes: "bytes", int: "an integer", bool: "true or false"}
    return names.get(type(value), "nothing")
