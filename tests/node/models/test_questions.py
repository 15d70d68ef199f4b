"""From a request to what its worker is told: what is more than a worker takes is refused before it hears of it."""

import pytest

from node.models.errors import RequestTooLarge
from node.models.library import ServedModel
from node.models.options import resolve_options
from node.models.questions import question_of
from node.models.requests import GenerateRequest, ModelDetails
from protocol.digest import digest_of
from protocol.modelfile import Modelfile
from protocol.worker.codec import decode_to_worker, encode_to_worker
from protocol.worker.messages import MAX_TEXT_BYTES, MAX_TOKENS, Generate, Ready

MODEL = ServedModel(
    name="m", digest=digest_of(b"m"), size_bytes=1, modified_s=0, details=ModelDetails(), modelfile=Modelfile(".")
)
READY = Ready("x", 4096, 1, can_think=False, can_use_tools=True, has_template=True, notes=())
ROOM = MAX_TEXT_BYTES - 100


def asked(request: GenerateRequest) -> Generate:
    return question_of(request, MODEL, resolve_options({}, (), {}), READY, number=1, seed=1)


def test_what_a_worker_takes_it_can_read() -> None:
    told = asked(GenerateRequest("m", messages=[{"role": "user", "content": "x" * ROOM}], context=[7] * 10))
    assert decode_to_worker(encode_to_worker(told)) == told


@pytest.mark.parametrize(
    "request_",
    [
        GenerateRequest("m", messages=[{"role": "user", "content": "x" * MAX_TEXT_BYTES}]),
        GenerateRequest("m", messages=[{"role": "user", "content": "é" * (ROOM // 2 + 100)}]),
        GenerateRequest("m", messages=[{"role": "user", "content": "x" * ROOM}], template="{{ messages }}" * 20),
        GenerateRequest("m", prompt="x", raw=True, context=[7] * (MAX_TOKENS + 1)),
    ],
    ids=["one text", "more bytes than characters", "together", "tokens"],
)
def test_what_it_does_not_take_is_refused(request_: GenerateRequest) -> None:
    with pytest.raises(RequestTooLarge):
        asked(request_)
