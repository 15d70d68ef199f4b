"""Chat templates: what they can say, and what they cannot do."""

from datetime import UTC, datetime
from typing import Any

import pytest

from node.models.errors import TemplateInvalid
from node.models.limits import TimeUsedUp, bounded
from node.models.templates import render_chat

NOW = datetime(2026, 11, 21, tzinfo=UTC)
HELLO = [{"role": "user", "content": "Grüße & <b>"}]


def render(template: str, messages: list[dict[str, Any]] | None = None, **options: Any) -> str:
    choices = {"tools": (), "thinking": False, "special_tokens": {"bos_token": "<s>"}, "now": NOW, **options}
    return render_chat(template, HELLO if messages is None else messages, **choices)


def test_what_publishers_use_works() -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}\n  {%- if loop.index > 5 %}{% break %}{% endif %}"
        "[{{ m.role }}]{{ m['content'] | trim }}{% generation %}!{% endgeneration %}{% endfor %}"
        "{{ strftime_now('%Y') }}{% if not enable_thinking %}(){% endif %}{% if add_generation_prompt %}A:{% endif %}"
    )
    assert render(template) == "<s>[user]Grüße & <b>!2026()A:"


def test_tools_are_written_as_they_came_and_html_is_not_escaped() -> None:
    tools = [{"function": {"name": "größe", "limit": 0.5}}]
    assert render("{{ tools[0] | tojson }}", tools=tools) == '{"function": {"name": "größe", "limit": 0.5}}'
    assert render("{{ tools is none }}") == "True"


def test_thinking_is_always_said() -> None:
    assert render("{{ enable_thinking }}", thinking=True) == "True"
    assert render("{{ enable_thinking is defined }}") == "True"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ nope", "line 1"),
        ("{{ ''.__class__.__mro__ }}", "not allowed|unsafe|undefined"),
        ("{{ messages.append(1) }}", "not allowed"),
        ("{{ messages[0].update({'a': 1}) }}", "not allowed"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ 'a' * 1000000000 }}", "repetition"),
        ("{{ [0] * 1000000000 }}", "repetition"),
        ("{{ 10 ** 100000 }}", "bits"),
        ("{{ (10 ** 1000) * (10 ** 1000) }}", "bits"),
        ("{% for i in range(10000000) %}{% endfor %}", "Range too big"),
        ("{{ messages[0].nope.nope }}", "no attribute|undefined"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ cycler() }}", "at least one item"),
        ("{{ 'a long text' | truncate(1) }}", "expected length"),
        ("{% for i in range(99999) %}{{ '" + "x" * 1000 + "' }}{% endfor %}", "more than"),
        ("{{ .Prompt }}", "Go's template language"),
        ("{{- if .System }}{{ .System }}{{- end }}", "Go's template language"),
        ("x" * 300_000, "300000 characters"),
    ],
)
def test_what_a_template_cannot_do(template: str, reason: str) -> None:
    with pytest.raises(TemplateInvalid, match=reason):
        render(template)


def test_a_loop_is_stopped() -> None:
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(TimeUsedUp), bounded(0.2):
        render(loop)


@pytest.mark.platform
@pytest.mark.skipif("sys.platform != 'linux'", reason="only Linux bounds memory")
def test_memory_is_bounded() -> None:
    with pytest.raises(TemplateInvalid, match="memory"), bounded(5):
        render("{{ 'a' | center(2000000000) }}")
    assert len(bytearray(600 * 1024 * 1024)) > 0  # the bound is gone with the body
