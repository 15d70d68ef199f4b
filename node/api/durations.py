"""`keep_alive` as clients write it: a number of seconds, or a duration in Go's notation."""

import re
from typing import Final

from node.api.errors import BodyInvalid

FOREVER_S: Final = -1.0
# Go counts durations in 64-bit nanoseconds: about 292 years. More is for ever.
_MAX_S: Final = (2**63 - 1) / 1e9
_UNITS_S: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"([0-9]{1,19}(?:\.[0-9]{0,19})?|\.[0-9]{1,19})(ns|us|µs|μs|ms|s|m|h)")


def parse_keep_alive(value: object) -> float | None:
    """Return seconds, `FOREVER_S` for any negative duration, or None where nothing was said.

    Raises:
        BodyInvalid: neither a number nor a duration; a bare `"300"` has no unit.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise BodyInvalid("keep_alive: expected a number of seconds or a duration such as 5m", "keep_alive")
    seconds = parse_go_duration(value) if isinstance(value, str) else float(value)
    return FOREVER_S if seconds < 0 or seconds > _MAX_S else seconds


def parse_go_duration(text: str) -> float:
    """Return the seconds that `text` means, as Go's `time.ParseDuration`: `1h30m`, `-1.5s`, `0`.

    Raises:
        BodyInvalid: anything else.
    """
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0.0
    total, position = 0.0, 0
    while part := _PART.match(rest, position):
        total += float(part.group(1)) * _UNITS_S[part.group(2)]
        position = part.end()
    if not rest or position != len(rest):
        problem = "missing unit in" if re.fullmatch(r"[0-9.]+", rest[position:]) else "invalid"
        raise BodyInvalid(f'time: {problem} duration "{text[:40]}"', "keep_alive")
    return sign * total
