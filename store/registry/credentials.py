"""Logins and tokens: what is shown to a registry and its token server, and to nobody else."""

import base64
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from protocol.registry import MAX_TOKEN_BYTES, Challenge, parse_token, token_url

_EARLY_S: Final = 5.0

AskToken = Callable[[str, dict[str, str], int], bytes]


@dataclass(frozen=True)
class Login:
    """A user name and a password or access token; formats without them."""

    username: str = field(repr=False)
    password: str = field(repr=False)

    def header(self) -> str:
        """Return the Basic credentials (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class Authorizer:
    """What to put into the Authorization header of a request to the registry itself."""

    def __init__(self, host: str, login: Login | None, ask: AskToken) -> None:
        """Take the registry's host, the login kept for it, and what fetches `ask(url, headers, max_bytes)`."""
        self._host = host
        self._login = login
        self._ask = ask
        self._lock = threading.Lock()
        self._tokens: dict[tuple[str, ...], tuple[str, float]] = {}
        self._basic = False

    def header(self, scopes: tuple[str, ...]) -> str | None:
        """Return the header's value for a request that needs `scopes`; None where nothing was asked for yet."""
        with self._lock:
            text, until_s = self._tokens.get(scopes, ("", 0.0))
            if text and time.monotonic() < until_s:
                return f"Bearer {text}"
            return self._login.header() if self._basic and self._login else None

    def answer(self, challenges: Sequence[Challenge], scopes: tuple[str, ...], origin: str) -> bool:
        """Return whether there is something new to show now, after the registry has answered 401 with `challenges`.

        Raises:
            RegistryAnswerInvalid: the challenge cannot be followed.
            RegistryError: the token server refuses.
        """
        for challenge in challenges:
            if challenge.scheme == "bearer":
                return self._fetch_token(challenge, scopes, origin)
            if challenge.scheme == "basic" and self._login is not None:
                with self._lock:
                    fresh, self._basic = not self._basic, True
                return fresh
        return False

    def _fetch_token(self, challenge: Challenge, scopes: tuple[str, ...], origin: str) -> bool:
        with self._lock:
            held = self._tokens.pop(scopes, None)
        if held is not None and time.monotonic() < held[1]:
            return False  # a token that is still good was not accepted: another one will not be either
        asked = scopes or tuple(filter(None, [challenge.parameters.get("scope", "")]))
        url = token_url(challenge, asked, origin)
        token = parse_token(
            self._ask(url, {"Authorization": self._login.header()} if self._login else {}, MAX_TOKEN_BYTES)
        )
        with self._lock:
            self._tokens[scopes] = (token.text, time.monotonic() + max(token.life_s - _EARLY_S, 1.0))
        return True
