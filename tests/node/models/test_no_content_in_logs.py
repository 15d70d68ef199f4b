"""What is asked and answered never reaches the log, whatever happens meanwhile."""

import logging
import os
import signal

import pytest

from node.log_files import JsonLines
from node.models.errors import ModelError, WorkerCrashed
from node.models.requests import GenerateRequest
from tests.node.models.test_resilience import ENDLESS, GREEDY, endless_until_killed, serving

pytestmark = pytest.mark.model

CANARY = "canary-41f7"


async def test_no_word_of_a_request_or_an_answer_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    asked = [{"role": "user", "content": f"Repeat after me: {CANARY}"}]
    function = {"name": CANARY, "description": CANARY, "parameters": {"type": "object", "title": CANARY}}
    requests = [
        GenerateRequest("demo", messages=asked, options=GREEDY, client=CANARY),
        GenerateRequest("demo", messages=asked, tools=[{"type": "function", "function": function}], options=GREEDY),
        GenerateRequest("demo", messages=asked, format={"type": "object", "title": CANARY, "nope": CANARY}),
        GenerateRequest("demo", messages=asked, template="{{ raise_exception('" + CANARY + "') }}"),
        GenerateRequest("demo", prompt=CANARY, system=CANARY, options={CANARY: 1, "stop": [CANARY]}),
        GenerateRequest("demo", prompt=CANARY * 3000, options=GREEDY),
    ]
    async with serving() as service:
        for request in requests:
            try:
                async with service.generate(request) as pieces:
                    async for _ in pieces:
                        continue
            except ModelError:
                continue
        with pytest.raises(WorkerCrashed):
            await endless_until_killed(service, 1)
        async with service.generate(GenerateRequest("demo", prompt=CANARY, raw=True, options=ENDLESS)) as pieces:
            await anext(pieces)
            os.kill(service.worker_pids()[0], signal.SIGSEGV)
    written = "\n".join(JsonLines().format(record) for record in caplog.records)
    assert "worker_failed" in written
    assert CANARY not in written
