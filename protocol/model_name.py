"""Model names: `[host[:port]/][namespace/]name[:tag][@version]`, as people type them and as refs are stored."""

import re
from dataclasses import dataclass
from typing import Final

from protocol.errors import ModelNameInvalid

LOCAL_HOST: Final = "local"
LIBRARY: Final = "library"
LATEST: Final = "latest"
MAX_PART_CHARS: Final = 80

_PART: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?", re.ASCII)
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)


@dataclass(frozen=True, order=True)
class ModelName:
    """The parts of a model's name; every part is safe as a file name.

    `tag` is what moves from version to version; `version` is "" or a release of it, which never moves once it is set.
    """

    host: str
    namespace: str
    name: str
    tag: str
    version: str = ""

    def __str__(self) -> str:
        return format_model_name(self)

    @property
    def moving(self) -> "ModelName":
        """The name without its version: the tag that points at the newest one."""
        return ModelName(self.host, self.namespace, self.name, self.tag)


def parse_model_name(text: str) -> ModelName:
    """Return the name that `text` spells, with `local`, `library` and `latest` filled in; case is folded.

    Raises:
        ModelNameInvalid: more than three path parts, an empty part, or a character outside the allowed ones.
    """
    *parents, last = text.lower().split("/")
    if len(parents) > 2:
        raise ModelNameInvalid(text, f"{len(parents) + 1} parts between '/', at most 3 are allowed")
    last, at, version = last.partition("@")
    name, colon, tag = last.partition(":")
    for separator, part in ((":", tag if colon else LATEST), ("@", version if at else LATEST)):
        if not part:
            raise ModelNameInvalid(text, f"nothing after {separator!r}")
    host, namespace = [LOCAL_HOST, LIBRARY][: 2 - len(parents)] + parents
    bare_host, colon, port = host.partition(":")
    if colon and (len(parents) != 2 or not _PORT.fullmatch(port) or int(port) > 0xFFFF):
        raise ModelNameInvalid(text, "only a host may be followed by ':' and a port")
    for part in (bare_host, namespace, name, tag or LATEST, version or LATEST):
        _require_part(text, part)
    return ModelName(host, namespace, name, tag or LATEST, version)


def format_model_name(name: ModelName) -> str:
    """Return the shortest spelling that parses back to `name`; the tag is always written."""
    parts = [name.host, name.namespace, name.name]
    if name.host == LOCAL_HOST:
        parts = parts[1:] if name.namespace != LIBRARY else parts[2:]
    return f"{'/'.join(parts)}:{format_tag(name)}"


def format_tag(name: ModelName) -> str:
    """Return what stands after the colon: `tag`, or `tag@version` for a release."""
    return f"{name.tag}@{name.version}" if name.version else name.tag


def _require_part(text: str, part: str) -> None:
    if len(part) > MAX_PART_CHARS:
        raise ModelNameInvalid(text, f"a part of {len(part)} characters, at most {MAX_PART_CHARS} are allowed")
    if not _PART.fullmatch(part) or ".." in part:
        raise ModelNameInvalid(
            text, f"part {part[:20]!r} is not made of a-z, 0-9, '.', '_' and '-' between two letters"
        )
