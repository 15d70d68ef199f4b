"""One request for embeddings on its way: texts become rows of tokens, rows become vectors, vectors go out in order."""

import json
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from node.models.engine.embedder import Embedder, Tokens
from protocol.worker.messages import MAX_VECTOR_BYTES, Embed, Vectors

# Vectors of so many inputs are held until they can go in order; within them, batches are formed by length.
GROUP: Final = 256
# Characters that are made into tokens between two looks at who else waits.
STEP_CHARS: Final = 1 << 20
# A row that is read with longer ones is at least this part of their length: the rest of it is filled up.
FITTING: Final = 0.5
# Few tokens cost hardly more than one: up to this length, rows of any length are read together.
SHORT_TOKENS: Final = 16
_FLOAT: Final = np.dtype("<f4")


class EmbeddingJob:
    """A request and what is left of it."""

    def __init__(self, request: Embed, started_ns: int) -> None:
        self.number = request.request
        self.started_ns = started_ns
        self.token_count = 0
        self.done = 0
        self._request = request
        self._inputs: Sequence[object] | None = None
        self._rows: list[Tokens] = []
        self._first = 0
        self._waiting: list[int] = []
        self._computing = 0
        self._vectors: npt.NDArray[np.float32] | None = None

    @property
    def total(self) -> int:
        """How many inputs there are; 0 until they were looked at."""
        return len(self._inputs or ())

    @property
    def is_read(self) -> bool:
        """Whether all inputs are tokens by now."""
        return self._inputs is not None and len(self._rows) == len(self._inputs)

    @property
    def is_done(self) -> bool:
        """Whether all vectors have gone out."""
        return self.is_read and self._first >= self.total

    def read_some(self, embedder: Embedder) -> None:
        """Make tokens of the next inputs.

        Raises:
            InputTooLong, InputInvalid: one cannot be embedded.
        """
        if self._inputs is None:
            self._inputs = list(json.loads(self._request.inputs_json))
        chars = 0
        for number in range(len(self._rows), min(self.total, len(self._rows) + GROUP)):
            given = self._inputs[number]
            row = embedder.encode(number, given, self._request.truncate)
            self._rows.append(row)
            self.token_count += len(row)
            chars += len(given) if isinstance(given, str | list) else 0
            if chars >= STEP_CHARS:
                break
        if self.is_read:
            self._open_group()

    def length(self, row: int) -> int:
        """Return how many tokens a row has."""
        return len(self._rows[row])

    def tokens(self, row: int) -> Tokens:
        """Return the tokens of a row."""
        return self._rows[row]

    def take(self, batch_tokens: int) -> list[int]:
        """Return the longest rows that wait, as many as are read at once; none where none waits."""
        if not self._waiting:
            return []
        return self.take_fitting(self.length(self._waiting[0]), max(1, batch_tokens // self.length(self._waiting[0])))

    def take_fitting(self, longest: int, room: int) -> list[int]:
        """Return at most `room` rows that wait and can be read with rows of `longest` tokens."""
        shortest = 1 if longest <= SHORT_TOKENS else longest * FITTING
        fitting = [row for row in self._waiting if shortest <= self.length(row) <= longest][: max(0, room)]
        taken = set(fitting)
        self._waiting = [row for row in self._waiting if row not in taken]
        self._computing += len(fitting)
        return fitting

    def put(self, row: int, vector: npt.NDArray[np.float32]) -> None:
        """Keep the vector of a row that was taken."""
        if self._vectors is None:
            self._vectors = np.empty((min(GROUP, self.total - self._first), len(vector)), dtype=_FLOAT)
        self._vectors[row - self._first] = vector
        self._computing -= 1
        self.done += 1

    def finished_group(self) -> list[Vectors]:
        """Return the vectors of the group, where it has all of them, and go on to the next."""
        if self._waiting or self._computing or self._vectors is None:
            return []
        told = list(self._told(self._vectors))
        self._first += len(self._vectors)
        self._vectors = None
        self._open_group()
        return told

    def _open_group(self) -> None:
        rows = range(self._first, min(self.total, self._first + GROUP))
        # Longest first: what does not fit into memory shows at once.
        self._waiting = sorted(rows, key=lambda row: -self.length(row))

    def _told(self, vectors: npt.NDArray[np.float32]) -> Iterator[Vectors]:
        at_once = max(1, MAX_VECTOR_BYTES // vectors[:1].nbytes)
        for start in range(0, len(vectors), at_once):
            data = vectors[start : start + at_once].tobytes()
            yield Vectors(self.number, self._first + start, vectors.shape[1], data)
