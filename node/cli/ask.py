"""One question to a model and its answer as it grows, for `run` and for the conversation."""

from collections.abc import Callable
from typing import Any

from node.cli.client import ControlClient
from node.cli.render import Screen

Facts = dict[str, Any]


def ask(
    client: ControlClient,
    screen: Screen,
    *,
    model: str,
    prompt: str,
    chat: str | None,
    started: Callable[[Facts], None] = lambda _: None,
) -> Facts:
    """Print the answer as it grows and return the final facts: answer, chat, figures.

    `started` is told the chat before the first word, so that a stopped answer's chat can go on.
    """
    body = {"model": model, "prompt": prompt, **({"chat": chat} if chat else {})}
    facts: Facts = {}
    with client.stream("POST", "/v1/ask", **body) as events:
        for event in events:
            if event["event"] == "started":
                started(event)
            elif event["event"] == "piece":
                screen.piece(event["text"])
            elif event["event"] == "done":
                facts = event
    screen.say()
    return facts


def figures(facts: Facts) -> str:
    """Return the figures of one answer on one line."""
    speed = f"{facts['tokens_per_s']:.1f} tokens/s"
    return (
        f"{facts['prompt_tokens']} tokens read, {facts['answer_tokens']} written at {speed}, "
        f"the first after {facts['first_token_s']:.2f} s, {facts['total_s']:.2f} s in all"
    )
