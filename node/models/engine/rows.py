"""What the parts of the engine ask of each other: constraints, kept prefixes, adapters and drafts.

Whoever implements one of these runs on the thread that owns MLX.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import mlx.core as mx


class Constraint(Protocol):
    """What one row's answer must keep to, token by token."""

    def mask(self) -> "npt.NDArray[np.bool_] | None":
        """Give which tokens may come next, shape (vocabulary,); None: any."""

    def accept(self, token: int) -> None:
        """Take the token that was chosen."""

    @property
    def ended(self) -> bool:
        """Whether nothing but the model's end-of-answer may follow."""


class Prefixes(Protocol):
    """Keys and values of prompts that were read before, to be used again."""

    @property
    def nbytes(self) -> int:
        """What is held in memory."""

    @property
    def hits(self) -> int:
        """How many prompts began with something that was held."""

    @property
    def misses(self) -> int:
        """How many did not."""

    def take(self, adapter: str, tokens: Sequence[int]) -> "tuple[list[Any], int] | None":
        """Give caches for one row that may be written, with the first n of `tokens` read, and n <= len(tokens) - 1."""

    def keep(self, adapter: str, tokens: Sequence[int], caches: list[Any]) -> None:
        """Take the caches of one row; they hold exactly `tokens` and are written no more."""

    def idle(self) -> None:
        """Nobody is being answered: write to disk what is not there yet."""


class Adapters(Protocol):
    """LoRA adapters over one base, one of them or none for each row of a batch."""

    def add(self, adapter: str, directory: Path) -> None:
        """Read the adapter in `directory`.

        Raises:
            ModelRefused: it does not fit the base.
        """

    def drop(self, adapter: str) -> None:
        """Forget an adapter; no row uses it."""

    def select(self, adapters: Sequence[str]) -> None:
        """Prepare the next forward pass, which has one row for each of `adapters`; empty is the bare model."""


class Drafter(Protocol):
    """A small model that guesses what a single unconstrained row says next.

    The tokens are exactly those without a draft: the engine lets the target choose at each place, with the row's own
    random numbers, and a guess counts only where it is equal.
    """

    def guess(
        self, history: Sequence[int], at_most: int, choose: "Callable[[mx.array], mx.array]"
    ) -> "list[int] | None":
        """Give the tokens that may follow `history`, prompt and answer so far; the row then steps over all of them.

        An empty list: take one step without a guess, and ask again. None: guessing does not pay for this row; it goes
        on without, and the drafter need not be asked again before `rest`. Called with histories that mostly grow; what
        was read for the last one is used again as far as it is equal.

        `choose` is a copy of the row's own sampler, as it stands after `history`: from logits (1, vocabulary) it gives
        the token, shape (1,), not evaluated, and goes on to the next place. So the draft draws with the random numbers
        that the row will draw with, and agrees with it as often as the two models do.
        """

    def rest(self) -> None:
        """The row ended, or is no longer alone: what was read may be let go."""
