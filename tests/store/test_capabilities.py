"""What lists promise of a model: the signs of its tokenizer's files, and the same as the program that runs it finds."""

import json
from pathlib import Path

import pytest

from node.models.demo import demo_directory
from store.capabilities import capabilities, own_template

HARMONY = ("<|channel|>", "<|message|>", "<|start|>", "<|return|>")


def files(template: str = "", *tokens: str, **more: str) -> dict[str, bytes]:
    vocabulary = {"added_tokens": [{"content": token} for token in tokens]}
    return {
        "tokenizer_config.json": json.dumps({"chat_template": template}).encode(),
        "tokenizer.json": json.dumps(vocabulary, ensure_ascii=False).encode(),
        **{name.replace("_json", ".json"): text.encode() for name, text in more.items()},
    }


def test_the_demo_model_calls_tools_and_thinks() -> None:
    found = {path.name: path.read_bytes() for path in Path(demo_directory()).glob("*.json")}
    assert capabilities(found) == ("completion", "tools", "thinking")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["completion"]),
        (files("{{ messages }}"), ["completion"]),
        (files("<tool_call> {{ tool_call.name }}"), ["completion", "tools"]),
        (files("<tool_call> without the name"), ["completion"]),
        (files("[TOOL_CALLS]"), ["completion", "tools"]),
        (files("{% if enable_thinking %}", "<think>", "</think>"), ["completion", "thinking"]),
        (files("<think>", "<think>", "</think>"), ["completion", "thinking"]),
        (files("{% if enable_thinking %}"), ["completion"]),
        (files("{{ messages }}", "<think>", "</think>"), ["completion"]),
        (files("", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"), ["completion", "insert"]),
        (files("", "<|fim_prefix|>", "<|fim_suffix|>"), ["completion"]),
        (files("", "[PREFIX]", "[SUFFIX]"), ["completion", "insert"]),
        (files("[THINK] {{ reasoning_effort }} [/THINK]"), ["completion", "thinking"]),
        (files("{{ reasoning_effort }}"), ["completion"]),
        (files("", "<|tool_call_start|>", "<|tool_call_end|>"), ["completion", "tools"]),
        (files("<|channel|>", *HARMONY), ["completion", "tools", "thinking"]),
        (files("", "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"), ["completion", "insert"]),
        (files(added_tokens_json='{"\\u003cthink>": 1}'), ["completion"]),
    ],
)
def test_signs(given: dict[str, bytes], expected: list[str]) -> None:
    assert list(capabilities(given)) == expected


@pytest.mark.parametrize(
    ("config", "template"),
    [
        (b"{", ""),
        (b"[]", ""),
        (b"[" * 100_000, ""),
        (b'{"chat_template": 5}', ""),
        (b'{"chat_template": [{"name": "rag", "template": "a"}, {"name": "default", "template": "b"}]}', "b"),
        (b'{"chat_template": [7, {"name": "default"}]}', ""),
    ],
)
def test_templates_of_any_content(config: bytes, template: str) -> None:
    assert own_template({"tokenizer_config.json": config}) == template
    assert own_template({"tokenizer_config.json": config, "chat_template.jinja": b"c\xff"}) == "c\ufffd"
