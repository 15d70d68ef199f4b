"""Who may ask: the sender vectors of specs/0016-http-api, and bodies before they are read."""

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.api.errors import ApiRefused
from node.api.guard import FILE_ROUTE, MAX_BODY_BYTES, MAX_FILE_BYTES, Guard, loopback_hosts

SENDERS = Path(__file__).parents[3] / "specs" / "vectors" / "0016-http-api" / "senders.json"
HOST = ("host", "127.0.0.1:11435")
JSON_TYPE = ("content-type", "application/json; charset=utf-8")


async def behind(_scope: Scope, receive: Receive, send: Send) -> None:
    """The guarded app: answers with the body it was given, and what comes after it."""
    first, second = await receive(), await receive()
    await PlainTextResponse(first["body"] + second["type"].encode())(_scope, receive, send)


def refuse(_scope: Scope, refusal: ApiRefused) -> ASGIApp:
    return PlainTextResponse(type(refusal).__name__, refusal.status)


class Asked:
    """One request through a guard, with the body in the given pieces."""

    def __init__(self, *headers: tuple[str, str], method: str = "GET", body: tuple[bytes, ...] = (b"",)) -> None:
        self.scope: Scope = {
            "type": "http",
            "method": method,
            "path": "/",
            "headers": [(name.encode(), value.encode()) for name, value in headers],
        }
        self.pieces = list(body)
        self.read_before_answer = 0
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        if not self.pieces:
            return {"type": "http.disconnect"}
        piece = self.pieces.pop(0)
        if not self.sent:
            self.read_before_answer += len(piece)
        return {"type": "http.request", "body": piece, "more_body": bool(self.pieces)}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def through(self, guard: Guard) -> tuple[int, str]:
        await guard(self.scope, self.receive, self.send)
        return self.sent[0]["status"], self.sent[1]["body"].decode()


def guard(*, anybody: bool = False) -> Guard:
    return Guard(behind, None if anybody else lambda: loopback_hosts(11435), refuse)


@pytest.mark.parametrize("case", json.loads(SENDERS.read_text()), ids=lambda case: case["comment"])
async def test_sender(case: dict[str, Any]) -> None:
    status, told = await Asked(*case["input"]["headers"].items()).through(guard())
    if case["expect"] == "ok":
        assert (status, told) == (200, "http.disconnect")
    else:
        assert (status, told) == (403, case["expect"])


async def test_a_private_socket_takes_any_host_and_still_no_page() -> None:
    assert (await Asked(("host", "localhost")).through(guard(anybody=True)))[0] == 200
    assert (await Asked(("origin", "null")).through(guard(anybody=True)))[0] == 403


async def test_a_body_arrives_whole_and_once() -> None:
    asked = Asked(HOST, JSON_TYPE, method="POST", body=(b'{"a"', b":1", b"}"))
    assert await asked.through(guard()) == (200, '{"a":1}http.disconnect')


@pytest.mark.parametrize("declared", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
async def test_a_body_that_is_not_declared_as_json_is_refused(declared: str) -> None:
    asked = Asked(HOST, ("content-type", declared), method="POST", body=(b"{}",))
    assert await asked.through(guard()) == (415, "ContentTypeRefused")


async def test_a_body_that_announces_too_much_is_answered_unread() -> None:
    asked = Asked(HOST, JSON_TYPE, ("content-length", str(MAX_BODY_BYTES + 1)), method="POST", body=(b"x" * 100,))
    assert await asked.through(guard()) == (413, "BodyTooLarge")
    assert (asked.read_before_answer, asked.pieces) == (0, [])


async def test_a_body_that_grows_too_large_is_answered_there() -> None:
    piece = b"x" * (4 * 1024 * 1024)
    asked = Asked(HOST, JSON_TYPE, method="POST", body=(piece,) * 10)
    assert await asked.through(guard()) == (413, "BodyTooLarge")
    assert (asked.read_before_answer, asked.pieces) == (5 * len(piece), [])


@pytest.mark.parametrize("headers", [[HOST, HOST], [HOST, ("content-length", "-1")], [HOST, ("content-length", "x")]])
async def test_headers_that_can_be_read_in_two_ways_are_refused(headers: list[tuple[str, str]]) -> None:
    assert await Asked(*headers, JSON_TYPE, method="POST").through(guard()) == (400, "BodyInvalid")


async def test_a_client_that_leaves_in_its_request_asked_nothing() -> None:
    asked = Asked(HOST, JSON_TYPE, method="POST", body=())
    assert (await asked.through(guard()))[0] == 400


@pytest.mark.parametrize("declared", [None, "application/octet-stream", "application/x-tensors"])
async def test_a_file_goes_through_as_it_comes(declared: str | None) -> None:
    headers = [HOST] if declared is None else [HOST, ("content-type", declared)]
    asked = Asked(*headers, method="POST", body=(b"a", b"b"))
    asked.scope["path"] = f"{FILE_ROUTE}sha256:00"
    assert await asked.through(guard()) == (200, "ahttp.request")  # two messages, not one with everything


@pytest.mark.parametrize(
    "declared", ["text/plain", "multipart/form-data; boundary=x", "APPLICATION/x-www-form-urlencoded"]
)
async def test_a_form_is_no_file(declared: str) -> None:
    asked = Asked(HOST, ("content-type", declared), method="POST", body=(b"a",))
    asked.scope["path"] = f"{FILE_ROUTE}sha256:00"
    assert await asked.through(guard()) == (415, "ContentTypeRefused")


async def test_a_file_that_announces_too_much_is_refused() -> None:
    asked = Asked(HOST, ("content-length", str(MAX_FILE_BYTES + 1)), method="POST", body=(b"a", b"b"))
    asked.scope["path"] = f"{FILE_ROUTE}sha256:00"
    assert await asked.through(guard()) == (413, "BodyTooLarge")
