"""How often one peer may ask for something: a bucket that refills with time."""

from dataclasses import dataclass


@dataclass
class Budget:
    """`burst` uses at once, refilled by `per_s` a second; starts full."""

    per_s: float
    burst: float
    at_s: float
    left: float = -1.0

    def __post_init__(self) -> None:
        self.left = self.burst

    def take(self, now_s: float) -> bool:
        """Use one, or return False when none is left."""
        self.left = min(self.burst, self.left + (now_s - self.at_s) * self.per_s)
        self.at_s = now_s
        if self.left < 1:
            return False
        self.left -= 1
        return True
