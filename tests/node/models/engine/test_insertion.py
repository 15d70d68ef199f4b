"""Filling in: the marks of each family, in their order."""

import pytest

from node.models.engine.insertion import Insertion


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"), [0, 65, 1, 66, 2]),
        (("<fim_prefix>", "<fim_suffix>", "<fim_middle>"), [0, 65, 1, 66, 2]),
        (("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"), [0, 65, 1, 66, 2]),
        (("▁<PRE>", "▁<SUF>", "▁<MID>"), [0, 65, 1, 66, 2]),
        (("[PREFIX]", "[SUFFIX]"), [1, 66, 0, 65]),
    ],
)
def test_the_marks_of_a_family_stand_in_its_order(words: tuple[str, ...], wanted: list[int]) -> None:
    vocabulary = {word: number for number, word in enumerate((*words, "<|endoftext|>"))}
    insertion = Insertion.of(vocabulary)
    assert insertion is not None
    assert insertion.prompt("A", "B", lambda text: [ord(letter) for letter in text]) == wanted
    assert insertion.stops == frozenset(vocabulary.values())


@pytest.mark.parametrize("words", [(), ("<|fim_prefix|>", "<|fim_suffix|>"), ("[SUFFIX]",), ("hello",)])
def test_a_model_without_all_marks_cannot_fill_in(words: tuple[str, ...]) -> None:
    assert Insertion.of({word: number for number, word in enumerate(words)}) is None
