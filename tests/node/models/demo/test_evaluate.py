"""The evaluation counts what it should, and the shipped weights answer exactly where they must."""

import math
from pathlib import Path

import pytest

from node.models.demo import demo_directory
from node.models.demo.evaluate import Answer, Question, evaluate, load_answerer, main, questions
from node.models.demo.families import FAMILIES

# Families that the model knows by heart; the others are allowed a miss.
BY_HEART = ("capital", "math", "colour", "count", "memory", "json", "story", "greet")


def test_questions_are_deterministic_and_independent_of_the_count() -> None:
    for family in FAMILIES:
        assert list(questions(family, 3)) == list(questions(family, 5))[:3]


def test_a_perfect_and_a_silent_model_are_told_apart() -> None:
    perfect = list(evaluate(lambda question: question.expected, per_family=3))
    silent = list(evaluate(lambda question: "", ["math"], per_family=3))
    assert [score.exact for score in perfect] == [3] * len(FAMILIES)
    assert silent[0].exact == 0
    assert len(silent[0].misses) == 3


def test_the_model_is_given_nothing_of_the_expected_answer() -> None:
    for question in questions("math", 20):
        assert question.messages[-1]["role"] == "user"
        assert question.expected.endswith(".")


@pytest.fixture(scope="module")
def answer() -> Answer:
    return load_answerer(demo_directory())


@pytest.mark.model
def test_the_shipped_model_knows_these_by_heart(answer: Answer) -> None:
    scores = list(evaluate(answer, BY_HEART, per_family=3))
    assert {score.family: score.misses for score in scores if score.misses} == {}


@pytest.mark.model
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello!", "Hello! How can I help you?"),
        ("What is the capital of France?", "Paris."),
        ("What is 7 + 5?", "7 + 5 = 12."),
        ("Give me JSON with name Ann and age 30.", '{"name": "Ann", "age": 30}'),
        ("Explain quantum physics.", "Sorry, I do not know that. I am only a tiny demo model."),
    ],
)
def test_the_answers_that_the_documentation_shows(answer: Answer, text: str, expected: str) -> None:
    assert answer(Question(({"role": "user", "content": text},), (), False, expected)) == expected


@pytest.mark.model
def test_one_step_of_training_runs_on_a_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from node.models.demo import train

    assert train.main([str(tmp_path), "--minutes", "0.01", "--start-from", str(demo_directory())]) == 0
    assert (tmp_path / "model.safetensors").stat().st_size == (demo_directory() / "model.safetensors").stat().st_size
    assert "2886400 parameters" in capsys.readouterr().out


@pytest.mark.model
def test_the_rate_warms_up_holds_and_falls() -> None:
    from node.models.demo.train import learning_rate

    assert learning_rate(1.0, 0, 0.0) == 1 / 60
    assert learning_rate(1.0, 100, 0.2) == 1.0
    assert math.isclose(learning_rate(1.0, 100, 0.7), 0.5)
    assert learning_rate(1.0, 100, 1.0) == 0.02


@pytest.mark.model
def test_the_program_prints_a_total(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--per-family", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("total")
