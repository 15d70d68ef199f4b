"""Degrees of thinking in the words that templates have for them."""

from datetime import UTC, datetime
from typing import Any

import pytest

from node.models.effort import knows_thinking, thinking_variables
from node.models.templates import render_chat

OPENAI = (
    "{% if reasoning_effort is not defined %}{% set reasoning_effort = 'medium' %}{% endif %}{{ reasoning_effort }}"
)
FILTERED = "{{ reasoning_effort | default('medium') }}"
TWO_DEGREES = (
    "{% if reasoning_effort == 'high' %}hard{% elif reasoning_effort == 'none' %}not{% else %}as usual{% endif %}"
)
FOUR_DEGREES = "{{ reasoning_effort if reasoning_effort in ['low', 'medium', 'high', 'max'] else 'default' }}"
BUDGET = "{{ thinking_budget if thinking_budget is defined else 'unbounded' }}"
SWITCH = "{{ enable_thinking }} {{ thinking }}"


def render(template: str, thinking: bool, effort: str) -> str:
    now = datetime(2026, 11, 21, tzinfo=UTC)
    return render_chat(template, [], tools=[], thinking=thinking, special_tokens={}, now=now, effort=effort)


@pytest.mark.parametrize(
    ("template", "thinking", "effort", "rendered"),
    [
        (OPENAI, True, "high", "high"),
        (OPENAI, True, "max", "high"),
        (OPENAI, True, "minimal", "low"),
        (OPENAI, True, "", "medium"),
        (OPENAI, False, "", "medium"),
        (OPENAI, True, "a bit", "medium"),
        (FILTERED, True, "low", "low"),
        (TWO_DEGREES, True, "low", "hard"),
        (TWO_DEGREES, False, "", "not"),
        (TWO_DEGREES, True, "", "as usual"),
        (FOUR_DEGREES, True, "max", "max"),
        (FOUR_DEGREES, True, "xhigh", "max"),
        (FOUR_DEGREES, True, "minimal", "low"),
        (BUDGET, True, "low", "512"),
        (BUDGET, True, "max", "-1"),
        (BUDGET, True, "", "unbounded"),
        (BUDGET, False, "high", "0"),
        (SWITCH, True, "low", "True True"),
        (SWITCH, False, "", "False False"),
    ],
)
def test_a_degree_is_told_in_the_templates_words(template: str, thinking: bool, effort: str, rendered: str) -> None:
    assert render(template, thinking, effort) == rendered


@pytest.mark.parametrize(
    ("template", "known"), [(OPENAI, True), (BUDGET, True), (SWITCH, True), ("{{ messages }}", False)]
)
def test_whether_a_template_can_be_told(template: str, known: bool) -> None:
    assert knows_thinking(template) is known


def test_a_template_that_knows_nothing_is_told_no_degree() -> None:
    variables: dict[str, Any] = thinking_variables("{{ messages }}", True, "high")
    assert variables == {"enable_thinking": True, "thinking": True}
