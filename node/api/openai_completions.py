"""Legacy completions as they are written: texts continued as they stand, in chunks or whole."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from node.api.blocks import Blocks, Kind
from node.api.json_text import compact, quote
from node.api.openai_parts import NewId, usage_of
from node.api.streams import Emit
from node.models.requests import GenerateRequest, Piece
from protocol.worker.logprobs import ChosenToken, parse


class CompletionWriter:
    """Writes the choices of one completion, one for each of `questions`; with `echo` each begins with its prompt."""

    def __init__(
        self,
        model: str,
        created_s: int,
        new_id: NewId,
        questions: Sequence[GenerateRequest],
        *,
        prompts: int,
        echo: bool,
        with_usage: bool,
    ) -> None:
        self._head = {"id": new_id("cmpl-"), "object": "text_completion", "created": created_s, "model": model}
        self._echoed = [(question.prompt or "") if echo else "" for question in questions]
        self._prompts = prompts
        self._with_usage = with_usage
        self._answers = [Blocks() for _ in questions]
        self._offsets = [0 for _ in questions]

    async def stream(self, number: int, pieces: AsyncIterator[Piece], emit: Emit) -> None:
        """Write the answer of choice `number` as chunks."""
        blocks = self._answers[number]
        before = f'data: {compact(self._head)[:-1]},"choices":[{{"index":{number},"text":'
        after = ',"logprobs":null,"finish_reason":null}]' + self._tail()
        echoed = self._echoed[number]
        async for piece in pieces:
            blocks.take(piece)
            if echoed:
                await emit((before + quote(echoed) + after).encode())
                echoed = ""
            if piece.ending is not None:
                reason = quote(piece.ending.reason)
                last = before + f'"","logprobs":null,"finish_reason":{reason}}}]' + self._tail()
                await emit(last.encode())
            elif piece.logprobs_json:
                facts = compact(self._logprobs(number, parse(piece.logprobs_json)))
                rest = f',"logprobs":{facts},"finish_reason":null}}]' + self._tail()
                await emit((before + quote(piece.text) + rest).encode())
            elif piece.text:
                await emit((before + quote(piece.text) + after).encode())

    def usage_chunk(self) -> bytes:
        """Return the chunk after all choices: what they took, where that was asked for; else nothing."""
        if not self._with_usage:
            return b""
        facts = compact(usage_of(self._answers, self._prompts))
        return f'data: {compact(self._head)[:-1]},"choices":[],"usage":{facts}}}\n\n'.encode()

    async def hear(self, number: int, pieces: AsyncIterator[Piece]) -> None:
        """Take in the answer of choice `number`."""
        async for piece in pieces:
            self._answers[number].take(piece)

    def whole(self) -> dict[str, Any]:
        """Return the completion in one piece."""
        choices = [self._choice(number, blocks) for number, blocks in enumerate(self._answers)]
        return {
            **self._head,
            "choices": choices,
            "usage": usage_of(self._answers, self._prompts),
            "system_fingerprint": None,
        }

    def _choice(self, number: int, blocks: Blocks) -> dict[str, Any]:
        chosen = blocks.logprobs()
        return {
            "text": self._echoed[number] + blocks.text_of(Kind.THINKING) + blocks.text_of(Kind.TEXT),
            "index": number,
            "logprobs": self._logprobs(number, chosen) if chosen else None,
            "finish_reason": blocks.ended().reason,
        }

    def _tail(self) -> str:
        return (',"usage":null' if self._with_usage else "") + "}\n\n"

    def _logprobs(self, number: int, chosen: Sequence[ChosenToken]) -> dict[str, Any]:
        offsets: list[int] = []
        for token in chosen:
            offsets.append(self._offsets[number])
            self._offsets[number] += len(token["token"])
        return {
            "tokens": [token["token"] for token in chosen],
            "token_logprobs": [token["logprob"] for token in chosen],
            "top_logprobs": [
                {likely["token"]: likely["logprob"] for likely in (*token["top_logprobs"], token)} for token in chosen
            ]
            if any(token["top_logprobs"] for token in chosen)
            else None,
            "text_offset": offsets,
        }
