"""Request bodies: UTF-8 JSON objects, strictly; what JSON parsers let through by habit is refused here once."""

import json
import sys
from typing import Any, Final, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from node.api.errors import BodyInvalid

MAX_DEPTH: Final = 64
# Each takes its time to be looked at, in which nobody else is served.
MAX_OBJECTS: Final = 100_000

B = TypeVar("B", bound=BaseModel)


def parse_body(body: bytes, schema: type[B]) -> B:
    """Return the request in `body`.

    Raises:
        BodyInvalid: no body, not UTF-8, not JSON, NaN or Infinity, nested too deeply, of too many parts, lone
            surrogates, no object, or a field that the schema refuses; `param` then names it.
    """
    value = parse_json_object(body)
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        param = ".".join(str(part) for part in first["loc"]) or None
        if first["type"] == "extra_forbidden":
            raise BodyInvalid(f"Unrecognized request argument supplied: {param}", param) from None
        raise BodyInvalid(f"{param}: {first['msg']}" if param else first["msg"], param) from None


def parse_json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`.

    Raises:
        BodyInvalid: see `parse_body`.
    """
    if not body.strip():
        raise BodyInvalid("missing request body")
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite, parse_int=_whole)
    except UnicodeDecodeError as error:
        raise BodyInvalid(f"request body is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise BodyInvalid(f"request body is nested more than {MAX_DEPTH} levels deep") from None
    except ValueError as error:
        raise BodyInvalid(f"request body is not JSON: {error}") from None
    _check(value)
    if not isinstance(value, dict):
        raise BodyInvalid("request body is not a JSON object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:20]} is beyond every number")
    return value


def _whole(text: str) -> int:
    value = int(text)
    if abs(value) > sys.float_info.max:
        raise ValueError(f"{text[:20]} is beyond every number")
    return value


def _check(value: object) -> None:
    objects = 0
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        if not level:
            return
        following: list[object] = []
        for item in level:
            if isinstance(item, dict):
                objects += 1
                following += item.keys()
                following += item.values()
            elif isinstance(item, list):
                objects += 1
                following += item
            elif isinstance(item, str) and not item.isascii():
                _require_characters(item)
            if objects > MAX_OBJECTS:
                raise BodyInvalid(f"request body has more than {MAX_OBJECTS} objects and lists")
        level = following
    raise BodyInvalid(f"request body is nested more than {MAX_DEPTH} levels deep")


def _require_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BodyInvalid(f"half a character (\\u{ord(text[error.start]):04x}) in a text") from None
