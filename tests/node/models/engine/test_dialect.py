"""Families' marks: thinking, answers and calls come apart, wherever the text is cut into pieces."""

from random import Random

import pytest

from node.models.engine.dialect import HARMONY, MUSE_SPARK, Dialect, Splitter
from node.models.engine.text_stream import Kind, Segment

QWEN = Dialect(think=("<think>", "</think>"), tool=("<tool_call>", "</tool_call>"))
GEMMA = Dialect(think=("<|channel>thought", "<channel|>"), tool=("<|tool_call>", "<tool_call|>"))
KIMI = Dialect(
    think=("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
    tool=("<|open|>tools<|sep|>", "<|close|>tools<|sep|>"),
    dropped=("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>"),
)
MISTRAL = Dialect(think=("[THINK]", "[/THINK]"), tool=("[TOOL_CALLS]", ""))
Parts = list[tuple[str, str]]

ANSWERS: list[tuple[Dialect, bool, str, Parts]] = [
    (QWEN, False, "Hello.", [("content", "Hello.")]),
    (QWEN, False, "<think>\nHm.\n</think>\n\nHi.", [("thinking", "Hm.\n"), ("content", "Hi.")]),
    (QWEN, True, "Hm.\n</think>\n\nHi.", [("thinking", "Hm.\n"), ("content", "Hi.")]),
    (QWEN, True, "Hm.</think>\n<tool_call>{}</tool_call>", [("thinking", "Hm."), ("tool call", "{}")]),
    (
        QWEN,
        False,
        "Two:\n<tool_call>\n{1}\n</tool_call>\n<tool_call>{2}</tool_call>",
        [("content", "Two:\n"), ("tool call", "{1}\n"), ("tool call", "{2}")],
    ),
    (QWEN, False, "a < b <thin <tool", [("content", "a < b <thin <tool")]),
    (QWEN, True, "never closed", [("thinking", "never closed")]),
    (GEMMA, False, "<|channel>thought\nHm.<channel|>Hi.", [("thinking", "Hm."), ("content", "Hi.")]),
    (
        KIMI,
        False,
        "<|open|>think<|sep|>Hm.<|close|>think<|sep|><|open|>response<|sep|>Hi.<|close|>response<|sep|>"
        "<|open|>tools<|sep|>x<|close|>tools<|sep|><|close|>message<|sep|>",
        [("thinking", "Hm."), ("content", "Hi."), ("tool call", "x")],
    ),
    (
        MISTRAL,
        False,
        "[THINK]Hm.[/THINK]Hi.[TOOL_CALLS]a[ARGS]{}",
        [("thinking", "Hm."), ("content", "Hi."), ("tool call", "a[ARGS]{}")],
    ),
    (
        HARMONY,
        False,
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hi.",
        [("thinking", "Hm."), ("content", "Hi.")],
    ),
    (
        HARMONY,
        False,
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
        '<|constrain|>json<|message|>{"city":"Paris"}<|call|>',
        [("thinking", "Hm."), ("tool call", 'get_weather <|constrain|>json<|message|>{"city":"Paris"}')],
    ),
    (
        HARMONY,
        False,
        "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant to=functions.clock<|channel|>commentary "
        "json<|message|>{}",
        [("content", "I look."), ("tool call", "clock<|channel|>commentary json<|message|>{}")],
    ),
    (HARMONY, False, "<|channel|>final <|constrain|>json<|message|>{}<|return|>", [("content", "{}")]),
    (
        MUSE_SPARK,
        False,
        "to=self<|message|>Hm.<|eom|><|start|>assistant to=user<|message|>Hi.<|eot|>",
        [("thinking", "Hm."), ("content", "Hi.")],
    ),
    (
        MUSE_SPARK,
        False,
        " to=self<|message|>Hm.<|eom|><|start|>assistant to=tool<|message|><atem:function_calls>\nx"
        "</atem:function_calls>",
        [("thinking", "Hm."), ("tool call", "x")],
    ),
]


def _splitter(dialect: Dialect, *, opened: bool) -> Splitter:
    return Splitter.of(dialect, thinking=True, tools=True, opened=opened, strict=False)


def _parts(segments: list[Segment]) -> Parts:
    joined: Parts = []
    for segment in segments:
        if joined and joined[-1][0] == segment.kind.value and segment.kind is not Kind.TOOL_CALL:
            joined[-1] = (joined[-1][0], joined[-1][1] + segment.text)
        else:
            joined.append((segment.kind.value, segment.text))
    return joined


@pytest.mark.parametrize(("dialect", "opened", "text", "parts"), ANSWERS)
def test_an_answer_comes_apart_however_it_is_cut(dialect: Dialect, opened: bool, text: str, parts: Parts) -> None:
    source = Random(text)
    for most in (1, 2, 5, len(text)):
        splitter = _splitter(dialect, opened=opened)
        segments: list[Segment] = []
        place = 0
        while place < len(text):
            size = source.randint(1, most)
            segments += splitter.feed(text[place : place + size])
            place += size
        assert _parts(segments + splitter.finish()) == parts


@pytest.mark.parametrize(
    ("dialect", "prompt", "opened"),
    [
        (QWEN, "<|im_start|>assistant\n", False),
        (QWEN, "<|im_start|>assistant\n<think>\n", True),
        (QWEN, "<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        (QWEN, "What is <think>?<|im_end|>\n<|im_start|>assistant\n", False),
        (GEMMA, "<start_of_turn>model\n<|channel>thought\n", True),
        (KIMI, "<|open|>message<|sep|><|open|>think<|sep|>", True),
        (Dialect(), "<think>", False),
    ],
)
def test_whether_a_prompt_opened_the_thinking_is_seen(dialect: Dialect, prompt: str, opened: bool) -> None:
    assert dialect.opened_thinking(prompt) is opened


def test_thinking_nobody_asked_for_is_split_at_the_beginning_only() -> None:
    splitter = Splitter.of(QWEN, thinking=False, tools=False, opened=False, strict=False)
    assert _parts(splitter.feed("<think>Hm.</think>The tag <think> opens it.") + splitter.finish()) == [
        ("thinking", "Hm."),
        ("content", "The tag <think> opens it."),
    ]


def test_what_is_held_back_is_no_more_than_could_become_a_mark() -> None:
    splitter = _splitter(QWEN, opened=False)
    assert _parts(splitter.feed("one <")) == [("content", "one ")]
    assert _parts(splitter.feed("b>")) == [("content", "<b>")]


def test_a_mark_within_a_call_is_the_calls_own_words() -> None:
    splitter = Splitter.of(
        QWEN, thinking=False, tools=True, opened=False, strict=True, is_call=lambda text: text.endswith("}")
    )
    assert _parts(splitter.feed('<tool_call>{"a": "</tool_call>"}</tool_call>')) == [
        ("tool call", '{"a": "</tool_call>"}')
    ]
