"""Grammars over a model's vocabulary: what text may come next becomes which tokens may come next (llguidance).

Grammars are written in llguidance's dialect of Lark. A compiled grammar is kept and copied for each answer; what it
learned about the vocabulary is copied with it.
"""

import json
import re
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable
from functools import cached_property
from itertools import islice, takewhile
from typing import Any, Final

import llguidance
import llguidance.hf
import numpy as np
import numpy.typing as npt

from node.models.errors import CapabilityMissing, FormatInvalid
from node.models.json_grammar import compiled, parser_limits, reason_of

MAX_KEPT_GRAMMARS: Final = 64
MAX_KEPT_CHARS: Final = 8 * 1024 * 1024

Mask = npt.NDArray[np.bool_]


class Grammars:
    """The grammars for one model."""

    def __init__(self, tokenizer: Any, vocabulary: int, ends: Iterable[int]) -> None:
        """Take the model's Hugging Face tokenizer, the width of its logits, and its end-of-answer tokens."""
        self._hf_tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.ends = tuple(sorted(end for end in set(ends) if end < vocabulary))
        self._ll_tokenizer: llguidance.LLTokenizer | None = None
        self._lock = threading.Lock()  # answers are prepared on one thread and go on on another
        self._kept: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()
        self._holders: dict[bytes, list[tuple[int, bytes]]] = {}
        self._limits = parser_limits()

    @property
    def tokenizer(self) -> llguidance.LLTokenizer:
        """The vocabulary as llguidance reads it, built when it is first needed.

        Raises:
            CapabilityMissing: the tokenizer is of a kind whose tokens have no known bytes.
        """
        if self._ll_tokenizer is None:
            self._ll_tokenizer = _read_tokenizer(self._hf_tokenizer, self.vocabulary, self.ends)
        return self._ll_tokenizer

    def matcher(self, lark: str) -> llguidance.LLMatcher:
        """Return a fresh matcher for a grammar.

        Raises:
            FormatInvalid: it does not compile, or is over a limit.
            CapabilityMissing: see `tokenizer`.
        """
        with self._lock:
            kept = self._kept.get(lark)
            if kept is None:
                kept = compiled(self.tokenizer, lark, self._limits)
                self._keep(lark, kept)
            self._kept.move_to_end(lark)
            return kept.deep_copy()

    def literal(self, text: str) -> str:
        """Return the grammar expression for exactly `text`, with the vocabulary's special tokens where it has some."""
        pieces = [
            f"<[{self._specials[piece]}]>" if piece in self._specials else json.dumps(piece)
            for piece in self._split(text)
            if piece
        ]
        return " ".join(pieces) or '""'

    def from_first_special(self, text: str) -> str:
        """Return `text` from its first special token on; empty if it has none."""
        return "".join(self._split(text)[1:])

    def _split(self, text: str) -> list[str]:
        # Odd places hold special tokens, even ones the text between them.
        return re.split(self._special_pattern, text) if self._specials else [text]

    @cached_property
    def _specials(self) -> dict[str, int]:
        added = self._hf_tokenizer.added_tokens_decoder
        return {str(text): token for token, text in added.items() if self.tokenizer.is_special_token(token)}

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._specials, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    def all_but(self, tokens: Iterable[int]) -> Mask:
        """Return a mask that allows every token except `tokens`."""
        mask = np.ones(self.vocabulary, dtype=np.bool_)
        mask[[token for token in tokens if token < self.vocabulary]] = False
        return mask

    def none(self) -> Mask:
        """Return a mask that allows nothing."""
        return np.zeros(self.vocabulary, dtype=np.bool_)

    def token_bytes(self, token: int) -> bytes:
        """Return what a token says; nothing for an end-of-answer token."""
        return b"" if token in self.ends else self.tokenizer.decode_bytes([token])

    def tokens_from(self, text: bytes) -> list[tuple[int, bytes]]:
        """Return the tokens that begin with `text`, and what each says."""
        start = bisect_left(self._sorted, (text, 0))
        found = takewhile(lambda entry: entry[0].startswith(text), islice(self._sorted, start, None))
        return [(token, said) for said, token in found]

    def tokens_with(self, text: bytes) -> list[tuple[int, bytes]]:
        """Return the tokens that hold `text`, and what each says behind it."""
        if text not in self._holders:
            special = self._specials.get(text.decode())
            self._holders[text] = (
                [(token, said.partition(text)[2]) for said, token in self._sorted if text in said]
                if special is None
                else [(special, b"")]
            )
        return self._holders[text]

    @cached_property
    def _sorted(self) -> list[tuple[bytes, int]]:
        tokenizer = self.tokenizer
        return sorted((tokenizer.decode_bytes([token]), token) for token in range(self.vocabulary))

    def _keep(self, lark: str, matcher: llguidance.LLMatcher) -> None:
        self._kept[lark] = matcher
        while len(self._kept) > MAX_KEPT_GRAMMARS or (
            len(self._kept) > 1 and sum(map(len, self._kept)) > MAX_KEPT_CHARS
        ):
            self._kept.popitem(last=False)


class Matching:
    """Keeps an answer to a grammar from its first token on (see `rows.Constraint`)."""

    def __init__(self, matcher: llguidance.LLMatcher, grammars: Grammars) -> None:
        self._matcher = matcher
        self._vocabulary = grammars.vocabulary
        self._ends = frozenset(grammars.ends)
        words = np.zeros((max(grammars.tokenizer.vocab_size, self._vocabulary) + 31) // 32, dtype=np.int32)
        self._bytes = words.view(np.uint8)
        self._place = (words.ctypes.data, (grammars.tokenizer.vocab_size + 31) // 32 * 4)

    def mask(self) -> Mask:
        """Give which tokens may come next.

        Raises:
            FormatInvalid: the grammar went over a limit here.
        """
        self._matcher.unsafe_compute_mask_ptr(*self._place)
        if self._matcher.is_error():
            raise FormatInvalid(reason_of(self._matcher.get_error()))
        return np.unpackbits(self._bytes, count=self._vocabulary, bitorder="little").view(np.bool_)

    def accept(self, token: int) -> None:
        """Take the token that was chosen.

        Raises:
            FormatInvalid: it is none of those that the mask allowed.
        """
        if not self.take(token):
            raise FormatInvalid(reason_of(self._matcher.get_error()))

    def take(self, token: int) -> bool:
        """Take a token if the grammar allows it; else nothing changes."""
        return token in self._ends or self._matcher.try_consume_tokens([token]) == 1

    @property
    def ended(self) -> bool:
        """Whether the answer is whole and nothing can follow."""
        return bool(self._matcher.is_stopped())


def _read_tokenizer(tokenizer: Any, vocabulary: int, ends: tuple[int, ...]) -> llguidance.LLTokenizer:
    try:
        plain: llguidance.LLTokenizer = llguidance.hf.from_tokenizer(
            tokenizer, n_vocab=max(vocabulary, len(tokenizer)), eos_token=list(ends) or None
        )
    except ValueError as error:
        raise CapabilityMissing("the model's tokenizer", "structured answers") from error
    return plain
