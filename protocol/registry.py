"""What is said to and by an OCI registry, read without any I/O: references, challenges, tokens, ranges, locations.

Source: specs/0023, the OCI distribution specification 1.1, RFC 9110 (challenges, ranges), RFC 8288 (Link). Every text
comes from a stranger: it is capped before it is looked at, and a URL is never followed that `follow` has not accepted.
"""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, urlencode, urljoin, urlsplit, urlunsplit

from protocol.canonical_json import decode_json
from protocol.digest import Digest, format_oci_digest, parse_digest
from protocol.errors import (
    DigestInvalid,
    JsonInvalid,
    ModelNameInvalid,
    OciNameInvalid,
    ReferenceInvalid,
    RegistryAnswerInvalid,
)
from protocol.model_name import LATEST, LIBRARY, ModelName, format_tag, parse_model_name
from protocol.oci_name import check_repository, check_tag
from protocol.text import clean_text

MAX_REFERENCE_CHARS: Final = 600
MAX_URL_CHARS: Final = 8192
MAX_CHALLENGE_CHARS: Final = 4096
MAX_CHALLENGES: Final = 8
MAX_PARAMETERS: Final = 16
MAX_TOKEN_BYTES: Final = 64 << 10
MAX_ERROR_BYTES: Final = 64 << 10
MAX_TOKEN_LIFE_S: Final = 86_400
DEFAULT_TOKEN_LIFE_S: Final = 60
MAX_SAID_CHARS: Final = 200

_HOST: Final = re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::[1-9][0-9]{0,4})?", re.ASCII)
_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME: Final = re.compile(rf"({_WORD})(?:[ \t]+|(?=,)|$)", re.ASCII)
_PARAMETER: Final = re.compile(rf'({_WORD})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_WORD}))[ \t]*(?=,|$)', re.ASCII)
_TOKEN68: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|$)", re.ASCII)
_SEPARATORS: Final = re.compile(r"[\s,]*", re.ASCII)
_BEARER: Final = re.compile(r"[A-Za-z0-9._~+/=:-]+", re.ASCII)
_LINK: Final = re.compile(r'<([^<>]*)>[ \t]*;[^,]*?\brel="?next"?', re.ASCII)
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.ASCII)
_UPLOADED: Final = re.compile(r"(?:bytes=)?0-([0-9]{1,19})", re.ASCII)


@dataclass(frozen=True, order=True)
class Reference:
    """A model in a registry: `host` with its port, repository, tag, and a digest where one exact manifest is meant.

    `moving` is the tag that follows a release: `q4` beside the tag `q4-1.0` of `q4@1.0`.
    """

    host: str
    repository: str
    tag: str
    digest: Digest | None = None
    moving: str = field(default="", compare=False)

    def __str__(self) -> str:
        return format_reference(self)

    @property
    def key(self) -> str:
        """What stands last in the manifest's URL: the digest where there is one, else the tag."""
        return format_oci_digest(self.digest) if self.digest else self.tag

    @property
    def tags(self) -> tuple[str, ...]:
        """Every tag under which a model is put there: its own, and the moving one after it."""
        return (self.tag, self.moving) if self.moving else (self.tag,)

    @property
    def origin(self) -> str:
        """Scheme and host: plain http for this machine itself, https for every other."""
        return f"{'http' if is_loopback(_bare(self.host)) else 'https'}://{self.host}"


@dataclass(frozen=True)
class Challenge:
    """How a registry wants to be convinced: `scheme` in lower case, and its parameters."""

    scheme: str
    parameters: Mapping[str, str]


@dataclass(frozen=True)
class Token:
    """A bearer token and for how many seconds it is good."""

    text: str
    life_s: int

    def __repr__(self) -> str:
        return f"Token(<redacted {len(self.text)} characters>, life_s={self.life_s})"


@dataclass(frozen=True)
class ContentRange:
    """Bytes `start` to `end` (exclusive) of `total`, which a server need not know."""

    start: int
    end: int
    total: int | None


def names_registry(text: str) -> bool:
    """Return whether `text` begins with a registry's host: one with a dot, with a port, or `localhost`."""
    host, slash, _ = text.partition("/")
    return bool(slash) and ("." in host or ":" in host or host.lower() == "localhost")


def parse_reference(text: str) -> Reference:
    """Return the reference that `text` spells: `host[:port]/repository[:tag][@sha256:…]`, the tag `latest` if none.

    A release `variant@version` becomes the tag `variant-version` (`protocol.oci_name`).

    Raises:
        ReferenceInvalid: no host of a registry, a repository or tag that none may have, a scheme, or too long.
    """
    if len(text) > MAX_REFERENCE_CHARS:
        raise ReferenceInvalid(text, f"{len(text)} characters, at most {MAX_REFERENCE_CHARS} are allowed")
    if "://" in text:
        raise ReferenceInvalid(text, "leave the scheme out; the registry's host comes first")
    host, _, path = text.partition("/")
    if not names_registry(text):
        raise ReferenceInvalid(text, "does not begin with a registry's host (one with a dot or a port, or localhost)")
    path, at, pin = path.partition("@")
    head, slash, last = path.rpartition("/")
    last, colon, tag = last.partition(":")
    try:
        digest = parse_digest(pin) if pin.startswith("sha256:") else None
        if (colon and not tag) or (at and not pin):
            raise ReferenceInvalid(text, f"nothing after {':' if colon and not tag else '@'!r}")
        repository, variant = check_repository(f"{head}{slash}{last}"), check_tag(tag or LATEST)
        if at and digest is None:
            return Reference(check_host(text, host), repository, check_tag(f"{variant}-{pin}"), None, variant)
        return Reference(check_host(text, host), repository, variant, digest)
    except (OciNameInvalid, DigestInvalid) as error:
        raise ReferenceInvalid(text, str(error)) from None


def push_target(text: str, name: ModelName) -> Reference:
    """Return where `push` puts the model `name`: at `text`, whose tag is the model's own where it says none.

    Without `text` it is where the name itself points, if it begins with a registry's host. Raises:
        ReferenceInvalid: neither names a registry.
    """
    if not text:
        text = f"{name.host}/{name.namespace}/{name.name}"
        if not names_registry(text):
            raise ReferenceInvalid(
                str(name), "names no registry", f"say where to: tilenode push {name} HOST/REPOSITORY"
            )
    last = text.rpartition("/")[2]
    return parse_reference(text if ":" in last or "@" in last else f"{text}:{format_tag(name)}")


def local_name(text: str) -> ModelName:
    """Return the name that a model pulled from `text` gets here: the same host, namespace, name, tag and release.

    Raises:
        ModelNameInvalid: a digest instead of a tag, or more parts than a name has.
    """
    if "@sha256:" in text:
        raise ModelNameInvalid(text, "a digest is no name")
    host, _, path = text.partition("/")
    return parse_model_name(text if "/" in path else f"{host}/{LIBRARY}/{path}")


def format_reference(reference: Reference) -> str:
    """Return the spelling that parses back to `reference`."""
    pin = f"@{format_oci_digest(reference.digest)}" if reference.digest else ""
    return f"{reference.host}/{reference.repository}:{reference.tag}{pin}"


def check_host(text: str, host: str) -> str:
    """Return `host` in lower case when it is a host with an optional port; `text` is what the error quotes.

    Raises:
        ReferenceInvalid: anything else.
    """
    lowered = host.lower()
    port = lowered.rpartition(":")[2] if not lowered.endswith("]") else ""
    if not _HOST.fullmatch(lowered) or (port.isdecimal() and ":" in lowered and int(port) > 0xFFFF):
        raise ReferenceInvalid(text, f"{host[:60]!r} is no host with an optional port")
    return lowered


def is_loopback(host: str) -> bool:
    """Return whether the bare name or address `host` can only be this machine itself."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """Return the challenges of a WWW-Authenticate header, in order; at most 4,096 characters and 8 challenges.

    Raises:
        RegistryAnswerInvalid: not within the limits, or not the grammar of RFC 9110 §11.6.1.
    """
    if len(header) > MAX_CHALLENGE_CHARS:
        raise RegistryAnswerInvalid("WWW-Authenticate", f"{len(header)} characters")
    found: list[tuple[str, dict[str, str]]] = []
    position = _skip_separators(header, 0)
    while position < len(header):
        if parameter := _PARAMETER.match(header, position):
            _add_parameter(found, parameter)
            position = parameter.end()
        elif scheme := _SCHEME.match(header, position):
            found.append((scheme[1].lower(), {}))
            position = _skip_token68(header, scheme.end())
        else:
            raise RegistryAnswerInvalid("WWW-Authenticate", f"not understood at character {position}")
        position = _skip_separators(header, position)
    if len(found) > MAX_CHALLENGES:
        raise RegistryAnswerInvalid("WWW-Authenticate", f"{len(found)} challenges")
    return tuple(Challenge(scheme, parameters) for scheme, parameters in found)


def token_url(challenge: Challenge, scopes: Sequence[str], registry: str) -> str:
    """Return where to ask for a token for `scopes`, as a bearer challenge of the registry at `registry` says.

    Raises:
        RegistryAnswerInvalid: no realm, or one that `follow` does not accept.
    """
    realm = challenge.parameters.get("realm", "")
    parts = urlsplit(follow(registry, realm, "realm"))
    query = [("service", service)] if (service := challenge.parameters.get("service")) else []
    asked = urlencode([*query, *(("scope", scope) for scope in scopes)])
    return urlunsplit((parts.scheme, parts.netloc, parts.path, f"{parts.query}&{asked}".lstrip("&"), ""))


def parse_token(data: bytes) -> Token:
    """Return the token in a token server's answer.

    Raises:
        RegistryAnswerInvalid: no JSON object with a `token` or `access_token` that can stand in a header.
    """
    document = _object(data, MAX_TOKEN_BYTES, "token")
    text = document.get("token") or document.get("access_token")
    if not isinstance(text, str) or not _BEARER.fullmatch(text):
        raise RegistryAnswerInvalid("token", "no token that can stand in a header")
    life = document.get("expires_in", DEFAULT_TOKEN_LIFE_S)
    if type(life) is not int or life < 0:
        raise RegistryAnswerInvalid("token", "expires_in is no number of seconds")
    return Token(text, min(life or DEFAULT_TOKEN_LIFE_S, MAX_TOKEN_LIFE_S))


def parse_said(data: bytes) -> tuple[str, str]:
    """Return code and message of the first error in a registry's answer, safe to show; both "" where there is none."""
    try:
        errors = _object(data, MAX_ERROR_BYTES, "errors").get("errors")
    except RegistryAnswerInvalid:
        return "", ""
    first = errors[0] if isinstance(errors, list) and errors else None
    if not isinstance(first, dict):
        return "", ""
    code, message = (clean_text(str(first.get(key, "")), MAX_SAID_CHARS) for key in ("code", "message"))
    return code, message


def parse_next_link(header: str) -> str | None:
    """Return the target of the `next` link in a Link header (RFC 8288), not yet accepted; None where there is none."""
    found = _LINK.search(header[:MAX_URL_CHARS])
    return found[1] if found else None


def parse_content_range(header: str) -> ContentRange:
    """Return what a Content-Range header says.

    Raises:
        RegistryAnswerInvalid: not `bytes first-last/total`, or bounds that are none.
    """
    found = _CONTENT_RANGE.fullmatch(header)
    if not found:
        raise RegistryAnswerInvalid("Content-Range", f"expected bytes, found {header[:80]!r}")
    start, end = int(found[1]), int(found[2]) + 1
    total = None if found[3] == "*" else int(found[3])
    if start >= end or (total is not None and end > total):
        raise RegistryAnswerInvalid("Content-Range", f"no range: {header[:80]!r}")
    return ContentRange(start, end, total)


def parse_uploaded(header: str) -> int:
    """Return how many bytes an upload has, from the Range header of its status, `0-last`.

    `0-0` is what registries say of an upload with nothing in it; one byte is sent again then.

    Raises:
        RegistryAnswerInvalid: anything else.
    """
    found = _UPLOADED.fullmatch(header)
    if not found:
        raise RegistryAnswerInvalid("Range of an upload", f"expected 0-last, found {header[:80]!r}")
    return int(found[1]) + 1 if int(found[1]) else 0


def follow(base: str, location: str, what: str) -> str:
    """Return the absolute URL that `location` means at `base`, when it may be followed.

    Accepted are https, and plain http from this machine to this machine; nothing that holds a user name, a fragment, a
    control character or more than 8,192 characters. Which addresses its host may have is the connection's to check.

    Raises:
        RegistryAnswerInvalid: it may not be followed; `what` names where it stood.
    """
    if not location or len(location) > MAX_URL_CHARS or any(c <= " " or c == "\x7f" for c in location):
        raise RegistryAnswerInvalid(what, f"no URL: {location[:80]!r}")
    try:
        url = urljoin(base, location)
        parts, before = urlsplit(url), urlsplit(base)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise RegistryAnswerInvalid(what, f"no URL: {location[:80]!r}") from None
    if not host or parts.username is not None or parts.fragment or "\\" in url:
        raise RegistryAnswerInvalid(what, f"no URL to follow: {location[:80]!r}")
    local = parts.scheme == before.scheme == "http" and is_loopback(host) and is_loopback(before.hostname or "")
    if parts.scheme != "https" and not local:
        raise RegistryAnswerInvalid(what, f"leads to {parts.scheme[:20]}://{host[:80]}, only https is followed")
    return url


def same_origin(one: str, other: str) -> bool:
    """Return whether two accepted URLs have one scheme, host and port: only then may both see the same credentials."""
    return _origin(one) == _origin(other)


def with_query(url: str, **added: str) -> str:
    """Return `url` with parameters behind those that it has, as an upload's location is used."""
    parts = urlsplit(url)
    query = "&".join(filter(None, [parts.query, urlencode(added, quote_via=quote, safe=":")]))
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


def _skip_separators(header: str, position: int) -> int:
    found = _SEPARATORS.match(header, position)
    return found.end() if found else position


def _skip_token68(header: str, position: int) -> int:
    if _PARAMETER.match(header, position):
        return position
    found = _TOKEN68.match(header, position)
    return found.end() if found else position


def _add_parameter(found: list[tuple[str, dict[str, str]]], parameter: re.Match[str]) -> None:
    if not found:
        raise RegistryAnswerInvalid("WWW-Authenticate", "a parameter before any scheme")
    parameters, name = found[-1][1], parameter[1].lower()
    if name in parameters or len(parameters) >= MAX_PARAMETERS:
        raise RegistryAnswerInvalid("WWW-Authenticate", f"parameter {name[:40]!r} twice, or too many")
    quoted = parameter[2]
    parameters[name] = parameter[3] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)


def _object(data: bytes, max_bytes: int, what: str) -> dict[str, object]:
    try:
        document = decode_json(data, max_bytes, what)
    except JsonInvalid as error:
        raise RegistryAnswerInvalid(what, error.reason) from None
    if not isinstance(document, dict):
        raise RegistryAnswerInvalid(what, "expected an object")
    return document


def _bare(host: str) -> str:
    return host if host.endswith("]") else host.rpartition(":")[0] or host


def _origin(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
