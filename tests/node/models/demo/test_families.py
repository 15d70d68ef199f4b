"""The corpus: the same seed gives the same conversations, and each has the shape that training relies on."""

import hashlib
import json
from collections import Counter
from dataclasses import asdict

import pytest

from node.models.demo.conversation import seeded
from node.models.demo.facts import number_in_words
from node.models.demo.families import FAMILIES, THOUGHT_SHARE, draw_conversation, reweighted
from node.models.demo.questions import ask_opposite, ask_sum


@pytest.mark.parametrize("name", FAMILIES)
def test_a_seed_gives_the_same_conversations(name: str) -> None:
    first, second = seeded(3), seeded(3)
    draw = FAMILIES[name].draw
    assert [draw(first) for _ in range(50)] == [draw(second) for _ in range(50)]


def test_the_corpus_changes_only_on_purpose() -> None:
    source = seeded(1)
    text = "\n".join(json.dumps(asdict(draw_conversation(source)), sort_keys=True) for _ in range(500))
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "02e2635f9d91c99ffcc43d23164deae91f15ddf32e179e962eae71274db88583"
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_every_conversation_ends_with_an_answer(name: str) -> None:
    source = seeded(4)
    for _ in range(200):
        conversation = FAMILIES[name].draw(source)
        *given, answer = conversation.messages
        assert answer["role"] == "assistant"
        assert answer["content"] or answer.get("tool_calls")
        assert given
        assert given[-1]["role"] in ("user", "tool")
        assert all(message["role"] != "system" for message in conversation.messages[1:])


def test_sums_are_right() -> None:
    source = seeded(5)
    for _ in range(300):
        left, sign, right, _, value = ask_sum(source).messages[1]["content"].rstrip(".").split()
        results = {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right)}
        assert results[sign] == int(value) >= 0


def test_a_question_for_an_opposite_has_one_answer() -> None:
    source = seeded(6)
    answers: dict[str, set[str]] = {}
    for _ in range(3000):
        question, answer = ask_opposite(source).messages
        word = question["content"].rstrip("?.").split()[-1]
        answers.setdefault(word, set()).add(answer["content"])
    assert {word: found for word, found in answers.items() if len(found) > 1} == {}


def test_called_tools_are_declared() -> None:
    source = seeded(7)
    for _ in range(300):
        conversation = FAMILIES["tool"].draw(source)
        declared = {tool["function"]["name"]: tool["function"] for tool in conversation.tools}
        for message in conversation.messages:
            for call in message.get("tool_calls", []):
                function = declared[call["function"]["name"]]
                assert call["function"]["arguments"].keys() == function["parameters"]["properties"].keys()


def test_thoughts_are_shown_in_about_the_stated_share() -> None:
    only_sums = {"math": FAMILIES["math"]}
    source = seeded(8)
    shown = sum(draw_conversation(source, only_sums).thought is not None for _ in range(2000))
    assert abs(shown / 2000 - THOUGHT_SHARE) < 0.05


def test_weights_decide_the_shares() -> None:
    source = seeded(9)
    families = reweighted(FAMILIES, {name: float(name == "story") for name in FAMILIES})
    texts = Counter(draw_conversation(source, families).messages[0]["content"] for _ in range(100))
    assert all("story" in text for text in texts)


def test_an_unknown_family_cannot_be_reweighted() -> None:
    with pytest.raises(KeyError):
        reweighted(FAMILIES, {"poetry": 1})


@pytest.mark.parametrize(
    ("number", "words"), [(0, "zero"), (13, "thirteen"), (20, "twenty"), (42, "forty-two"), (99, "ninety-nine")]
)
def test_numbers_in_words(number: int, words: str) -> None:
    assert number_in_words(number) == words
