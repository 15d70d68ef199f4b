"""Chunks of chat completions and completions, as the stock client's types read them, without any model."""

import json
from collections.abc import AsyncIterator
from typing import Any

from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from node.api.openai_chat import ChatWriter
from node.api.openai_completions import CompletionWriter
from node.api.openai_parts import new_ids
from node.models.requests import Call, Ending, GenerateRequest, Piece
from protocol.worker import logprobs

STOP = Ending("stop", 10, 9, 0, 0, 0, 0, cached_tokens=4)
TOKEN = logprobs.chosen(logprobs.begin(b"Hi"), -0.5, [(logprobs.begin(b"Ho"), -1.5)])


class Stream:
    """Collects what is emitted."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    async def emit(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def events(self) -> list[Any]:
        text = b"".join(self.pieces).decode()
        return [json.loads(event.removeprefix("data: ")) for event in text.split("\n\n")[:-1]]


async def told(*pieces: Piece) -> AsyncIterator[Piece]:
    for piece in pieces:
        yield piece


def chat(choices: int = 1, *, with_usage: bool = False) -> ChatWriter:
    return ChatWriter("demo", 1000, new_ids(lambda size: bytes(size)), choices=choices, with_usage=with_usage)


async def chunks(writer: ChatWriter, *answers: tuple[Piece, ...]) -> list[ChatCompletionChunk]:
    stream = Stream()
    for number, pieces in enumerate(answers):
        await writer.stream(number, told(*pieces), stream.emit)
    await stream.emit(writer.usage_chunk())
    return [ChatCompletionChunk.model_validate(event) for event in stream.events()]


async def test_the_role_comes_first_and_the_reason_last() -> None:
    found = await chunks(chat(), (Piece('Say "Hi"\n'), Piece("Zoë \u2028"), Piece(ending=STOP)))
    deltas = [chunk.choices[0].delta for chunk in found]
    assert [delta.role for delta in deltas] == ["assistant", None, None, None]
    assert "".join(delta.content or "" for delta in deltas) == 'Say "Hi"\nZoë \u2028'
    assert [chunk.choices[0].finish_reason for chunk in found] == [None, None, None, "stop"]
    assert all(chunk.usage is None for chunk in found)


async def test_an_empty_answer_has_a_role_all_the_same() -> None:
    first, last = await chunks(chat(), (Piece(ending=STOP),))
    assert (first.choices[0].delta.role, last.choices[0].finish_reason) == ("assistant", "stop")


async def test_thinking_calls_and_usage() -> None:
    pieces = (
        Piece("hm", thinking=True, tokens=3),
        Piece(call=Call("f", '{"a": 1}')),
        Piece(call=Call("g", "{}")),
        Piece(ending=STOP),
    )
    found = await chunks(chat(with_usage=True), pieces)
    assert [getattr(chunk.choices[0].delta, "reasoning_content", None) for chunk in found[:-1]][1] == "hm"
    calls = [call for chunk in found[:-1] for call in chunk.choices[0].delta.tool_calls or []]
    assert [(call.index, call.function and call.function.name) for call in calls] == [(0, "f"), (1, "g")]
    assert found[-2].choices[0].finish_reason == "tool_calls"
    usage = found[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (10, 9, 19)
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 4
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == 3


async def test_several_choices_and_one_prompt() -> None:
    writer = chat(2, with_usage=True)
    found = await chunks(writer, (Piece("a"), Piece(ending=STOP)), (Piece("b"), Piece(ending=STOP)))
    said = {(chunk.choices[0].index, chunk.choices[0].delta.content) for chunk in found if chunk.choices}
    assert said >= {(0, "a"), (1, "b")}
    usage = found[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (10, 18)
    whole = ChatCompletion.model_validate(writer.whole())
    assert [choice.message.content for choice in whole.choices] == ["a", "b"]


async def test_log_probabilities_streamed_and_whole() -> None:
    writer = chat()
    found = await chunks(writer, (Piece("Hi", logprobs_json=logprobs.joined([TOKEN])), Piece(ending=STOP)))
    (streamed,) = [chunk.choices[0].logprobs for chunk in found if chunk.choices[0].logprobs]
    whole = ChatCompletion.model_validate(writer.whole()).choices[0].logprobs
    for told_of in (streamed, whole):
        assert told_of is not None
        assert told_of.content is not None
        (token,) = told_of.content
        assert (token.token, token.logprob, token.bytes, token.top_logprobs[0].token) == ("Hi", -0.5, [72, 105], "Ho")


async def test_completions_streamed_and_whole() -> None:
    questions = [GenerateRequest("demo", prompt="Once"), GenerateRequest("demo", prompt="Twice")]
    ids = new_ids(lambda size: bytes(size))
    writer = CompletionWriter("demo", 1000, ids, questions, prompts=2, echo=True, with_usage=True)
    stream = Stream()
    await writer.stream(0, told(Piece(" upon"), Piece(ending=STOP)), stream.emit)
    await writer.stream(
        1, told(Piece(" Hi", logprobs_json=logprobs.joined([TOKEN, TOKEN])), Piece(ending=STOP)), stream.emit
    )
    await stream.emit(writer.usage_chunk())
    found = [Completion.construct(**event) for event in stream.events()]  # chunks have no reason yet, as its own
    said = [chunk.choices[0] for chunk in found[:-1]]
    texts = ["".join(choice.text for choice in said if choice.index == number) for number in (0, 1)]
    assert texts == ["Once upon", "Twice Hi"]
    assert found[-1].usage is not None
    assert (found[-1].usage.prompt_tokens, found[-1].usage.completion_tokens) == (20, 18)
    whole = CompletionWriter("demo", 1000, ids, questions[:1], prompts=1, echo=False, with_usage=False)
    await whole.hear(0, told(Piece("HiHi", logprobs_json=logprobs.joined([TOKEN, TOKEN])), Piece(ending=STOP)))
    (choice,) = Completion.model_validate(whole.whole()).choices
    assert choice.text == "HiHi"
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["Hi", "Hi"]
    assert choice.logprobs.text_offset == [0, 2]
    assert choice.logprobs.top_logprobs == [{"Ho": -1.5, "Hi": -0.5}] * 2
