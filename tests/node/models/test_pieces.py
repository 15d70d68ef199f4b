"""What a worker's messages become for those who hear the answer."""

from typing import Any

import pytest

from node.models.answers import Answers
from node.models.errors import AnswerFailed
from node.models.pieces import pieces_of
from protocol.worker import logprobs
from protocol.worker.messages import Text


async def test_log_probabilities_of_another_form_fail_the_answer_and_are_not_passed_on() -> None:
    right = logprobs.joined([logprobs.chosen(logprobs.begin(b"Hi"), -0.5, [])])
    answers, nobody = Answers(), object()
    answers.put(Text(1, "Hi", False, 1, right))
    worker: Any = nobody
    pieces = pieces_of(answers, worker, "demo", lambda done: pytest.fail("it does not end"))
    assert (await anext(pieces)).logprobs_json == right
    answers.put(Text(1, "Ho", False, 2, right + '\n\ndata: {"forged": true}'))
    with pytest.raises(AnswerFailed, match="log-probabilities"):
        await anext(pieces)
    await pieces.aclose()
