"""Model names: `[host/][namespace/]name[:tag]`, as people type them and as refs are stored."""

import re
from dataclasses import dataclass
from typing import Final

from protocol.errors import ModelNameInvalid

LOCAL_HOST: Final = "local"
LIBRARY: Final = "library"
LATEST: Final = "latest"
MAX_PART_CHARS: Final = 80

_PART: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, order=True)
class ModelName:
    """The four parts of a model's name; every part is safe as a file name."""

    host: str
    namespace: str
    name: str
    tag: str

    def __str__(self) -> str:
        return format_model_name(self)


def parse_model_name(text: str) -> ModelName:
    """Return the name that `text` spells, with `local`, `library` and `latest` filled in; case is folded.

    Raises:
        ModelNameInvalid: more than three path parts, an empty part, or a character outside the allowed ones.
    """
    path, separator, tag = text.lower().partition(":")
    if separator and not tag:
        raise ModelNameInvalid(text, "nothing after ':'")
    parts = path.split("/")
    if len(parts) > 3:
        raise ModelNameInvalid(text, f"{len(parts)} parts between '/', at most 3 are allowed")
    host, namespace, name = [LOCAL_HOST, LIBRARY][: 3 - len(parts)] + parts
    for part in (host, namespace, name, tag or LATEST):
        _require_part(text, part)
    return ModelName(host, namespace, name, tag or LATEST)


def format_model_name(name: ModelName) -> str:
    """Return the shortest spelling that parses back to `name`; the tag is always written."""
    parts = [name.host, name.namespace, name.name]
    if name.host == LOCAL_HOST:
        parts = parts[1:] if name.namespace != LIBRARY else parts[2:]
    return f"{'/'.join(parts)}:{name.tag}"


def _require_part(text: str, part: str) -> None:
    if len(part) > MAX_PART_CHARS:
        raise ModelNameInvalid(text, f"a part of {len(part)} characters, at most {MAX_PART_CHARS} are allowed")
    if not _PART.fullmatch(part) or ".." in part:
        raise ModelNameInvalid(
            text, f"part {part[:20]!r} is not made of a-z, 0-9, '.', '_' and '-' between two letters"
        )
