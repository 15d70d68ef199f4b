"""The model hub's own library, `huggingface_hub` (with `hf_xet`), kept to one hub, its rules and its silence.

The only module that knows the library. What is used of it: its HTTP session with the hub's redirects and retries, the
answers' error codes, the metadata of a file (`get_hf_file_metadata`), the resumable transfer (`http_get`), and Xet.
What is not used: `hf_hub_download` and `snapshot_download`, which begin a killed download from its first byte again
(2.x writes to a new temporary file each time), and `model_info`, which reads an answer of any size and any shape.

Rules, on every request and every redirect: https, or plain http between processes of one machine; the token goes to
the hub's own origin and nowhere else; a hub that is out in the world cannot lead to an address inside this network;
bodies of errors and redirects are cut. The library's telemetry, its agent detection (a request of its own to another
host), its progress bars, its logging and the tokens that it finds by itself are off. Source: specs/0021-builds.md §Hub.
"""

import ipaddress
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib.metadata import version
from typing import BinaryIO, Final, Protocol, cast
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, set_client_factory
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import logging as library_logging
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import default_client_factory, hf_raise_for_status, http_stream_backoff
from huggingface_hub.utils._xet import XetFileData, refresh_xet_connection_info, xet_headers_without_auth
from huggingface_hub.utils.tqdm import disable_progress_bars

from store.errors import (
    HubAnswerInvalid,
    HubError,
    HubUnreachable,
    RepositoryClosed,
    RepositoryUnknown,
    RevisionUnknown,
)
from store.hub_download import Download
from store.hub_settings import HubSettings

TIMEOUT_S: Final = 10
TRIES: Final = 2
MAX_ERROR_BYTES: Final = 64 << 10
_SILENT: Final = 100
# Called before each request of this thread: the library tries again by itself, and somebody may have left meanwhile.
_asked: Final[ContextVar[Callable[[], None]]] = ContextVar("asked", default=lambda: None)
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
# Its own defaults hold 1.5 GB in memory and fetch 256 MB at a time; the file on the disk is the buffer here.
_XET_SETTINGS: Final[dict[str, object]] = {
    "telemetry.enabled": False,
    "reconstruction.download_buffer_size": "32mb",
    "reconstruction.download_buffer_perfile_size": "32mb",
    "reconstruction.download_buffer_limit": "32mb",
    "reconstruction.min_prefetch_buffer": "1mb",
    "reconstruction.min_reconstruction_fetch_size": "4mb",
    "reconstruction.max_reconstruction_fetch_size": "16mb",
    "client.retry_max_attempts": 2,
}


class XetFile(Protocol):
    """Where a file lies in the hub's Xet storage."""

    @property
    def file_hash(self) -> str:
        """Its Xet hash."""

    @property
    def refresh_route(self) -> str:
        """Where a token for the storage is had."""


class HubSession:
    """The library, speaking to one hub. A process has one: the newest session's rules hold for all requests."""

    def __init__(self, settings: HubSettings) -> None:
        self.settings = settings
        self.endpoint = (settings.endpoint or constants._HF_DEFAULT_ENDPOINT).rstrip("/")
        self._rules = HubRules(self.endpoint)
        _silence(settings.offline)
        set_client_factory(self._rules.client)

    def read(self, path: str, what: str, revision: str, max_bytes: int, **query: str) -> bytes | None:
        """Return the hub's answer to GET `path`, None where it says 404 without a reason; `what` is the repository.

        Raises:
            HubError: see `explained`.
        """
        return self._get(self.endpoint + path, what, revision, max_bytes, query)

    def read_file(self, repo: str, commit: str, path: str, size: int) -> bytes:
        """Return a small file's bytes, at most one more than `size`.

        Raises:
            HubError: see `explained`.
        """
        url = hf_hub_url(repo, path, revision=commit, endpoint=self.endpoint)
        content = self._get(url, repo, commit, size, {})
        if content is None:
            raise HubAnswerInvalid(repo, f"lists {path}, which it does not have")
        return content

    def _get(self, url: str, what: str, revision: str, max_bytes: int, query: dict[str, str]) -> bytes | None:
        with (
            self.explained(what, revision),
            http_stream_backoff(
                "GET", url, params=query, headers=self._headers(), timeout=TIMEOUT_S, max_retries=TRIES
            ) as answer,
        ):
            if answer.status_code == httpx2.codes.NOT_FOUND and "x-error-code" not in answer.headers:
                return None
            hf_raise_for_status(answer)
            return _read(answer, what, max_bytes)

    def find_xet(self, repo: str, commit: str, path: str) -> XetFile | None:
        """Return where the file lies in the hub's Xet storage, None where it does not or must not be used."""
        if not self.settings.xet:
            return None
        with self.explained(repo, commit):
            url = hf_hub_url(repo, path, revision=commit, endpoint=self.endpoint)
            metadata = get_hf_file_metadata(url, timeout=TIMEOUT_S, headers=self._headers(), endpoint=self.endpoint)
        found: XetFileData | None = metadata.xet_file_data
        return found if found is not None and self._rules.is_own(found.refresh_route) else None

    def download(self, repo: str, commit: str, path: str, to: Download) -> None:
        """Write what `to` does not have yet; the file's hash is the caller's to check.

        Raises:
            HubError: see `explained`; what came stays in `to`.
        """
        before = _asked.set(to.pulse)
        try:
            with self.explained(repo, commit):
                http_get(
                    hf_hub_url(repo, path, revision=commit, endpoint=self.endpoint),
                    cast(BinaryIO, to),
                    resume_size=to.position,
                    expected_size=to.size,
                    headers={**self._headers(), "Accept-Encoding": "identity"},
                    displayed_filename=path,
                )
        finally:
            _asked.reset(before)

    def download_xet(self, file: XetFile, to: Download) -> None:
        """Write what `to` does not have yet, from the Xet storage.

        Raises:
            HubUnreachable: the storage cannot be used; what came stays in `to`, and `download` may go on from there.
        """
        # Imported here: it starts its own threads and log file, and many hubs and files do without.
        import hf_xet  # type: ignore[import-untyped]  # it has no stubs

        headers = self._headers()
        data = XetFileData(file_hash=file.file_hash, refresh_route=file.refresh_route)
        try:
            storage = refresh_xet_connection_info(file_data=data, headers=headers)
            if not self._rules.may_store(storage.endpoint, self.settings.xet_schemes):
                raise HubUnreachable(self.endpoint, "names a Xet storage that may not be asked")
            session = hf_xet.XetSession(hf_xet.XetConfig().with_config(_XET_SETTINGS))
            group = session.new_download_stream_group(
                endpoint=storage.endpoint,
                token=storage.access_token,
                token_expiry_unix_secs=storage.expiration_unix_epoch,
                token_refresh_url=file.refresh_route,
                token_refresh_headers=headers,
                custom_headers=xet_headers_without_auth(headers),
            )
            with group:
                for piece in group.download_stream(hf_xet.XetFileInfo(file.file_hash, to.size), start=to.position):
                    to.write(piece)
            if to.position != to.size:
                raise HubUnreachable(self.endpoint, f"Xet: ended after {to.position} of {to.size} bytes")
        except (OSError, ValueError, RuntimeError, httpx2.HTTPError) as error:
            raise HubUnreachable(self.endpoint, f"Xet: {type(error).__name__}") from error

    @contextmanager
    def explained(self, repo: str, revision: str) -> Iterator[None]:
        """Turn what the library raises about `repo` into this package's errors.

        Raises:
            RepositoryUnknown, RepositoryClosed, RevisionUnknown: what the hub says.
            HubUnreachable: nobody answers, or not with what is needed.
            HubAnswerInvalid: the answer is none that can be.
        """
        try:
            yield
        except HfHubHTTPError as error:
            raise self._explain(error.response, repo, revision) from error
        except (OfflineModeIsEnabled, httpx2.HTTPError, OSError) as error:
            raise HubUnreachable(self.endpoint, _why(error)) from error
        except (ValueError, httpx2.InvalidURL, httpx2.StreamError) as error:
            raise HubAnswerInvalid(repo, f"cannot be read: {type(error).__name__}") from error

    def _explain(self, answer: httpx2.Response, repo: str, revision: str) -> HubError:
        status, code = answer.status_code, answer.headers.get("x-error-code")
        token_given = self.settings.token is not None
        if code == "RevisionNotFound":
            return RevisionUnknown(repo, revision)
        if code == "EntryNotFound":
            return HubAnswerInvalid(repo, "lists a file that it does not have")
        if code == "GatedRepo" or status == httpx2.codes.FORBIDDEN:
            return RepositoryClosed(repo, self.endpoint, token_given)
        if status in (httpx2.codes.UNAUTHORIZED, httpx2.codes.NOT_FOUND):
            return RepositoryUnknown(repo, self.endpoint, token_given)
        return HubUnreachable(self.endpoint, f"answers with the status {status}")

    def _headers(self) -> dict[str, str]:
        headers: dict[str, str] = build_hf_headers(
            token=self.settings.token or False, library_name="tilenode", library_version=version("tilenode")
        )
        return headers


class HubRules:
    """What every request and answer of the library's session is held to."""

    def __init__(self, endpoint: str) -> None:
        self._origin = _origin(endpoint)
        self._inside = _is_inside(self._origin[1])

    def client(self) -> httpx2.Client:
        """Return the library's own client with the rules on it."""
        client = default_client_factory()
        client.event_hooks["request"].append(self.check_request)
        client.event_hooks["response"].append(self.check_answer)
        return client

    def is_own(self, url: str) -> bool:
        """Return whether `url` is the hub's own, so that the token may go there."""
        return _origin(url) == self._origin

    def may_store(self, url: str, schemes: frozenset[str]) -> bool:
        """Return whether the hub may name `url` as its Xet storage, which is asked by a library with no rules of ours.

        That looks its name up once more: it keeps out plain addresses and honest names, not one that changes meanwhile.
        """
        scheme, host, _ = _origin(url)
        return scheme in schemes and (self._inside or not _is_inside(host))

    def check_request(self, request: httpx2.Request) -> None:
        """Accept a request that may be made, without the token where that is not the hub's."""
        _asked.get()()
        origin = _origin(str(request.url))
        if origin != self._origin:
            request.headers.pop("authorization", None)
            if _is_inside(origin[1]) and not self._inside:
                raise HubUnreachable(self._name, f"leads to {origin[1]}, which is inside this network")
        if origin[0] != "https" and not (origin[0] == "http" and _is_loopback(origin[1])):
            raise HubUnreachable(self._name, f"leads to {origin[0]}://{origin[1]}, which is not encrypted")

    def check_answer(self, answer: httpx2.Response) -> None:
        """Cut what is no content, and do not wait as long as a stranger likes."""
        if answer.status_code == httpx2.codes.TOO_MANY_REQUESTS:
            raise HubUnreachable(self._name, "was asked too often and wants a pause; wait some minutes")
        if not answer.is_success and isinstance(answer.stream, httpx2.SyncByteStream):
            answer.stream = _Cut(answer.stream, MAX_ERROR_BYTES)

    @property
    def _name(self) -> str:
        return f"{self._origin[0]}://{self._origin[1]}"


class _Cut(httpx2.SyncByteStream):
    """The first bytes of a body; the rest is not read."""

    def __init__(self, stream: httpx2.SyncByteStream, max_bytes: int) -> None:
        self._stream = stream
        self._left = max_bytes

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._stream:
            yield piece[: self._left]
            self._left -= len(piece)
            if self._left <= 0:
                return

    def close(self) -> None:
        self._stream.close()


def _silence(offline: bool) -> None:
    """Switch off what the library does by itself, whatever the environment says: it read that at its import."""
    constants.HF_HUB_DISABLE_TELEMETRY = True
    constants.HF_HUB_DISABLE_IMPLICIT_TOKEN = True
    constants.HF_DEBUG = False
    constants.HF_HUB_OFFLINE = offline
    constants.HF_HUB_DISABLE_XET = False
    constants.HF_HUB_USER_AGENT_ORIGIN = None
    library_logging.set_verbosity(_SILENT)
    if constants.HF_HUB_DISABLE_PROGRESS_BARS is not False:  # set by hand: bars on standard error were asked for
        disable_progress_bars()


def _read(answer: httpx2.Response, what: str, max_bytes: int) -> bytes:
    pieces = []
    for piece in answer.iter_bytes():
        max_bytes -= len(piece)
        if max_bytes < 0:
            raise HubAnswerInvalid(what, "is longer than it may be")
        pieces.append(piece)
    return b"".join(pieces)


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    return parts.scheme, (parts.hostname or "").lower(), port or _DEFAULT_PORTS.get(parts.scheme, 0)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _is_inside(host: str) -> bool:
    """Return whether `host` is, or is a name for, an address that is not out in the world."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # nobody knows the name here; a proxy may
        return host == "localhost"
    return any(not ipaddress.ip_address(str(place[4][0]).partition("%")[0]).is_global for place in found)


def _why(error: Exception) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return "not asked: HF_HUB_OFFLINE is set"
    if isinstance(error, httpx2.ConnectError):
        return "cannot be reached"
    if isinstance(error, httpx2.TimeoutException):
        return "does not answer in time"
    if isinstance(error, httpx2.TooManyRedirects):
        return "leads in a circle"
    return f"the connection broke ({type(error).__name__})"
