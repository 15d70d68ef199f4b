"""The clock and the source of randomness: the only ways by which time and chance enter the node."""

import secrets
import time
from typing import Protocol


class Clock(Protocol):
    """Wall-clock time for what is signed and shown, monotonic time for durations."""

    def now_s(self) -> int:
        """Return whole seconds since the Unix epoch."""

    def now_ms(self) -> int:
        """Return whole milliseconds since the Unix epoch."""

    def monotonic_s(self) -> float:
        """Return seconds from an arbitrary start that never go backwards."""


class Entropy(Protocol):
    """Random bytes fit for keys."""

    def random_bytes(self, count: int) -> bytes:
        """Return `count` unpredictable bytes."""


class SystemClock:
    """The machine's clock."""

    def now_s(self) -> int:
        """Return whole seconds since the Unix epoch."""
        return int(time.time())

    def now_ms(self) -> int:
        """Return whole milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Return seconds from an arbitrary start that never go backwards."""
        return time.monotonic()


class SystemEntropy:
    """The operating system's random source."""

    def random_bytes(self, count: int) -> bytes:
        """Return `count` unpredictable bytes."""
        return secrets.token_bytes(count)
