"""A row of a batch, and what the parts of the engine ask of each other: constraints, prefixes, adapters and drafts.

Whoever implements one of these runs on the thread that owns MLX.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from node.models.engine.sampling import Place
from node.models.errors import ModelError
from protocol.worker.messages import NO_LOGPROBS, Sampling


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

    @property
    def exact(self) -> bool:
        """Whether a row can begin only where caches were kept, because they cannot be cut."""

    def take(self, adapter: str, tokens: Sequence[int]) -> "tuple[list[Any], int] | None":
        """Give caches for one row that may be written, with the first n of `tokens` read, and n <= len(tokens) - 1."""

    def keep(self, adapter: str, tokens: Sequence[int], caches: list[Any]) -> None:
        """Take what the caches of one row hold of `tokens`; a copy is kept, and the caches may be written on."""

    def keep_prompt(self, adapter: str, tokens: Sequence[int], caches: list[Any]) -> None:
        """Take what can be cut out of the caches of one row that hold exactly `tokens` and will be written on."""

    def branch(self, adapter: str, tokens: Sequence[int]) -> int:
        """Give after how many of `tokens` the caches should be kept while the rest is read, 0 for nowhere."""

    def limit(self, max_bytes: int) -> None:
        """Hold at most so many bytes in memory from now on."""

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

    def guess(self, history: Sequence[int], at_most: int, choose: Callable[[mx.array], mx.array]) -> list[int] | None:
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


@dataclass(eq=False)
class Row:
    """One answer while it is being read and generated. `most` tokens are generated at most.

    `likely` is how many likely tokens come with each chosen one, -1 for no log-probabilities. `stops` are the tokens
    that end the answer. `stopped` may be set from any thread: the row then ends before its next token.
    """

    number: int
    prompt: list[int]
    sampling: Sampling
    most: int
    stops: frozenset[int]
    adapter: str = ""
    constraint: Constraint | None = None
    likely: int = NO_LOGPROBS
    stopped: bool = False
    generated: list[int] = field(default_factory=list)
    caches: list[Any] = field(default_factory=list, repr=False)
    read: int = 0
    cached: int = 0
    drafted: int = 0
    accepted: int = 0
    place: Place = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.place = Place(self.sampling, self.prompt, self.generated)

    @property
    def rest(self) -> int:
        """How many tokens of the prompt were not read yet."""
        return len(self.prompt) - self.read

    @property
    def tokens(self) -> list[int]:
        """The prompt and the answer so far."""
        return self.prompt + self.generated

    def take(self, token: int) -> str:
        """Take the token that was chosen; return why the answer ends with it, or nothing.

        Raises:
            FormatInvalid: the row's constraint went over a limit.
        """
        self.generated.append(token)
        self.place.take(token)
        if token in self.stops:
            return "stop"
        if self.constraint is not None:
            self.constraint.accept(token)
        return "length" if len(self.generated) >= self.most else ""


@dataclass(frozen=True)
class Likely:
    """What a chosen token and the likeliest ones at its place weigh: natural logarithms of their chances."""

    chosen: float
    tokens: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Chosen:
    """A token of a row; `ending` is `stop` or `length` where it is the last one."""

    row: Row
    token: int
    ending: str = ""
    likely: Likely | None = None


class Listener(Protocol):
    """Hears what becomes of the rows; called on the thread that owns MLX, while the next step is being computed."""

    def read(self, row: Row) -> None:
        """More of the row's prompt was read."""

    def chosen(self, tokens: Sequence[Chosen]) -> None:
        """One step chose these."""

    def failed(self, row: Row, error: ModelError) -> None:
        """The row ended because of `error`."""
