"""The answers of the native API as they are written: a line for each piece, or one object at the end.

A stream has many lines a second, sixteen streams sixteen times as many: what never changes in a line is put together
once, and only the new words are turned into JSON.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from node.api.json_text import compact, quote
from node.models.requests import Call, Ending, Piece
from protocol.worker.logprobs import parse

# How an answer's text, thinking text and tool calls lie in an object of this API.
Shape = Callable[[str, str, list[dict[str, Any]]], dict[str, Any]]


def chat_shape(text: str, thinking: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what an object of `/api/chat` carries of an answer."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thinking:
        message["thinking"] = thinking
    if calls:
        message["tool_calls"] = calls
    return {"message": message}


def generate_shape(text: str, thinking: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what an object of `/api/generate` carries of an answer."""
    return {
        "response": text,
        **({"thinking": thinking} if thinking else {}),
        **({"tool_calls": calls} if calls else {}),
    }


class Writer:
    """Writes the answer to one question: `model` is the name that was asked for, `now` the moment as text.

    `new_id` makes the id of a tool call, by which its result is told apart from another's.
    """

    def __init__(
        self, model: str, shape: Shape, now: Callable[[], str], new_id: Callable[[], str], *, with_context: bool
    ) -> None:
        self._model = model
        self._shape = shape
        self._now = now
        self._new_id = new_id
        self._with_context = with_context
        self._calls = 0
        self._head = f'{{"model":{quote(model)},"created_at":"'
        # The shape of a piece of text alone, cut open where the text goes.
        self._text = _cut(shape("", "", []))
        self._thinking = _cut(shape("", _MARK, []))

    def line(self, piece: Piece) -> bytes:
        """Return the line of a stream for `piece`."""
        if piece.ending is not None:
            return f"{compact(self._last(piece.ending))}\n".encode()
        if piece.call is not None:
            told = {**self._told(), **self._shape("", "", [self._called(piece.call)]), "done": False}
            return f"{compact(told)}\n".encode()
        before, after = self._thinking if piece.thinking else self._text
        chosen = f',"logprobs":{piece.logprobs_json}' if piece.logprobs_json else ""
        line = f'{self._head}{self._now()}",{before}{quote(piece.text)}{after}{chosen},"done":false}}\n'
        return line.encode()

    def whole(self, said: Sequence[Piece]) -> dict[str, Any]:
        """Return the one object for all pieces of an answer, the last of which carries its ending."""
        text = "".join(piece.text for piece in said if not piece.thinking)
        thinking = "".join(piece.text for piece in said if piece.thinking)
        calls = [self._called(piece.call) for piece in said if piece.call]
        chosen = [token for piece in said if piece.logprobs_json for token in parse(piece.logprobs_json)]
        ending = said[-1].ending
        assert ending is not None, "the service ends every answer with its ending"
        told = {**self._told(), **self._shape(text, thinking, calls), **_ending(ending, self._with_context)}
        return {**told, "logprobs": chosen} if chosen else told

    def loaded(self, reason: str) -> dict[str, Any]:
        """Return the answer to an empty question, which only loads or unloads the model."""
        return {**self._told(), **self._shape("", "", []), "done": True, "done_reason": reason}

    def _told(self) -> dict[str, Any]:
        return {"model": self._model, "created_at": self._now()}

    def _last(self, ending: Ending) -> dict[str, Any]:
        return {**self._told(), **self._shape("", "", []), **_ending(ending, self._with_context)}

    def _called(self, call: Call) -> dict[str, Any]:
        function = {"index": self._calls, "name": call.name, "arguments": json.loads(call.arguments_json)}
        self._calls += 1
        return {"id": self._new_id(), "function": function}


# Stands where a text will be; no model's name and no shape holds it.
_MARK: Final = "\x00"


def _cut(shaped: dict[str, Any]) -> tuple[str, str]:
    """Return the JSON of `shaped` without its outer braces, cut at the mark, else at the empty text in it."""
    text = compact(shaped)[1:-1]
    before, _, after = text.partition(quote(_MARK) if quote(_MARK) in text else '""')
    return before, after


def _ending(ending: Ending, with_context: bool) -> dict[str, Any]:
    return {
        "done": True,
        "done_reason": ending.reason,
        **({"context": list(ending.context)} if with_context else {}),
        "total_duration": ending.total_ns,
        "load_duration": ending.load_ns,
        "prompt_eval_count": ending.prompt_tokens,
        "prompt_eval_duration": ending.prompt_ns,
        "eval_count": ending.eval_tokens,
        "eval_duration": ending.eval_ns,
    }
