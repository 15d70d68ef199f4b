"""How long a model that keeps failing rests before it is tried again."""

from dataclasses import dataclass
from typing import Final

# The second failure in a row waits one second, each further one twice as long as the one before.
FIRST_REST_S: Final = 1.0
LONGEST_REST_S: Final = 60.0


@dataclass
class Backoff:
    """Failures of one model since it last answered; times are monotonic seconds.

    One failure costs no wait: what a single request did to a worker is no reason to keep the next one waiting.
    """

    failures: int = 0
    rests_until_s: float = 0.0

    def failed(self, now_s: float) -> None:
        """Note that the worker ended on its own, or never came up."""
        self.failures += 1
        if self.failures > 1:
            rest_s = min(LONGEST_REST_S, FIRST_REST_S * 2.0 ** min(self.failures - 2, 16))
            self.rests_until_s = now_s + rest_s

    def left_s(self, now_s: float) -> float:
        """Return how long it still rests; 0 when it may be tried."""
        return max(0.0, self.rests_until_s - now_s)
