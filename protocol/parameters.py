"""The parameters that a recipe may set, with their types and ranges (specs/0009)."""

import math
import re
from dataclasses import dataclass
from typing import Final

from protocol.worker.messages import MAX_STOP_BYTES, MAX_STOPS, MAX_TOKENS

__all__ = ["MAX_STOPS", "PARAMETERS", "Parameter", "Value"]

Value = str | int | float


@dataclass(frozen=True)
class Parameter:
    """A parameter's type and range, both ends included."""

    kind: type[str] | type[int] | type[float]
    low: float = 0
    high: float = 0

    @property
    def expected(self) -> str:
        """The range in words."""
        if self.kind is str:
            return f"text of 1 to {MAX_STOP_BYTES} bytes"
        return f"a {'whole ' if self.kind is int else ''}number from {self.low} to {self.high}"

    def takes(self, text: str) -> bool:
        """Return whether `text` is a value of a parameter that is text."""
        return self.kind is str and 0 < len(text.encode(errors="replace")) <= MAX_STOP_BYTES

    def read(self, text: str) -> int | float | None:
        """Return the number that `text` spells, None where it is none within the range."""
        pattern = _INTEGER if self.kind is int else _NUMBER
        number = (int(text) if self.kind is int else float(text)) if pattern.fullmatch(text) else math.nan
        return number if self.low <= number <= self.high else None


PARAMETERS: Final[dict[str, Parameter]] = {
    "num_ctx": Parameter(int, 1, MAX_TOKENS),
    "repeat_last_n": Parameter(int, -1, 1 << 24),
    "repeat_penalty": Parameter(float, 0.001, 10),
    "temperature": Parameter(float, 0, 10),
    "seed": Parameter(int, 0, (1 << 63) - 1),
    "stop": Parameter(str),
    "num_predict": Parameter(int, -1, MAX_TOKENS),
    "top_k": Parameter(int, 0, (1 << 31) - 1),
    "top_p": Parameter(float, 0, 1),
    "min_p": Parameter(float, 0, 1),
}

_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)
