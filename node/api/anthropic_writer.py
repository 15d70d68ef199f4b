"""A message as Anthropic's API writes it: the events of a stream in their order, or the whole.

As with the other APIs, what never changes in an event is put together once for each block of the answer.
"""

import json
from typing import Any, Final

from node.api.blocks import Block, Blocks, Kind
from node.api.json_text import compact, quote
from node.api.openai_parts import NewId
from node.models.requests import Ending, Piece

_TYPES: Final = {Kind.TEXT: ("text", "text_delta", "text"), Kind.THINKING: ("thinking", "thinking_delta", "thinking")}


class MessageWriter:
    """Writes one message: `model` is the name that was asked for, `max_tokens` what the answer might have at most.

    With `hide_thinking` thinking blocks come without their words.
    """

    def __init__(self, model: str, new_id: NewId, *, max_tokens: int, hide_thinking: bool) -> None:
        self._name = new_id("msg_")
        self._model = model
        self._new_id = new_id
        self._max_tokens = max_tokens
        self._hide_thinking = hide_thinking
        self._blocks = Blocks()
        self._began = False
        self._delta = ""

    def take(self, piece: Piece) -> str:
        """Return the events that `piece` brings."""
        events = "" if self._began else self._begin(piece.prompt_tokens)
        count = len(self._blocks.all)
        if self._blocks.take(piece):
            events += self._close(count - 1) if count else ""
            events += self._open(self._blocks.all[-1], count)
        if piece.ending is not None:
            return events + self._end(piece.ending)
        if piece.call is not None or not piece.text or (piece.thinking and self._hide_thinking):
            return events
        return events + f"{self._delta}{quote(piece.text)}}}}}\n\n"

    def hear(self, piece: Piece) -> None:
        """Take in `piece` of an answer that is told whole."""
        self._blocks.take(piece)

    def whole(self) -> dict[str, Any]:
        """Return the message in one piece."""
        ending = self._blocks.ended()
        content = [self._block(block, whole=True) for block in self._blocks.all]
        return {**self._message(), "content": content, **self._stopped(ending), "usage": self._usage(ending)}

    def _message(self) -> dict[str, Any]:
        return {"id": self._name, "type": "message", "role": "assistant", "model": self._model, "content": []}

    def _begin(self, prompt_tokens: int) -> str:
        self._began = True
        usage = {**_no_cache(), "input_tokens": prompt_tokens, "output_tokens": 0}
        message = {**self._message(), "stop_reason": None, "stop_sequence": None, "usage": usage}
        return _event("message_start", {"message": message}) + _event("ping", {})

    def _open(self, block: Block, index: int) -> str:
        events = _event("content_block_start", {"index": index, "content_block": self._block(block, whole=False)})
        head = f'event: content_block_delta\ndata: {{"type":"content_block_delta","index":{index},"delta":'
        if block.call is not None:
            return (
                events + f'{head}{{"type":"input_json_delta","partial_json":{quote(block.call.arguments_json)}}}}}\n\n'
            )
        _, kind, field = _TYPES[block.kind]
        self._delta = f'{head}{{"type":"{kind}","{field}":'
        return events

    def _close(self, index: int) -> str:
        events = ""
        if self._blocks.all[index].kind is Kind.THINKING:
            # Nobody signs it: there is no cloud that must know its own thinking again.
            delta = {"index": index, "delta": {"type": "signature_delta", "signature": ""}}
            events = _event("content_block_delta", delta)
        return events + _event("content_block_stop", {"index": index})

    def _end(self, ending: Ending) -> str:
        last = len(self._blocks.all) - 1
        events = self._close(last) if last >= 0 else ""
        usage = self._usage(ending)
        events += _event("message_delta", {"delta": self._stopped(ending), "usage": usage})
        return events + _event("message_stop", {})

    def _block(self, block: Block, *, whole: bool) -> dict[str, Any]:
        if block.call is not None:
            arguments = json.loads(block.call.arguments_json) if whole else {}
            return {"type": "tool_use", "id": self._new_id("toolu_"), "name": block.call.name, "input": arguments}
        text = block.text if whole else ""
        if block.kind is Kind.THINKING:
            return {"type": "thinking", "thinking": "" if self._hide_thinking else text, "signature": ""}
        return {"type": "text", "text": text, "citations": None}

    def _stopped(self, ending: Ending) -> dict[str, Any]:
        reason = "end_turn"
        if ending.reason == "length":
            full = ending.eval_tokens < self._max_tokens
            reason = "model_context_window_exceeded" if full else "max_tokens"
        elif ending.stopped_by:
            reason = "stop_sequence"
        elif self._blocks.calls():
            reason = "tool_use"
        return {"stop_reason": reason, "stop_sequence": ending.stopped_by or None}

    def _usage(self, ending: Ending) -> dict[str, Any]:
        # What was read before counts apart in this API: the three of input add up to the prompt.
        return {
            **_no_cache(),
            "input_tokens": ending.prompt_tokens - ending.cached_tokens,
            "cache_read_input_tokens": ending.cached_tokens,
            "output_tokens": ending.eval_tokens,
            "output_tokens_details": {"thinking_tokens": self._blocks.thinking_tokens},
        }


def _event(kind: str, facts: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {compact({'type': kind, **facts})}\n\n"


def _no_cache() -> dict[str, int]:
    return {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
