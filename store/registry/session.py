"""Requests to one registry: logged in where it asks for it, repeated where that helps, followed where it leads."""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import httpcore

from protocol.errors import RegistryAnswerInvalid
from protocol.registry import MAX_ERROR_BYTES, Reference, follow, parse_challenges, parse_said, same_origin
from store.registry.credentials import Authorizer, Login
from store.registry.errors import (
    AnswerTooLarge,
    ContentEncoded,
    RedirectRefused,
    RegistryLoginNeeded,
    RegistryLoginRefused,
    RegistryRefused,
    RegistryStalled,
    RegistryUnknown,
    RegistryUnreachable,
)
from store.registry.network import Caller, Network

MAX_REDIRECTS: Final = 5
MAX_RETRY_AFTER_S: Final = 60.0
MIN_BYTES_PER_S: Final = 1024
MAX_DRAINED_BYTES: Final = 64 << 10
MAX_DRAINED_PIECES: Final = 16
_AGAIN: Final = frozenset({429, 500, 502, 503, 504})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_SAFE: Final = frozenset({"GET", "HEAD"})

Body = bytes | Callable[[], Iterator[bytes]]


@dataclass(frozen=True)
class Pace:
    """How long to wait for what, in seconds, and how often to try; each pause is twice as long as the one before."""

    connect_s: float = 15.0
    idle_s: float = 60.0
    small_s: float = 120.0
    commit_s: float = 1800.0
    attempts: int = 5
    first_pause_s: float = 0.5


@dataclass
class Received:
    """Bytes that came in bodies, counted by every thread."""

    count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, count: int) -> None:
        """Count `count` more."""
        with self._lock:
            self.count += count


@dataclass
class Answer:
    """A registry's answer while its body is read; headers in lower case."""

    host: str
    url: str
    status: int
    headers: Mapping[str, str]
    _response: httpcore.Response
    _caller: Caller
    _pace: Pace
    _received: Received
    _begun: bool = False

    @property
    def length(self) -> int | None:
        """What Content-Length says, None where it says nothing."""
        text = self.headers.get("content-length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None

    def read(self, max_bytes: int, what: str) -> bytes:
        """Return the whole body.

        Raises:
            AnswerTooLarge: more than `max_bytes`; nothing beyond them was read.
            RegistryStalled: it did not come within the time for small answers.
        """
        if (self.length or 0) > max_bytes:
            raise AnswerTooLarge(self.host, what, max_bytes)
        self._caller.expect_within(self._pace.small_s)
        self._begun = True
        content = bytearray()
        for piece in self._response.iter_stream():
            content += piece
            self._received.add(len(piece))
            if len(content) > max_bytes:
                raise AnswerTooLarge(self.host, what, max_bytes)
        return bytes(content)

    def stream(self) -> Iterator[bytes]:
        """Yield the body piece by piece.

        Raises:
            RegistryStalled: less than 1 KiB a second over the time for which silence is borne.
        """
        self._caller.expect_within(None)
        self._begun = True
        pieces = iter(self._response.iter_stream())
        waited_s, count = 0.0, 0  # only waiting counts: what the reader does with a piece is not the registry's time
        while True:
            before_s = time.monotonic()
            piece = next(pieces, None)
            waited_s += time.monotonic() - before_s
            if piece is None:
                return
            count += len(piece)
            self._received.add(len(piece))
            if waited_s >= self._pace.idle_s:
                if count < waited_s * MIN_BYTES_PER_S:
                    raise RegistryStalled(self.host, waited_s)
                waited_s, count = 0.0, 0
            yield piece

    def drain(self, method: str) -> None:
        """Read a small body that nobody asked for, so that the connection can be used again."""
        if not self._begun and (method == "HEAD" or (self.length or 0) <= MAX_DRAINED_BYTES):
            self._begun = True
            for _ in zip(self._response.iter_stream(), range(MAX_DRAINED_PIECES), strict=False):
                continue


@dataclass
class Session:
    """Everything that is said to one registry, over kept connections; for several threads at once."""

    reference: Reference
    login: Login | None
    caller: Caller
    pace: Pace = field(default_factory=Pace)
    received: Received = field(default_factory=Received)

    def __post_init__(self) -> None:
        """Make the pool of connections; none is opened yet."""
        host = httpcore.URL(self.reference.origin).host.decode()
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpcore.default_ssl_context(),
            max_connections=16,
            max_keepalive_connections=8,
            keepalive_expiry=30.0,
            network_backend=Network(host, self.caller),
        )
        self._authorizer = Authorizer(self.reference.host, self.login, self._token_answer)

    @property
    def is_known(self) -> bool:
        """Whether the registry has asked who this is, and was told."""
        return self._authorizer.header(()) is not None

    @property
    def host(self) -> str:
        """The registry's host, for messages."""
        return self.reference.host

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()

    def url(self, path: str, repository: str = "") -> str:
        """Return the URL of `path` in the reference's repository, or in another one of the same registry."""
        return f"{self.reference.origin}/v2/{repository or self.reference.repository}/{path}"

    @contextmanager
    def request(
        self,
        method: str,
        url: str,
        what: str,
        *,
        scopes: tuple[str, ...],
        expected: Collection[int],
        headers: Mapping[str, str] | None = None,
        body: Body = b"",
        length: int | None = None,
        answer_s: float | None = None,
        repeatable: bool | None = None,
    ) -> Iterator[Answer]:
        """Give the answer to a request, one of the statuses `expected`; `what` names it in errors.

        What is `repeatable` (a GET or HEAD always) is repeated after a lost connection, every request after an answer
        that says "later"; only a GET or HEAD follows a redirect. A body that is a function is called for each attempt.

        Raises:
            RegistryUnreachable, RegistryStalled: no answer, again and again.
            RegistryLoginNeeded, RegistryLoginRefused, RegistryUnknown, RegistryRefused: another status.
            RedirectRefused, ContentEncoded, RegistryAnswerInvalid: an answer that is not accepted.
        """
        again = method in _SAFE if repeatable is None else repeatable
        sent = _Request(
            method, what, tuple(scopes), dict(headers or {}), body, length, answer_s or self.pace.idle_s, again
        )
        with self._persistent(sent, url, expected) as answer:
            yield answer

    @contextmanager
    def _persistent(self, sent: "_Request", url: str, expected: Collection[int]) -> Iterator[Answer]:
        attempt, given = 0, False
        while True:
            attempt += 1
            try:
                with self._followed(sent, url) as answer:
                    if answer.status == 401 and attempt < self.pace.attempts and self._convince(sent, answer):
                        continue
                    if not (answer.status in _AGAIN and attempt < self.pace.attempts):
                        self._require(sent, answer, expected)
                        given = True
                        yield answer
                        return
                    wait_s = _retry_after(answer)
            except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
                if given or attempt >= self.pace.attempts or not sent.repeatable:
                    raise RegistryUnreachable(self.host, str(error) or type(error).__name__) from error
                wait_s = 0.0
            self.caller.pause(max(wait_s, self.pace.first_pause_s * 2 ** (attempt - 1)))

    @contextmanager
    def _followed(self, sent: "_Request", url: str) -> Iterator[Answer]:
        """Give the answer at the end of the redirects."""
        for _ in range(MAX_REDIRECTS + 1):
            with self._exchange(sent, url) as answer:
                if answer.status not in _REDIRECTS:
                    yield answer
                    return
                if sent.method not in _SAFE:
                    raise RedirectRefused(self.host, _host_of(answer), f"a {sent.method} is not sent elsewhere")
                url = self._accept(url, answer)
        raise RedirectRefused(self.host, _host_of(answer), f"more than {MAX_REDIRECTS} redirects")

    def _accept(self, url: str, answer: Answer) -> str:
        try:
            return follow(url, answer.headers.get("location", ""), "Location")
        except RegistryAnswerInvalid as error:
            raise RedirectRefused(self.host, _host_of(answer), error.reason) from error

    @contextmanager
    def _exchange(self, sent: "_Request", url: str) -> Iterator[Answer]:
        """Send the request once, with credentials only where they belong."""
        headers = {"User-Agent": "tilenode", "Accept-Encoding": "identity", "Accept": "*/*", **sent.headers}
        if same_origin(url, self.reference.origin) and (proof := self._authorizer.header(sent.scopes)):
            headers["Authorization"] = proof
        with self._stream(sent, url, headers) as answer:
            yield answer

    @contextmanager
    def _stream(self, sent: "_Request", url: str, headers: dict[str, str]) -> Iterator[Answer]:
        pace = self.pace
        timeout = {"connect": pace.connect_s, "read": sent.answer_s, "write": pace.idle_s, "pool": pace.idle_s}
        if sent.method not in _SAFE:
            headers["Content-Length"] = str(len(sent.body) if isinstance(sent.body, bytes) else sent.length or 0)
        content = sent.body if isinstance(sent.body, bytes) else sent.body()
        # The answer's head has a time of its own, however it trickles; an upload's body takes as long as it flows.
        self.caller.expect_within(pace.connect_s + sent.answer_s if isinstance(sent.body, bytes) else None)
        with self._pool.stream(
            sent.method, url, headers=list(headers.items()), content=content, extensions={"timeout": timeout}
        ) as response:
            self.caller.expect_within(None)
            found = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in response.headers}
            if (encoding := found.get("content-encoding", "identity")) != "identity":
                raise ContentEncoded(self.host, encoding)
            answer = Answer(self.host, url, response.status, found, response, self.caller, pace, self.received)
            yield answer
            answer.drain(sent.method)

    def _convince(self, sent: "_Request", answer: Answer) -> bool:
        """Return whether another attempt may convince the registry: a token was got, or a login was not shown yet."""
        if not same_origin(answer.url, self.reference.origin):
            return False
        challenges = parse_challenges(answer.headers.get("www-authenticate", ""))
        return self._authorizer.answer(challenges, sent.scopes, self.reference.origin)

    def _token_answer(self, url: str, headers: dict[str, str], max_bytes: int) -> bytes:
        """Return what a token server says; it is asked once, and never with a redirect."""
        sent = _Request("GET", "a token", (), headers, b"", None, self.pace.idle_s, True)
        with self._stream(sent, url, {"User-Agent": "tilenode", "Accept-Encoding": "identity", **headers}) as answer:
            self._require(sent, answer, {200})
            return answer.read(max_bytes, "a token")

    def _require(self, sent: "_Request", answer: Answer, expected: Collection[int]) -> None:
        if answer.status in expected:
            return
        what = sent.what
        if answer.status in (401, 403) and self.login is None:
            raise RegistryLoginNeeded(self.host, what)
        if answer.status in (401, 403):
            raise RegistryLoginRefused(self.host, what)
        if answer.status == 404 and sent.method in _SAFE:
            raise RegistryUnknown(self.host, what)
        code, message = parse_said(answer.read(MAX_ERROR_BYTES, what))
        raise RegistryRefused(self.host, what, answer.status, code, message)


@dataclass(frozen=True)
class _Request:
    method: str
    what: str
    scopes: tuple[str, ...]
    headers: Mapping[str, str]
    body: Body
    length: int | None
    answer_s: float
    repeatable: bool


def _retry_after(answer: Answer) -> float:
    text = answer.headers.get("retry-after", "")
    return min(float(text), MAX_RETRY_AFTER_S) if text.isascii() and text.isdigit() and len(text) < 9 else 0.0


def _host_of(answer: Answer) -> str:
    """Return the host to which a redirect leads, as far as it may be shown: never its path or query."""
    return answer.headers.get("location", "").partition("?")[0][:80]
