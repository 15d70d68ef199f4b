"""Words that follow one another as one message: nothing is lost, and what differs in kind stays apart."""

from dataclasses import replace

import pytest

from protocol.worker import logprobs
from protocol.worker.messages import Text
from protocol.worker.words import MOST_CHARACTERS, joined

FIRST = Text(7, "Hel", False, 2)
SECOND = Text(7, "lo", False, 3)


def weights(*said: bytes) -> str:
    return logprobs.joined([logprobs.chosen(logprobs.begin(each), -0.5, [(logprobs.begin(b"x"), -2)]) for each in said])


def test_the_text_follows_and_the_count_is_the_later_one() -> None:
    assert joined(FIRST, SECOND) == Text(7, "Hello", False, 3)


def test_lists_of_log_probabilities_become_one_of_the_exact_form() -> None:
    both = joined(replace(FIRST, logprobs_json=weights(b"He", b"l")), replace(SECOND, logprobs_json=weights(b"lo")))
    assert both == replace(FIRST, text="Hello", tokens=3, logprobs_json=weights(b"He", b"l", b"lo"))
    assert logprobs.is_well_formed(both.logprobs_json)


@pytest.mark.parametrize(
    "second",
    [
        replace(SECOND, thinking=True),
        replace(SECOND, logprobs_json=weights(b"lo")),
        replace(SECOND, text="o" * MOST_CHARACTERS),
    ],
    ids=["thinking", "log-probabilities", "size"],
)
def test_what_does_not_go_together_stays_apart(second: Text) -> None:
    assert joined(FIRST, second) is None
    assert joined(second, FIRST) is None
