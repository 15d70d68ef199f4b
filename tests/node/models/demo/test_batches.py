"""Batches hold whole conversations, shifted by one, with only the answers as targets."""

from itertools import islice

import numpy as np
import pytest
from tokenizers import Tokenizer

from node.models.demo import demo_directory
from node.models.demo.batches import LENGTHS, batches


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(demo_directory() / "tokenizer.json"))


def test_batches_are_deterministic_and_full(tokenizer: Tokenizer) -> None:
    pairs = zip(batches(tokenizer, 256, seed=2), batches(tokenizer, 256, seed=2), strict=False)
    for first, second in islice(pairs, 20):
        assert np.array_equal(first.inputs, second.inputs)
        assert np.array_equal(first.targets, second.targets)
        assert first.inputs.shape[1] in LENGTHS
        assert first.inputs.size >= 256


def test_targets_are_the_tokens_after_their_places(tokenizer: Tokenizer) -> None:
    end_of_turn = tokenizer.token_to_id("<|im_end|>")
    for batch in islice(batches(tokenizer, 256, seed=3), 20):
        following = np.append(batch.inputs.ravel()[1:], 0)
        inside = batch.targets != end_of_turn
        assert np.array_equal(following[batch.places][inside], batch.targets[inside])
        assert (batch.targets == end_of_turn).sum() >= len(batch.inputs)
