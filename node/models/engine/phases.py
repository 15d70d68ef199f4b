"""Constraints on rows beyond one grammar: an answer that may think first, and one that must not call a tool."""

from collections.abc import Callable, Sequence
from typing import Final

from node.models.engine.grammar import Grammars, Mask, Matching

_WHITE: Final = b" \t\r\n"


class Marking:
    """Watches an answer for a mark, however its tokens spell it."""

    def __init__(self, grammars: Grammars, mark: str) -> None:
        self._grammars = grammars
        self._mark = mark.encode()
        self._tail = b""
        self.seen = False

    def accept(self, token: int) -> None:
        """Take the token that was chosen."""
        self._tail += self._grammars.token_bytes(token)
        self.seen = self._mark in self._tail
        self._tail = self._tail[max(0, len(self._tail) - len(self._mark) + 1) :]

    def completing(self) -> list[tuple[int, bytes]]:
        """Give the tokens that would complete the mark now, each with what it says beyond the mark."""
        found = list(self._grammars.tokens_with(self._mark))
        for size in range(1, min(len(self._tail), len(self._mark) - 1) + 1):
            if self._tail.endswith(self._mark[:size]):
                rest = self._mark[size:]
                found += [(token, text[len(rest) :]) for token, text in self._grammars.tokens_from(rest)]
        return found


class WithoutMark:
    """Lets an answer say anything but a mark (see `rows.Constraint`)."""

    def __init__(self, grammars: Grammars, mark: str) -> None:
        self._grammars = grammars
        self._marking = Marking(grammars, mark)
        self._usual = grammars.all_but(token for token, _ in self._marking.completing())
        self._usually = len(self._marking.completing())

    def mask(self) -> Mask | None:
        """Give which tokens may come next."""
        completing = self._marking.completing()
        return (
            self._usual
            if len(completing) == self._usually
            else self._grammars.all_but(token for token, _ in completing)
        )

    def accept(self, token: int) -> None:
        """Take the token that was chosen."""
        self._marking.accept(token)

    @property
    def ended(self) -> bool:
        """Never."""
        return False


class AfterThinking:
    """Lets a model think, and holds what it says afterwards to a grammar (see `rows.Constraint`).

    The thinking cannot end the answer. Where the prompt has not opened it, the model may open it, or answer at once.
    """

    def __init__(
        self,
        grammars: Grammars,
        direct: Matching | None,
        after: Callable[[], Matching],
        opening: Sequence[int],
        closing: str,
    ) -> None:
        """Take the tokens that open the thinking and the text that closes it.

        `direct` is the answer without thinking, None where the thinking is open already; `after` the one behind it.
        """
        self._grammars = grammars
        self._answer = direct
        self._after = after
        self._opening = tuple(opening)
        self._opened = 0
        self._thinks = direct is None
        self._may_open = direct is not None
        self._marking = Marking(grammars, closing)
        self._free = grammars.all_but(grammars.ends)

    def mask(self) -> Mask | None:
        """Give which tokens may come next."""
        if self._thinks:
            too_far = [token for token, beyond in self._marking.completing() if beyond.strip(_WHITE)]
            return self._free if not too_far else self._free & self._grammars.all_but(too_far)
        mask = self._grammars.none() if self._answer is None else self._answer.mask()
        if self._may_open:
            mask = mask.copy()
            mask[self._opening[self._opened]] = True
        return mask

    def accept(self, token: int) -> None:
        """Take the token that was chosen."""
        if self._thinks:
            self._marking.accept(token)
            if self._marking.seen:
                self._thinks, self._answer = False, self._after()
            return
        opens = self._may_open and token == self._opening[self._opened]
        if self._answer is not None:
            if not opens:
                self._answer.accept(token)
            elif not self._answer.take(token):
                self._answer = None
        self._opened += opens
        self._thinks = opens and self._opened == len(self._opening)
        self._may_open = opens and not self._thinks

    @property
    def ended(self) -> bool:
        """Whether the answer is whole and nothing can follow."""
        return not self._thinks and not self._may_open and self._answer is not None and self._answer.ended


class FromMark:
    """Leaves an answer free until it opens a call, holds the call to a grammar, and leaves the rest free again."""

    def __init__(self, grammars: Grammars, mark: str, call: Callable[[], Matching]) -> None:
        """Take the mark that opens a call, and what a call is from behind it to its end."""
        self._grammars = grammars
        self._mark = mark
        self._call = call
        self._marking = Marking(grammars, mark)
        self._held: Matching | None = None

    def mask(self) -> Mask | None:
        """Give which tokens may come next; None: any."""
        if self._held is not None:
            return self._held.mask()
        too_far = [token for token, beyond in self._marking.completing() if beyond.strip(_WHITE)]
        return self._grammars.all_but(too_far) if too_far else None

    def accept(self, token: int) -> None:
        """Take the token that was chosen."""
        if self._held is None:
            self._marking.accept(token)
            if self._marking.seen:
                self._held = self._call()
            return
        self._held.accept(token)
        if self._held.ended:
            self._held, self._marking = None, Marking(self._grammars, self._mark)

    @property
    def ended(self) -> bool:
        """Never: words may follow a call."""
        return False
