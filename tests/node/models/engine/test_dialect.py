"""Families' marks: thinking, answers and calls come apart, wherever the text is cut into pieces."""

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from node.models.engine.dialect import CONTENT, HARMONY, MUSE_SPARK, TOOL, Dialect, Splitter
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

VECTORS = Path(__file__).parents[4] / "specs" / "vectors" / "0032-held-answers"
ANSWERS = json.loads((VECTORS / "marks.json").read_text(encoding="utf-8"))
DIALECTS = {
    "think tags": QWEN,
    "gemma": GEMMA,
    "kimi k3": KIMI,
    "mistral": MISTRAL,
    "harmony": HARMONY,
    "muse spark": MUSE_SPARK,
}


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


@pytest.mark.parametrize("vector", ANSWERS)
def test_an_answer_comes_apart_however_it_is_cut(vector: dict[str, Any]) -> None:
    dialect, opened, text = DIALECTS[vector["input"]["marks"]], vector["input"]["opened"], vector["input"]["text"]
    source = Random(text)
    for most in (1, 2, 5, len(text)):
        splitter = _splitter(dialect, opened=opened)
        segments: list[Segment] = []
        place = 0
        while place < len(text):
            size = source.randint(1, most)
            segments += splitter.feed(text[place : place + size])
            place += size
        assert _parts(segments + splitter.finish()) == [tuple(part) for part in vector["parts"]]


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


def test_a_tool_call_comes_whole_and_counts_even_unclosed() -> None:
    splitter = Splitter.of(QWEN, thinking=False, tools=True, opened=False, strict=False)
    assert splitter.feed('<tool_call>{"na') == []
    assert splitter.feed('me": "f"}') == []
    assert splitter.finish() == [Segment(Kind.TOOL_CALL, '{"name": "f"}')]


def test_marks_of_tools_that_are_not_offered_are_text() -> None:
    splitter = Splitter.of(QWEN, thinking=False, tools=False, opened=False, strict=False)
    assert _parts(splitter.feed("<tool_call>x</tool_call>") + splitter.finish()) == [
        ("content", "<tool_call>x</tool_call>")
    ]


def test_a_mark_within_a_call_is_the_calls_own_words() -> None:
    splitter = Splitter.of(
        QWEN, thinking=False, tools=True, opened=False, strict=True, is_call=lambda text: text.endswith("}")
    )
    assert _parts(splitter.feed('<tool_call>{"a": "</tool_call>"}</tool_call>')) == [
        ("tool call", '{"a": "</tool_call>"}')
    ]


def test_marks_within_a_call_are_looked_at_once() -> None:
    looked: list[str] = []

    def is_call(text: str) -> bool:
        looked.append(text)
        return text.endswith("}")

    splitter = Splitter({TOOL: [("</call>", CONTENT)], CONTENT: [("<call>", TOOL)]}, TOOL, is_call)
    for _ in range(2):
        splitter.feed("{" + "</call>" * 50)
        for _ in range(50):
            assert splitter.feed("a") == []
        (call, *_) = splitter.feed("}</call><call>")
        assert call.text == "{" + "</call>" * 50 + "a" * 50 + "}"
    assert len(looked) == 2 * 51
