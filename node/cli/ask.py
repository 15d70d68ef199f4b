"""One question to a model and its answer as it grows, for `run` and for the conversation."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from node.cli.client import ControlClient
from node.cli.render import Screen

Facts = dict[str, Any]


@dataclass
class Manner:
    """How a person wants to be answered: what goes with every question of one command or conversation.

    `format` is "json" or a JSON schema; `think` is a degree, true, false, or None for the model's default.
    """

    model: str
    options: dict[str, object] = field(default_factory=dict)
    system: str | None = None
    format: object = None
    think: bool | str | None = None
    hide_thinking: bool = False
    keep_alive: str | None = None
    verbose: bool = False

    def body(self) -> Facts:
        """Return what is said to the node beside the question."""
        said = {
            "options": self.options or None,
            "system": self.system,
            "format": self.format,
            "think": self.think,
            "keep_alive": self.keep_alive,
        }
        return {"model": self.model, **{name: value for name, value in said.items() if value is not None}}


def ask(
    client: ControlClient,
    screen: Screen,
    manner: Manner,
    prompt: str,
    *,
    chat: str | None,
    started: Callable[[Facts], None] = lambda _: None,
) -> Facts:
    """Print the answer as it grows and return the final facts: answer, chat, figures.

    `started` is told the chat before the first word, so that a stopped answer's chat can go on.
    """
    body = {**manner.body(), "prompt": prompt, **({"chat": chat} if chat else {})}
    facts: Facts = {}
    thinking = False
    with client.stream("POST", "/v1/ask", **body) as events:
        for event in events:
            if event["event"] == "started":
                started(event)
            elif event["event"] == "piece":
                if event["thinking"] and manner.hide_thinking:
                    continue
                if thinking and not event["thinking"]:
                    screen.say("\n")
                thinking = event["thinking"]
                screen.piece(screen.dim(event["text"]) if thinking else event["text"])
            elif event["event"] == "done":
                facts = event
    screen.say()
    return facts


def figures(facts: Facts) -> str:
    """Return the figures of one answer on one line."""
    speed = f"{facts['tokens_per_s']:.1f} tokens/s"
    cached = f" ({facts['cached_tokens']} known already)" if facts["cached_tokens"] else ""
    return (
        f"{facts['prompt_tokens']} tokens read{cached}, {facts['answer_tokens']} written at {speed}, "
        f"the first after {facts['first_token_s']:.2f} s, {facts['total_s']:.2f} s in all"
    )
