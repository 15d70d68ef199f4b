"""Requests of one program are one client."""

from starlette.requests import Request

from node.api.clients import client_of


def asked(host: str = "127.0.0.1", port: int = 1, **headers: str) -> str:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return client_of(Request({"type": "http", "client": (host, port), "headers": raw}))


def test_a_program_is_one_client_whatever_its_connection() -> None:
    assert asked(port=1, user_agent="curl/8") == asked(port=2, user_agent="curl/8")
    names = {
        asked(),
        asked(user_agent="curl/8"),
        asked(user_agent="ollama-python/0.6"),
        asked(user_agent="curl/8", authorization="Bearer one"),
        asked(user_agent="curl/8", authorization="Bearer two"),
        asked(user_agent="curl/8", host="::1"),
    }
    assert len(names) == 6


def test_a_key_cannot_be_read_from_the_name() -> None:
    assert "secret" not in asked(authorization="Bearer secret")


def test_a_private_socket_has_no_address() -> None:
    assert client_of(Request({"type": "http", "client": None, "headers": []}))
