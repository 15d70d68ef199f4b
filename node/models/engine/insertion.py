"""Filling in between a prompt and what follows it, for models that were trained for it: the marks of each family."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class _Marks:
    """A family's marks, each one token: what begins the prompt, what begins the suffix, and what asks for the middle.

    With `suffix_first`, the suffix stands before the prompt.
    """

    prefix: str
    suffix: str
    middle: str = ""
    suffix_first: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """Those that the family has."""
        return tuple(mark for mark in (self.prefix, self.suffix, self.middle) if mark)


_FAMILIES: Final = (
    _Marks("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    _Marks("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    _Marks("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    _Marks("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
    _Marks("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    _Marks("▁<PRE>", "▁<SUF>", "▁<MID>"),
    _Marks("<PRE>", "<SUF>", "<MID>"),
    _Marks("[PREFIX]", "[SUFFIX]", suffix_first=True),
)
# What else ends the words that were to be inserted, where a model has it.
_ENDINGS: Final = (
    *("<|endoftext|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|file_separator|>", "<file_sep>"),
    *("<filename>", "▁<EOT>", "<EOT>", "<|cursor|>"),
)


@dataclass(frozen=True)
class Insertion:
    """How one model is asked to fill in; `stops` are the tokens that end what it says then."""

    prefix: int
    suffix: int
    middle: int | None
    suffix_first: bool
    stops: frozenset[int]

    @classmethod
    def of(cls, vocabulary: Mapping[str, int]) -> "Insertion | None":
        """Return how the model with this vocabulary is asked, or None where it has no marks for it."""
        for marks in _FAMILIES:
            if all(mark in vocabulary for mark in marks.words):
                stops = {vocabulary[word] for word in (*marks.words, *_ENDINGS) if word in vocabulary}
                middle = vocabulary[marks.middle] if marks.middle else None
                return cls(
                    vocabulary[marks.prefix], vocabulary[marks.suffix], middle, marks.suffix_first, frozenset(stops)
                )
        return None

    def prompt(self, before: str, behind: str, encode: Callable[[str], list[int]]) -> list[int]:
        """Return the tokens that ask for what stands between `before` and `behind`; `encode` adds no special ones."""
        head, tail = [self.prefix, *encode(before)], [self.suffix, *encode(behind)]
        asked = tail + head if self.suffix_first else head + tail
        return asked + ([self.middle] if self.middle is not None else [])
