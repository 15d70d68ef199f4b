"""A response as it is written: the events of a stream in their order, and the resource at the end.

As with chat completions, what never changes in an event is put together once for each block of the answer.
"""

from collections.abc import Callable
from typing import Any, Final

from node.api.blocks import Block, Blocks, Kind
from node.api.json_text import compact, quote
from node.api.openai_parts import LAST_EVENT, NewId
from node.api.responses_tools import custom_input
from node.models.requests import Ending, Piece

Resource = dict[str, Any]
Item = dict[str, Any]

_PREFIXES: Final = {Kind.TEXT: "msg_", Kind.THINKING: "rs_", Kind.CALL: "fc_"}


class ResponseWriter:
    """Writes one response. `resource` is how it begins; `custom` names the tools that are called with a text.

    `now` gives Unix time in seconds.
    """

    def __init__(self, resource: Resource, custom: frozenset[str], new_id: NewId, now: Callable[[], int]) -> None:
        self.resource = resource
        self._now = now
        self._custom = custom
        self._new_id = new_id
        self._blocks = Blocks()
        self._items: list[Item] = []
        self._sequence = 0
        self._began = False
        # The event that adds words to the block that is open now, without the words and its number.
        self._delta = ""
        self._delta_end = ""

    def take(self, piece: Piece) -> str:
        """Return the events that `piece` brings. With its ending the resource is whole."""
        events = "" if self._began else self._begin()
        open_block = bool(self._items)
        if self._blocks.take(piece):
            events += self._close("completed") if open_block else ""
            events += self._open(self._blocks.all[-1])
        if piece.ending is not None:
            return events + self._end(piece.ending)
        if piece.call is not None:
            return events
        if piece.logprobs_json and not piece.thinking:
            facts = f',"logprobs":{piece.logprobs_json}'
            return events + f"{self._delta}{quote(piece.text)}{facts},{self._number()}}}\n\n"
        if piece.text:
            return events + f"{self._delta}{quote(piece.text)}{self._delta_end},{self._number()}}}\n\n"
        return events

    def hear(self, piece: Piece) -> None:
        """Take in `piece` of an answer that is told whole: no events are written, the resource is whole at the end."""
        if piece.ending is None:
            self._blocks.take(piece)
            return
        status = "completed" if piece.ending.reason == "stop" else "incomplete"
        last = len(self._blocks.all) - 1
        for place, block in enumerate(self._blocks.all):
            ended = "completed" if place < last or block.kind is Kind.CALL else status
            self._items.append(self._item(block, self._item_id(block, place), ended))
        self._finish(piece.ending)

    def fail(self, code: str, message: str) -> str:
        """Return the last events of a stream that could not be ended."""
        # Its clients know few codes.
        known = "rate_limit_exceeded" if code == "rate_limit_exceeded" else "server_error"
        self.resource |= {"status": "failed", "error": {"code": known, "message": message}, "output": self._items}
        return self._event("response.failed", {"response": self.resource}) + LAST_EVENT.decode()

    def _begin(self) -> str:
        self._began = True
        first = self._event("response.created", {"response": self.resource})
        return first + self._event("response.in_progress", {"response": self.resource})

    def _open(self, block: Block) -> str:
        place = len(self._items)
        name = self._item_id(block, place)
        item = self._item(block, name, "in_progress")
        self._items.append(item)
        events = self._event("response.output_item.added", {"output_index": place, "item": _emptied(item)})
        if block.kind is Kind.CALL:
            return events + self._call(item, place)
        where = {"item_id": name, "output_index": place, "content_index": 0}
        kind = "response.output_text.delta" if block.kind is Kind.TEXT else "response.reasoning_text.delta"
        self._delta = f'event: {kind}\ndata: {compact({"type": kind, **where})[:-1]},"delta":'
        self._delta_end = ',"logprobs":[]' if block.kind is Kind.TEXT else ""
        return events + self._event("response.content_part.added", {**where, "part": _part(block, whole=False)})

    def _call(self, item: Item, place: int) -> str:
        field, kind = ("arguments", "function_call_arguments")
        if item["type"] == "custom_tool_call":
            field, kind = ("input", "custom_tool_call_input")
        where = {"item_id": item["id"], "output_index": place}
        delta = self._event(f"response.{kind}.delta", {**where, "delta": item[field]})
        return delta + self._event(f"response.{kind}.done", {**where, field: item[field]})

    def _close(self, status: str) -> str:
        """Return the events that end the block before the newest one, or the newest at the end of all."""
        place = len(self._items) - 1
        block, name = self._blocks.all[place], self._items[place]["id"]
        if block.kind is Kind.CALL:
            self._items[place]["status"] = "completed"
            return self._event("response.output_item.done", {"output_index": place, "item": self._items[place]})
        self._items[place] = self._item(block, name, status)
        where = {"item_id": name, "output_index": place, "content_index": 0}
        part = _part(block, whole=True)
        if block.kind is Kind.TEXT:
            said = {**where, "text": part["text"], "logprobs": part["logprobs"]}
            events = self._event("response.output_text.done", said)
        else:
            events = self._event("response.reasoning_text.done", {**where, "text": part["text"]})
        events += self._event("response.content_part.done", {**where, "part": part})
        return events + self._event("response.output_item.done", {"output_index": place, "item": self._items[place]})

    def _end(self, ending: Ending) -> str:
        whole = ending.reason == "stop"
        events = self._close("completed" if whole else "incomplete") if self._items else ""
        self._finish(ending)
        kind = "response.completed" if whole else "response.incomplete"
        return events + self._event(kind, {"response": self.resource}) + LAST_EVENT.decode()

    def _finish(self, ending: Ending) -> None:
        whole = ending.reason == "stop"
        self.resource |= {
            "status": "completed" if whole else "incomplete",
            "completed_at": self._now() if whole else None,
            "incomplete_details": None if whole else {"reason": "max_output_tokens"},
            "output": self._items,
            "usage": _usage(ending, self._blocks.thinking_tokens),
        }

    def _item_id(self, block: Block, place: int) -> str:
        # It says in which response it lies, so that a later request may refer to it alone.
        return f"{_PREFIXES[block.kind]}{self.resource['id'].removeprefix('resp_')}_{place}"

    def _item(self, block: Block, name: str, status: str) -> Item:
        if block.call is not None:
            call_id = self._new_id("call_")
            head = {"id": name, "call_id": call_id, "name": block.call.name, "status": status}
            if block.call.name in self._custom:
                return {**head, "type": "custom_tool_call", "input": custom_input(block.call.arguments_json)}
            return {**head, "type": "function_call", "arguments": block.call.arguments_json}
        if block.kind is Kind.THINKING:
            content = [_part(block, whole=True)]
            return {"id": name, "type": "reasoning", "summary": [], "content": content, "status": status}
        content = [_part(block, whole=True)]
        return {"id": name, "type": "message", "role": "assistant", "status": status, "content": content}

    def _event(self, kind: str, facts: dict[str, Any]) -> str:
        return f"event: {kind}\ndata: {compact({'type': kind, **facts})[:-1]},{self._number()}}}\n\n"

    def _number(self) -> str:
        number, self._sequence = self._sequence, self._sequence + 1
        return f'"sequence_number":{number}'


def _part(block: Block, *, whole: bool) -> dict[str, Any]:
    text = block.text if whole else ""
    if block.kind is Kind.THINKING:
        return {"type": "reasoning_text", "text": text}
    logprobs = block.logprobs if whole else []
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _emptied(item: Item) -> Item:
    """Return `item` as it is before any of its words."""
    words: dict[str, Any] = {"content": [], "arguments": "", "input": ""}
    return {**item, **{field: empty for field, empty in words.items() if field in item}}


def _usage(ending: Ending, thinking_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": ending.prompt_tokens,
        "input_tokens_details": {"cached_tokens": ending.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": ending.eval_tokens,
        "output_tokens_details": {"reasoning_tokens": thinking_tokens},
        "total_tokens": ending.prompt_tokens + ending.eval_tokens,
    }
