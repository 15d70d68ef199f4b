"""JSON with one spelling: sorted keys, no spaces, UTF-8; read strictly and under a cap."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Final

from protocol.errors import JsonInvalid

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]

# What bounds the memory that a document can be made to take: 4,096 layers with 64 annotations each are 270,000.
MAX_VALUES: Final = 400_000


def encode_json(value: Json) -> bytes:
    """Return the one canonical spelling of `value`; keys are sorted by code point, NaN and infinity have none."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    return text.encode()


def decode_json(data: bytes, max_bytes: int, what: str) -> object:
    """Return the value that `data` spells; `what` names the document in errors.

    Raises:
        JsonInvalid: over `max_bytes` or 400,000 values, not UTF-8, not JSON, a key twice in one object, NaN or
            infinity, or nested deeper than the interpreter's own bound.
    """
    if len(data) > max_bytes:
        raise JsonInvalid(what, f"{len(data)} bytes, at most {max_bytes} are allowed")
    # Before anything is built; a mark inside a text counts as well, which no document here comes near to.
    values = sum(map(data.count, (b",", b"[", b"{")))
    if values > MAX_VALUES:
        raise JsonInvalid(what, f"{values} values, at most {MAX_VALUES} are allowed")
    try:
        return json.loads(
            data.decode(),
            object_pairs_hook=_object_without_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
        )
    except UnicodeDecodeError as error:
        raise JsonInvalid(what, f"no UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise JsonInvalid(what, "nested too deeply") from None
    except ValueError as error:
        raise JsonInvalid(what, str(error)) from None


def _object_without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {key[:80]!r} twice in one object")
            seen.add(key)
    return found


def _finite_float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:40]} is too large for a number")
    return number


def _refuse_constant(text: str) -> object:
    raise ValueError(f"{text} is no JSON number")
