"""Training batches: conversations of about one length together, so that little is padded."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from node.models.demo.conversation import seeded
from node.models.demo.families import FAMILIES, Family, draw_conversation
from node.models.demo.rendering import render
from node.models.demo.tokenizer import encode

LENGTHS = (20, 24, 28, 32, 36, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 192, 256)
"""A batch's sequence lengths in tokens; a longer conversation is left out."""

Row = tuple[list[int], list[bool]]


@dataclass(frozen=True)
class Batch:
    """One step's input. Only trained positions are compared, so only their targets are kept."""

    inputs: npt.NDArray[np.int32]
    """Token numbers, shape (rows, length), 0 where a row has ended."""
    targets: npt.NDArray[np.int32]
    """The next token at each trained position, shape (trained,)."""
    places: npt.NDArray[np.int64]
    """Those positions in the flattened inputs, shape (trained,), rising."""


def batches(
    tokenizer: Tokenizer, tokens_per_batch: int, seed: int, families: Mapping[str, Family] = FAMILIES
) -> Iterator[Batch]:
    """Batches without end, each of at least `tokens_per_batch` positions; the same seed gives the same batches."""
    source = seeded(seed)
    waiting: dict[int, list[Row]] = {length: [] for length in LENGTHS}
    while True:
        row = encode(tokenizer, render(draw_conversation(source, families)))
        length = next((length for length in LENGTHS if length >= len(row[0]) - 1), None)
        if length is None:
            continue
        rows = waiting[length]
        rows.append(row)
        if len(rows) * length >= tokens_per_batch:
            waiting[length] = []
            yield _stack(rows, length)


def _stack(rows: list[Row], length: int) -> Batch:
    inputs = np.zeros((len(rows), length), np.int32)
    targets = np.zeros((len(rows), length), np.int32)
    trained = np.zeros((len(rows), length), np.bool_)
    for place, (tokens, mask) in enumerate(rows):
        end = len(tokens) - 1
        inputs[place, :end] = tokens[:-1]
        targets[place, :end] = tokens[1:]
        trained[place, :end] = mask[1:]
    places = np.flatnonzero(trained.ravel())
    return Batch(inputs, targets.ravel()[places], places)
