"""An answer as its blocks: thinking, text and tool calls, in the order in which the model said them."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import Enum

from node.models.requests import Call, Ending, Piece
from protocol.worker.logprobs import ChosenToken, parse


class Kind(Enum):
    """What a block is."""

    THINKING = "thinking"
    TEXT = "text"
    CALL = "call"


@dataclass
class Block:
    """One block; a call comes whole, the others grow."""

    kind: Kind
    parts: list[str] = field(default_factory=list, repr=False)
    logprobs_json: list[str] = field(default_factory=list, repr=False)
    call: Call | None = None

    @property
    def text(self) -> str:
        """All that was said in it so far."""
        return "".join(self.parts)

    @property
    def logprobs(self) -> list[ChosenToken]:
        """Its tokens with their probabilities, where they were asked for."""
        return [chosen for several in self.logprobs_json for chosen in parse(several)]


class Blocks:
    """The blocks of one answer while it is told."""

    def __init__(self) -> None:
        self.all: list[Block] = []
        self.thinking_tokens = 0
        self.ending: Ending | None = None

    def take(self, piece: Piece) -> bool:
        """Add what `piece` brings; return whether a new block begins with it, the last one of `all`."""
        if piece.ending is not None:
            self.ending = piece.ending
            return False
        if piece.call is not None:
            self.all.append(Block(Kind.CALL, call=piece.call))
            return True
        kind = Kind.TEXT
        if piece.thinking:
            kind = Kind.THINKING
            self.thinking_tokens = piece.tokens
        begins = not self.all or self.all[-1].kind is not kind
        if begins:
            if not piece.text and not piece.logprobs_json:
                return False
            self.all.append(Block(kind))
        block = self.all[-1]
        block.parts.append(piece.text)
        if piece.logprobs_json:
            block.logprobs_json.append(piece.logprobs_json)
        return begins

    def text_of(self, kind: Kind) -> str:
        """Return all text of one kind."""
        return "".join(block.text for block in self.all if block.kind is kind)

    def calls(self) -> list[Call]:
        """Return the tool calls."""
        return [block.call for block in self.all if block.call is not None]

    def logprobs(self) -> list[ChosenToken]:
        """Return the tokens of the text with their probabilities, where they were asked for."""
        return [chosen for block in self.all if block.kind is Kind.TEXT for chosen in block.logprobs]

    def ended(self) -> Ending:
        """Return how the answer ended; only after its last piece."""
        assert self.ending is not None, "the service ends every answer with its ending"
        return self.ending


async def hear(pieces: AsyncIterator[Piece]) -> Blocks:
    """Return the whole answer."""
    blocks = Blocks()
    async for piece in pieces:
        blocks.take(piece)
    return blocks
