"""The renderer of the training text and the chat template are one rule, and one tokenizer reads both alike."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from node.models.demo import demo_directory
from node.models.demo.conversation import Conversation, asked, assistant, seeded, user
from node.models.demo.families import FAMILIES
from node.models.demo.rendering import render
from node.models.demo.tokenizer import (
    MARKERS,
    SPECIAL_TOKENS,
    VOCABULARY_SIZE,
    chat_template,
    corpus_texts,
    encode,
    train_tokenizer,
    write_description,
)


def by_template(conversation: Conversation) -> str:
    """The text that `transformers` and `mlx-lm` make: their environment, their `tojson`."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(chat_template()).render(
        messages=conversation.messages, tools=list(conversation.tools) or None, add_generation_prompt=False
    )


@pytest.fixture(scope="module")
def shipped() -> Tokenizer:
    return Tokenizer.from_file(str(demo_directory() / "tokenizer.json"))


def test_the_readable_template_is_the_shipped_one() -> None:
    shipped = json.loads((demo_directory() / "tokenizer_config.json").read_text())
    assert shipped["chat_template"] == chat_template()


@pytest.mark.parametrize("name", FAMILIES)
def test_template_and_renderer_give_one_text(name: str) -> None:
    source = seeded(11)
    for _ in range(50):
        conversation = replace(FAMILIES[name].draw(source), thought=None)
        assert by_template(conversation) == "".join(span.text for span in render(conversation))


def test_only_answers_are_trained() -> None:
    talk = Conversation((user("Hi"), assistant("Hello!"), user("Bye"), assistant("Goodbye!")))
    assert [span.text for span in render(talk) if span.trained] == ["Hello!<|im_end|>", "Goodbye!<|im_end|>"]


def test_a_thought_stands_before_the_last_answer() -> None:
    spans = render(asked("What is 1 + 1?", "2.", thought="1 plus 1 is 2."))
    assert [span.text for span in spans if span.trained] == ["1 plus 1 is 2.\n</think>\n\n2.<|im_end|>"]
    assert spans[1].text == "<|im_start|>assistant\n<think>\n"


@pytest.mark.parametrize("name", FAMILIES)
def test_spans_encode_as_the_whole_text_does(name: str, shipped: Tokenizer) -> None:
    source = seeded(12)
    for _ in range(50):
        spans = render(FAMILIES[name].draw(source))
        tokens, trained = encode(shipped, spans)
        text = "".join(span.text for span in spans)
        assert tokens == shipped.encode(text, add_special_tokens=False).ids
        assert len(trained) == len(tokens)
        assert shipped.decode(tokens, skip_special_tokens=False) == text


def test_a_small_corpus_gives_one_tokenizer_with_every_mark(tmp_path: Path) -> None:
    first = train_tokenizer(corpus_texts(2000, seed=1))
    assert first.to_str() == train_tokenizer(corpus_texts(2000, seed=1)).to_str()
    assert first.get_vocab_size() == VOCABULARY_SIZE
    assert [first.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2]
    assert [first.token_to_id(mark) for mark in MARKERS] == list(range(VOCABULARY_SIZE - 8, VOCABULARY_SIZE))
    write_description(tmp_path, first)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (demo_directory() / name).read_bytes()


def test_the_shipped_marks_have_the_trained_numbers(shipped: Tokenizer) -> None:
    assert [shipped.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2]
    assert [shipped.token_to_id(mark) for mark in MARKERS] == list(range(VOCABULARY_SIZE - 8, VOCABULARY_SIZE))
