"""The bodies of the compatible APIs: the vectors of specs/0031-compatible-apis, and errors in each API's own words."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from node.api import anthropic_request, openai_request, responses_request
from node.api.anthropic_errors import anthropic_error
from node.api.anthropic_schemas import MessagesBody
from node.api.body import parse_body
from node.api.errors import AnswerNotKept, ApiDefect, BodyInvalid, BodyTooLarge, OriginNotAllowed
from node.api.native import native_error
from node.api.openai_errors import openai_error
from node.api.openai_parts import new_ids
from node.api.openai_schemas import ChatCompletionBody, CompletionBody
from node.api.responses_items import read_input
from node.api.responses_schemas import ResponseBody
from node.errors import NodeError
from node.models.errors import (
    CapabilityMissing,
    ModelNotFound,
    ModelResting,
    PromptTooLong,
    ServerBusy,
    WorkerCrashed,
    WorkerStopped,
)
from node.models.requests import GenerateRequest

VECTORS = Path(__file__).parents[3] / "specs" / "vectors" / "0031-compatible-apis" / "bodies.json"
CASES: list[dict[str, Any]] = json.loads(VECTORS.read_text())
REFUSALS: dict[str, type[NodeError]] = {"BodyInvalid": BodyInvalid, "CapabilityMissing": CapabilityMissing}

READERS: dict[str, Callable[[bytes], Sequence[GenerateRequest]]] = {
    "chat": lambda body: openai_request.chat_questions(parse_body(body, ChatCompletionBody), ""),
    "completions": lambda body: openai_request.completion_questions(parse_body(body, CompletionBody), ""),
    "responses": lambda body: [_response(parse_body(body, ResponseBody))],
    "messages": lambda body: [anthropic_request.question_of(parse_body(body, MessagesBody), "")],
}
PARTS: dict[str, Callable[[Sequence[GenerateRequest]], object]] = {
    "count": len,
    "seeds": lambda questions: [question.options["seed"] for question in questions],
    "prompts": lambda questions: [question.prompt for question in questions],
    "contexts": lambda questions: [list(question.context) for question in questions],
    "num_predict": lambda questions: questions[0].options["num_predict"],
    "logit_bias": lambda questions: {str(token): bias for token, bias in questions[0].logit_bias.items()},
}


def _response(body: ResponseBody) -> GenerateRequest:
    return responses_request.question_of(body, read_input(body.input, new_ids(lambda size: bytes(size))), "")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['input']['api']}: {case['comment']}")
def test_vector(case: dict[str, Any]) -> None:
    read = READERS[case["input"]["api"]]
    body = json.dumps(case["input"]["body"]).encode()
    if case["expect"] == "ok":
        questions = read(body)
        for name, value in case["output"].items():
            found = PARTS[name](questions) if name in PARTS else getattr(questions[0], name)
            assert found == value, name
        return
    with pytest.raises(REFUSALS[case["expect"]]) as caught:
        read(body)
    if "param" in case:
        assert getattr(caught.value, "param", None) == case["param"]


ERRORS: list[tuple[NodeError, type[Exception], type[Exception]]] = [
    (ModelNotFound("m"), openai.NotFoundError, anthropic.NotFoundError),
    (BodyInvalid("x"), openai.BadRequestError, anthropic.BadRequestError),
    (CapabilityMissing("m", "x"), openai.BadRequestError, anthropic.BadRequestError),
    (PromptTooLong(9, 5), openai.BadRequestError, anthropic.BadRequestError),
    (ServerBusy(64), openai.RateLimitError, anthropic.OverloadedError),
    (ModelResting("m", 3, 4.0), openai.InternalServerError, anthropic.OverloadedError),
    (WorkerStopped("loading"), openai.InternalServerError, anthropic.OverloadedError),
    (OriginNotAllowed("x"), openai.PermissionDeniedError, anthropic.PermissionDeniedError),
    (BodyTooLarge(5), openai.APIStatusError, anthropic.ContentTooLargeError),
    (WorkerCrashed(-9, "answering"), openai.InternalServerError, anthropic.InternalServerError),
    (ApiDefect(), openai.InternalServerError, anthropic.InternalServerError),
    (AnswerNotKept("r", "previous_response_id"), openai.BadRequestError, anthropic.BadRequestError),
    (AnswerNotKept("r"), openai.NotFoundError, anthropic.NotFoundError),
]


@pytest.mark.parametrize(("error", "theirs", "others"), ERRORS, ids=lambda value: type(value).__name__)
def test_the_stock_clients_raise_what_fits(error: NodeError, theirs: type[Exception], others: type[Exception]) -> None:
    for told, client, expected in (
        (openai_error(error), openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="x"), theirs),
        (anthropic_error(error), anthropic.Anthropic(base_url="http://127.0.0.1:9", api_key="x"), others),
    ):
        with client:
            request = httpx2.Request("POST", "http://127.0.0.1:9")
            answer = httpx2.Response(told.status_code, content=bytes(told.body), request=request)
            raised = client._make_status_error_from_response(answer)
            assert type(raised) is expected
            assert str(error) in str(raised)
        if isinstance(error, ServerBusy | WorkerStopped):
            assert int(told.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("error", "seconds"), [(ServerBusy(64), "1"), (ModelResting("m", 3, 3.2), "4"), (WorkerStopped("loading"), "1")]
)
def test_who_is_turned_away_for_now_is_told_when_to_ask_again(error: NodeError, seconds: str) -> None:
    told = [native_error(error), openai_error(error), anthropic_error(error)]
    assert [answer.headers["retry-after"] for answer in told] == [seconds] * 3
    assert told[0].status_code == 503
