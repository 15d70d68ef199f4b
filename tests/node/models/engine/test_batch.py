"""The batch engine on the demo model: the tokens of a row are its own, whoever is beside it and whenever they come."""

import random
from typing import TYPE_CHECKING, Any

import pytest

from node.models.blas import preload_blas
from node.models.demo import demo_directory
from node.models.errors import FormatInvalid
from protocol.worker.messages import Sampling

if TYPE_CHECKING:
    from node.models.engine.engine import Engine

pytestmark = pytest.mark.model

QUESTIONS = (
    "Hello!",
    "What is the capital of France?",
    "What is 7 + 5?",
    "Count from 1 to 20.",
    "Tell me a story about a fox.",
    "Repeat after me: river stone 42 Alice",
    "Give me JSON with name Ann and age 30.",
    "Explain quantum physics.",
)
MOST = 24


@pytest.fixture(scope="module")
def engine() -> "Engine":
    preload_blas()
    from node.models.engine.engine import Engine

    return Engine.load(demo_directory())


def prompt(engine: "Engine", question: str) -> list[int]:
    return engine.encode_chat(engine.render([{"role": "user", "content": question}], [], None, False))


def alone_with_mlx_lm(engine: "Engine", tokens: list[int], most: int) -> list[int]:
    """What mlx-lm's own loop says, greedily."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step

    found: list[int] = []
    for token, _ in generate_step(mx.array(tokens), engine.model, max_tokens=most):
        found.append(int(token))
        if found[-1] in engine.stops:
            break
    return found


@pytest.fixture(scope="module")
def expected(engine: "Engine") -> dict[str, list[int]]:
    return {question: alone_with_mlx_lm(engine, prompt(engine, question), MOST) for question in QUESTIONS}


def test_one_row_says_what_mlx_lm_says(engine: "Engine", expected: dict[str, list[int]]) -> None:
    from tests.node.models.engine.batches import generate

    for question in QUESTIONS:
        assert generate(engine, prompt(engine, question), MOST) == expected[question]


@pytest.mark.parametrize("count", [2, 4, 8, 16])
def test_rows_together_say_what_mlx_lm_says_alone(engine: "Engine", expected: dict[str, list[int]], count: int) -> None:
    from tests.node.models.engine.batches import Heard, batch_of, row_for, run

    heard = Heard()
    batch = batch_of(engine, heard)
    asked = [QUESTIONS[number % len(QUESTIONS)] for number in range(count)]
    rows = [row_for(engine, number, prompt(engine, question), MOST) for number, question in enumerate(asked)]
    for row in rows:
        batch.add(row)
    run(batch)
    assert [heard.values(row) for row in rows] == [expected[question] for question in asked]
    assert max(heard.steps) == count


@pytest.mark.parametrize("seed", range(6))
def test_rows_that_join_and_leave_at_any_time_say_the_same(
    engine: "Engine", expected: dict[str, list[int]], seed: int
) -> None:
    from tests.node.models.engine.batches import Heard, batch_of, row_for

    dice = random.Random(seed)
    heard = Heard()
    batch = batch_of(engine, heard)
    asked: dict[Any, tuple[str, int]] = {}
    waiting = 14
    while waiting or batch.rows:
        if waiting and dice.random() < 0.3 and len(batch.rows) < 8:
            waiting -= 1
            question, most = dice.choice(QUESTIONS), dice.randint(1, MOST)
            row = row_for(engine, waiting, prompt(engine, question), most)
            asked[row] = (question, most)
            batch.add(row)
        elif batch.rows and dice.random() < 0.03:
            dice.choice(batch.rows).stopped = True
        batch.step()
    for row, (question, most) in asked.items():
        said = heard.values(row)
        assert said == expected[question][: len(said)]
        assert row.stopped or said == expected[question][:most]


@pytest.mark.parametrize(
    "wild",
    [
        {"temperature": 1.5, "top_k": 0, "top_p": 1.0},
        {"temperature": 2.0, "top_k": 40, "top_p": 0.9},
        {"temperature": 3.0, "top_k": 0, "top_p": 0.95, "min_p": 0.001},
        {"temperature": 2.5, "top_k": 20, "top_p": 1.0, "repeat_penalty": 1.3, "presence_penalty": 0.5},
        {"temperature": 0.0, "repeat_penalty": 1.5, "frequency_penalty": 0.7},
        {"temperature": 4.0, "top_k": 0, "top_p": 1.0, "logit_bias": ((7, 5.0), (9, -100.0))},
    ],
)
def test_the_same_seed_says_the_same_alone_and_in_any_batch(engine: "Engine", wild: dict[str, Any]) -> None:
    from tests.node.models.engine.batches import Heard, batch_of, generate, row_for, run

    wishes = [Sampling(**{**wild, "seed": 11}), Sampling(temperature=0.0), Sampling(seed=5), Sampling(top_k=7, seed=6)]
    heard = Heard()
    batch = batch_of(engine, heard)
    rows = [
        row_for(engine, number, prompt(engine, QUESTIONS[number]), 16, wishes[number % len(wishes)])
        for number in range(8)
    ]
    for row in rows[:5]:
        batch.add(row)
    for _ in range(4):
        batch.step()
    for row in rows[5:]:
        batch.add(row)
    run(batch)
    for row in rows:
        assert heard.values(row) == generate(engine, row.prompt, 16, row.sampling)


def test_a_long_prompt_is_read_between_the_tokens_of_others(engine: "Engine") -> None:
    from tests.node.models.engine.batches import Heard, batch_of, row_for, run

    heard = Heard()
    batch = batch_of(engine, heard)
    talking = row_for(engine, 1, prompt(engine, "Tell me a story about a fox."), 120)
    batch.add(talking)
    for _ in range(3):
        batch.step()
    long = row_for(engine, 2, prompt(engine, "Hello! " * 400), 5)
    batch.add(long)
    said = []
    while long.rest:
        batch.step()
        said.append(len(heard.values(talking)))
    parts = [read for row, read in heard.progress if row is long]
    assert len(parts) > 2
    assert said[-1] - said[0] >= len(parts) - 2
    run(batch)
    assert heard.values(long) == alone_with_mlx_lm(engine, long.prompt, 5)


def test_a_short_prompt_does_not_wait_for_a_long_one(engine: "Engine") -> None:
    from tests.node.models.engine.batches import Heard, batch_of, row_for, run

    heard = Heard()
    batch = batch_of(engine, heard)
    long, short = (
        row_for(engine, 1, prompt(engine, "Hello! " * 500), 3),
        row_for(engine, 2, prompt(engine, "Hello!"), 3),
    )
    batch.add(long)
    batch.step()
    batch.add(short)
    run(batch)
    assert next(iter(heard.tokens)) is short


def test_a_row_that_is_stopped_ends_within_one_step(engine: "Engine", expected: dict[str, list[int]]) -> None:
    from tests.node.models.engine.batches import Heard, batch_of, row_for, run

    heard = Heard()
    batch = batch_of(engine, heard)
    fox, story = "Tell me a story about a fox.", prompt(engine, "Tell me a story about a fox.")
    rows = [row_for(engine, number, story, MOST) for number in range(3)]
    long = row_for(engine, 9, prompt(engine, "Hello! " * 500), 3)
    for row in rows:
        batch.add(row)
    batch.step()
    batch.step()
    batch.add(long)
    batch.step()
    batch.step()
    rows[1].stopped = long.stopped = True
    before = len(heard.values(rows[1]))
    batch.step()
    assert rows[1] not in batch.rows
    assert long not in batch.rows
    assert len(heard.values(rows[1])) == before
    run(batch)
    assert heard.values(rows[0]) == heard.values(rows[2]) == expected[fox]


def test_log_probabilities_are_those_of_the_model(engine: "Engine") -> None:
    import mlx.core as mx
    import numpy as np

    from tests.node.models.engine.batches import Heard, batch_of, row_for, run

    heard = Heard()
    batch = batch_of(engine, heard)
    asked = prompt(engine, QUESTIONS[1])
    rows = [row_for(engine, number, asked, 4, likely=wanted) for number, wanted in enumerate((3, -1, 0))]
    for row in rows:
        batch.add(row)
    run(batch)
    said = heard.tokens[rows[0]]
    logits: Any = engine.model(mx.array([asked + [chosen.token for chosen in said]]))[0, len(asked) - 1 :]
    weights = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True), dtype=np.float64)
    for place, chosen in enumerate(said):
        assert chosen.likely is not None
        best = np.argsort(-weights[place])[:3]
        assert [token for token, _ in chosen.likely.tokens] == best.tolist()
        assert chosen.likely.chosen == pytest.approx(weights[place][chosen.token], abs=1e-3)
        assert [weight for _, weight in chosen.likely.tokens] == pytest.approx(weights[place][best], abs=1e-2)
    assert all(chosen.likely is None for chosen in heard.tokens[rows[1]])
    assert all(chosen.likely is not None and not chosen.likely.tokens for chosen in heard.tokens[rows[2]])


class OnlyEven:
    """Lets only tokens with even numbers come; breaks off after so many."""

    def __init__(self, vocabulary: int, breaks_after: int) -> None:
        self._vocabulary = vocabulary
        self._left = breaks_after
        self.ended = False

    def mask(self) -> Any:
        import numpy as np

        if self._left == 0:
            raise FormatInvalid("too much")
        self._left -= 1
        return np.arange(self._vocabulary) % 2 == 0

    def accept(self, token: int) -> None:
        assert token % 2 == 0


def test_a_constraint_holds_its_row_and_no_other_and_fails_it_alone(
    engine: "Engine", expected: dict[str, list[int]]
) -> None:
    from tests.node.models.engine.batches import Heard, batch_of, row_for, run

    heard = Heard()
    batch = batch_of(engine, heard)
    free = row_for(engine, 1, prompt(engine, QUESTIONS[4]), MOST)
    held = row_for(engine, 2, prompt(engine, QUESTIONS[3]), 9, constraint=OnlyEven(engine.vocabulary, 99))
    broken = row_for(engine, 3, prompt(engine, QUESTIONS[2]), 9, constraint=OnlyEven(engine.vocabulary, 1))
    for row in (free, held, broken):
        batch.add(row)
    run(batch)
    assert heard.values(free) == expected[QUESTIONS[4]]
    assert all(token % 2 == 0 or token in engine.stops for token in heard.values(held))
    assert isinstance(heard.errors[broken], FormatInvalid)
    assert len(heard.tokens[broken]) == 1


class Parrot:
    """Guesses what it was told, right or wrong."""

    def __init__(self, words: list[int], prompt_tokens: int) -> None:
        self._words = words
        self._prompt = prompt_tokens
        self.asked = 0

    def guess(self, history: Any, at_most: int, choose: Any) -> list[int] | None:
        self.asked += 1
        place = len(history) - self._prompt
        return self._words[place : place + min(3, max(0, at_most))]

    def rest(self) -> None:
        """Nothing was read."""


@pytest.mark.parametrize("wish", [Sampling(temperature=0.0), Sampling(temperature=2.0, top_p=1.0, seed=3)])
@pytest.mark.parametrize("wrong_every", [0, 2, 5])
def test_guesses_change_nothing_but_the_number_of_steps(engine: "Engine", wish: Sampling, wrong_every: int) -> None:
    from tests.node.models.engine.batches import Heard, batch_of, generate, row_for, run

    asked = prompt(engine, QUESTIONS[4])
    without = generate(engine, asked, MOST, wish)
    words = [0 if wrong_every and place % wrong_every == 0 else token for place, token in enumerate(without)]
    heard, drafter = Heard(), Parrot(words, len(asked))
    batch = batch_of(engine, heard, drafter=drafter)
    row, other = row_for(engine, 1, asked, MOST, wish), row_for(engine, 2, prompt(engine, "Hello!"), 4)
    batch.add(row)
    for _ in range(5):
        batch.step()
    if wrong_every == 5:
        batch.add(other)
    run(batch)
    assert heard.values(row) == without
    assert drafter.asked
    assert row.accepted <= row.drafted
    if not wrong_every:
        assert len(heard.steps) < len(without)


def test_a_long_prompt_is_read_though_short_ones_never_end(engine: "Engine") -> None:
    from tests.node.models.engine.batches import Heard, batch_of, row_for

    heard = Heard()
    batch = batch_of(engine, heard)
    long = row_for(engine, 0, [5] * 600, 1)
    batch.add(long)
    for number in range(1, 200):
        batch.add(row_for(engine, number, prompt(engine, "Hello!"), 1))
        batch.step()
    assert len(heard.values(long)) == 1
