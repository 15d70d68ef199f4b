"""What a client sees of our own bugs, and what the log does."""

import logging
from typing import Any

import httpx
import pytest
import trio

from node.api.app import build_api
from node.models.service import Models
from node.models.testing import DirectoryLibrary
from node.ports import SystemClock, SystemEntropy


class BrokenLibrary(DirectoryLibrary):
    """A library with a bug in it."""

    async def find(self, name: str) -> Any:
        raise ZeroDivisionError(name)


@pytest.mark.parametrize(("path", "extra"), [("/api/chat", {}), ("/v1/chat/completions", {})])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_bug_is_a_500_that_quotes_nothing(
    caplog: pytest.LogCaptureFixture, path: str, extra: dict[str, Any], stream: bool
) -> None:
    models = Models(BrokenLibrary(), SystemClock(), SystemEntropy())
    app = build_api(models, SystemClock(), SystemEntropy(), version="1", hosts=None)
    body = {"model": "secret-name", "messages": [{"role": "user", "content": "canary"}], "stream": stream, **extra}
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    with caplog.at_level(logging.DEBUG):
        async with (
            trio.open_nursery() as nursery,
            httpx.AsyncClient(transport=transport, base_url="http://x") as client,
        ):
            answer = await client.post(path, json=body)
            nursery.cancel_scope.cancel()
    assert (answer.status_code, "internal error" in answer.text) == (500, True)
    (record,) = [record for record in caplog.records if record.name == "tilenode.api"]
    assert vars(record)["error"] == "ZeroDivisionError"
    assert "secret-name" not in answer.text + str(vars(record))
