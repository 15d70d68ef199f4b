"""Chat completions as they are written: chunks of a stream, or one object at the end.

A stream has many chunks a second, sixteen streams have sixteen at once: what never changes in a chunk is put together
once, and only the new words are turned into JSON.
"""

from collections.abc import AsyncIterator
from typing import Any

from node.api.blocks import Blocks, Kind
from node.api.json_text import compact, quote
from node.api.openai_parts import NewId, tool_call, usage_of
from node.api.streams import Emit
from node.models.requests import Call, Piece


class ChatWriter:
    """Writes the choices of one completion: `model` is the name that was asked for, `created_s` Unix time."""

    def __init__(self, model: str, created_s: int, new_id: NewId, *, choices: int, with_usage: bool) -> None:
        self._head = {"id": new_id("chatcmpl-"), "created": created_s, "model": model}
        self._new_id = new_id
        self._with_usage = with_usage
        self._answers = [Blocks() for _ in range(choices)]

    async def stream(self, number: int, pieces: AsyncIterator[Piece], emit: Emit) -> None:
        """Write the answer of choice `number` as chunks."""
        blocks = self._answers[number]
        before = f'data: {self._chunk_head()},"choices":[{{"index":{number},"delta":{{'
        end = ',"finish_reason":null}]' + self._tail()
        after = '},"logprobs":null' + end
        content, thinking = before + '"content":', before + '"reasoning_content":'
        opening = before + '"role":"assistant","content":"","refusal":null' + after
        calls = 0
        async for piece in pieces:
            blocks.take(piece)
            if piece.ending is not None:
                chunk = self._last(number, blocks)
            elif piece.call is not None:
                chunk = before + f'"tool_calls":[{self._indexed(calls, piece.call)}]' + after
                calls += 1
            elif piece.thinking:
                chunk = thinking + quote(piece.text) + after
            elif piece.logprobs_json:
                facts = f'{{"content":{piece.logprobs_json},"refusal":null}}'
                chunk = f'{content}{quote(piece.text)}}},"logprobs":{facts}{end}'
            elif piece.text:
                chunk = content + quote(piece.text) + after
            else:
                continue
            if opening:
                chunk, opening = opening + chunk, ""
            await emit(chunk.encode())

    def usage_chunk(self) -> bytes:
        """Return the chunk after all choices: what they took, where that was asked for; else nothing."""
        if not self._with_usage:
            return b""
        return f'data: {self._chunk_head()},"choices":[],"usage":{compact(usage_of(self._answers, 1))}}}\n\n'.encode()

    async def hear(self, number: int, pieces: AsyncIterator[Piece]) -> None:
        """Take in the answer of choice `number`."""
        async for piece in pieces:
            self._answers[number].take(piece)

    def whole(self) -> dict[str, Any]:
        """Return the completion in one piece."""
        return {
            "id": self._head["id"],
            "object": "chat.completion",
            "created": self._head["created"],
            "model": self._head["model"],
            "choices": [self._choice(number, blocks) for number, blocks in enumerate(self._answers)],
            "usage": usage_of(self._answers, 1),
            "system_fingerprint": None,
        }

    def _choice(self, number: int, blocks: Blocks) -> dict[str, Any]:
        text, thinking = blocks.text_of(Kind.TEXT), blocks.text_of(Kind.THINKING)
        calls = [tool_call(call, self._new_id("call_")) for call in blocks.calls()]
        message: dict[str, Any] = {
            "role": "assistant",
            "content": text if text or not calls else None,
            "refusal": None,
            "annotations": [],
        }
        if thinking:
            message["reasoning_content"] = thinking
        if calls:
            message["tool_calls"] = calls
        chosen = blocks.logprobs()
        logprobs = {"content": chosen, "refusal": None} if chosen else None
        return {"index": number, "message": message, "logprobs": logprobs, "finish_reason": _reason(blocks)}

    def _chunk_head(self) -> str:
        return compact({**self._head, "object": "chat.completion.chunk", "system_fingerprint": None})[:-1]

    def _tail(self) -> str:
        return (',"usage":null' if self._with_usage else "") + "}\n\n"

    def _indexed(self, index: int, call: Call) -> str:
        return compact({"index": index, **tool_call(call, self._new_id("call_"))})

    def _last(self, number: int, blocks: Blocks) -> str:
        choice = {"index": number, "delta": {}, "logprobs": None, "finish_reason": _reason(blocks)}
        return f'data: {self._chunk_head()},"choices":[{compact(choice)}]' + self._tail()


def _reason(blocks: Blocks) -> str:
    ending = blocks.ended()
    return "tool_calls" if blocks.calls() and ending.reason == "stop" else ending.reason
