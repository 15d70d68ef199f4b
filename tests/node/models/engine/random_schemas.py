"""JSON schemas by chance, of the keywords that people write."""

from collections.abc import Callable
from random import Random
from typing import Any

Draw = Callable[[Random, int], dict[str, Any]]
WORDS = ("city", "days", "name", "tags", "unit", "note", "x_y", "a-b", "Größe")


def draw_schema(source: Random, depth: int = 3) -> dict[str, Any]:
    """Give a schema with at most `depth` levels below it."""
    kinds: list[Draw] = [_string, _integer, _number, _choice, _boolean, _null]
    if depth:
        kinds += [_array, _object, _object, _union]
    return source.choice(kinds)(source, depth)


def draw_object(source: Random, depth: int = 2) -> dict[str, Any]:
    """Give the schema of an object, as tools have it for their arguments."""
    return _object(source, depth + 1)


def _string(source: Random, _depth: int) -> dict[str, Any]:
    limits: list[dict[str, Any]] = [
        {},
        {},
        {"maxLength": source.randint(0, 12)},
        {"minLength": 2, "maxLength": 6},
        {"pattern": "^[a-z]{2,5}-[0-9]+$"},
        {"pattern": "[A-Z]"},
        {"format": source.choice(["date", "ipv4", "uuid", "time", "date-time"])},
        {"format": "of-my-own"},
    ]
    return {"type": "string", **source.choice(limits)}


def _integer(source: Random, _depth: int) -> dict[str, Any]:
    low = source.randint(-50, 50)
    return {
        "type": "integer",
        **source.choice([{}, {"minimum": low}, {"minimum": low, "maximum": low + source.randint(0, 200)}]),
    }


def _number(source: Random, _depth: int) -> dict[str, Any]:
    return {"type": "number", **source.choice([{}, {"minimum": 0, "maximum": 1.5}, {"exclusiveMinimum": -2}])}


def _choice(source: Random, _depth: int) -> dict[str, Any]:
    return source.choice(
        [
            {"enum": ["red", "green", "dark blue"]},
            {"type": "string", "enum": ["celsius", "fahrenheit"]},
            {"const": "fixed"},
            {"enum": [1, "one", None, [1, 2]]},
            {"type": "string", "enum": ["a<b", 'say "x"', "line\nbreak"]},
        ]
    )


def _boolean(_source: Random, _depth: int) -> dict[str, Any]:
    return {"type": "boolean"}


def _null(_source: Random, _depth: int) -> dict[str, Any]:
    return {"type": ["null", "string"]}


def _array(source: Random, depth: int) -> dict[str, Any]:
    return {"type": "array", "items": draw_schema(source, depth - 1), "minItems": source.randint(0, 2), "maxItems": 3}


def _object(source: Random, depth: int) -> dict[str, Any]:
    names = source.sample(WORDS, source.randint(0, 4))
    return {
        "type": "object",
        "properties": {name: draw_schema(source, depth - 1) for name in names},
        "required": [name for name in names if source.random() < 0.6],
        **source.choice([{}, {"additionalProperties": False}]),
    }


def _union(source: Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [draw_schema(source, depth - 1) for _ in range(source.randint(1, 3))]}
