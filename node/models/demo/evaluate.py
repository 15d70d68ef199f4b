"""How many questions of each family the demo model answers exactly, greedily.

python -m node.models.demo.evaluate [DIRECTORY] [--per-family 40] [--misses]
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from node.models.blas import preload_blas
from node.models.demo import demo_directory
from node.models.demo.conversation import Conversation, Message, Tool, seeded
from node.models.demo.families import FAMILIES
from node.models.demo.rendering import END_OF_TURN, render

EVALUATION_SEED = 12345
"""Not a seed of training; the questions of closed families (capitals, sums) are still the trained ones."""
THINKING_SHARE = 0.3
LONGEST_ANSWER_TOKENS = 200


@dataclass(frozen=True)
class Question:
    """What the model is given and the only answer that counts."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    thinking: bool
    expected: str


@dataclass(frozen=True)
class Miss:
    """A question that was answered otherwise."""

    question: Question
    answer: str


@dataclass(frozen=True)
class Score:
    """One family's result."""

    family: str
    asked: int
    misses: tuple[Miss, ...]

    @property
    def exact(self) -> int:
        """How many answers were exactly the expected text."""
        return self.asked - len(self.misses)


Answer = Callable[[Question], str]


def questions(family: str, count: int, seed: int = EVALUATION_SEED) -> Iterator[Question]:
    """The first `count` questions of a family; each family has its own source, so that one can be asked alone."""
    source = seeded(f"{seed}/{family}")
    for _ in range(count):
        conversation = FAMILIES[family].draw(source)
        thinking = conversation.thought is not None and source.random() < THINKING_SHARE
        yield _question(conversation if thinking else replace(conversation, thought=None))


def _question(conversation: Conversation) -> Question:
    """The conversation cut before its last answer."""
    expected = next(span.text for span in reversed(render(conversation)) if span.trained)
    given = conversation.messages[:-1]
    return Question(given, conversation.tools, conversation.thought is not None, expected.removesuffix(END_OF_TURN))


def evaluate(answer: Answer, families: Iterable[str] = tuple(FAMILIES), per_family: int = 40) -> Iterator[Score]:
    """Ask `per_family` questions of each family and compare the answers as text."""
    for family in families:
        answered = [(question, answer(question)) for question in questions(family, per_family)]
        misses = tuple(Miss(question, text) for question, text in answered if text != question.expected)
        yield Score(family, len(answered), misses)


def load_answerer(directory: Path) -> Answer:
    """Load a model with MLX in float32 and give what answers with it, greedily, at most 200 tokens."""
    preload_blas()
    import mlx.core as mx
    from mlx_lm import generate, load

    loaded: Any = load(str(directory))
    model, tokenizer = loaded[0], loaded[1]
    model.set_dtype(mx.float32)

    def answer(question: Question) -> str:
        prompt = tokenizer.apply_chat_template(
            list(question.messages),
            tools=list(question.tools) or None,
            add_generation_prompt=True,
            enable_thinking=question.thinking,
        )
        return str(generate(model, tokenizer, prompt, max_tokens=LONGEST_ANSWER_TOKENS))

    return answer


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line per family and the total; the exit status is 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="python -m node.models.demo.evaluate", description="Score the demo model.")
    parser.add_argument(
        "directory", type=Path, nargs="?", default=demo_directory(), help="a model (default: the shipped one)"
    )
    parser.add_argument("--per-family", type=int, default=40, metavar="N", help="questions of each kind (default: 40)")
    parser.add_argument("--misses", action="store_true", help="print each wrong answer")
    options = parser.parse_args(arguments)
    scores = []
    for score in evaluate(load_answerer(options.directory), per_family=options.per_family):
        scores.append(score)
        _write(f"{score.family:10} {score.exact}/{score.asked}")
        for miss in score.misses if options.misses else ():
            _write(
                f"  {miss.question.messages[-1]['content'][-90:]!r}: {miss.answer!r}, not {miss.question.expected!r}"
            )
    exact, asked = sum(score.exact for score in scores), sum(score.asked for score in scores)
    _write(f"{'total':10} {exact}/{asked} {exact / asked:.1%}")
    return 0


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
