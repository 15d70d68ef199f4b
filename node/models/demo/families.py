"""Every kind of conversation that the demo model learns, with its share of the corpus."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from types import MappingProxyType

from node.models.demo import dialogues, questions, tool_calls
from node.models.demo.conversation import Conversation


@dataclass(frozen=True)
class Family:
    """One kind of conversation: how one is drawn, and how often relative to the others."""

    draw: Callable[[Random], Conversation]
    weight: float


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "capital": Family(questions.ask_capital, 11),
        "continent": Family(questions.ask_continent, 4),
        "math": Family(questions.ask_sum, 24),
        "colour": Family(questions.ask_colour, 4),
        "opposite": Family(questions.ask_opposite, 3),
        "animal": Family(questions.ask_animal, 2),
        "calendar": Family(questions.ask_calendar, 4),
        "words": Family(questions.ask_number_in_words, 4),
        "translate": Family(questions.ask_translation, 4),
        "echo": Family(questions.ask_echo, 8),
        "count": Family(questions.ask_count, 5),
        "alphabet": Family(questions.ask_alphabet, 2),
        "compare": Family(questions.ask_comparison, 5),
        "reverse": Family(questions.ask_reversal, 3),
        "json": Family(questions.ask_json, 5),
        "memory": Family(dialogues.recall, 5),
        "system": Family(dialogues.follow_instruction, 6),
        "greet": Family(questions.ask_small_talk, 2),
        "story": Family(questions.ask_story, 1.5),
        "lookup": Family(dialogues.look_up, 7),
        "unknown": Family(questions.ask_unknown, 2),
        "tool": Family(tool_calls.call_tool, 10),
    }
)

THOUGHT_SHARE = 0.2
"""How many of the conversations that have a thought show it before the answer."""


def reweighted(families: Mapping[str, Family], weights: Mapping[str, float]) -> Mapping[str, Family]:
    """The families with other shares for those named: a later stage of training practises what is still weak.

    Raises: KeyError for a name that is no family.
    """
    changed = {name: replace(families[name], weight=weight) for name, weight in weights.items()}
    return MappingProxyType({**families, **changed})


def draw_conversation(source: Random, families: Mapping[str, Family] = FAMILIES) -> Conversation:
    """One conversation of a family drawn by weight; its thought is kept in one of five."""
    name = source.choices(list(families), [family.weight for family in families.values()])[0]
    conversation = families[name].draw(source)
    shown = conversation.thought is not None and source.random() < THOUGHT_SHARE
    return conversation if shown else replace(conversation, thought=None)
