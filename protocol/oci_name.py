"""Model names as registries spell them: a repository path and a tag, neither of which may hold `@` (specs/0023)."""

import re
from typing import Final

from protocol.errors import OciNameInvalid
from protocol.model_name import LIBRARY, LOCAL_HOST, ModelName

MAX_REPOSITORY_CHARS: Final = 255
MAX_TAG_CHARS: Final = 128

_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG: Final = re.compile(rf"[a-zA-Z0-9_][a-zA-Z0-9._-]{{0,{MAX_TAG_CHARS - 1}}}", re.ASCII)


def oci_repository(name: ModelName) -> str:
    """Return the repository of a model: `namespace/name`, with its host before it where that is another registry's.

    A host's `:port` becomes `_port`, because no repository has a colon.

    Raises:
        OciNameInvalid: a part that no repository may have, such as `a-_b`.
    """
    host = [] if name.host == LOCAL_HOST else [name.host.replace(":", "_")]
    return check_repository("/".join([*host, name.namespace, name.name]))


def short_repository(name: ModelName) -> str:
    """Return the repository as people type it: without `library/` for a local model. Raises as `oci_repository`."""
    if (name.host, name.namespace) == (LOCAL_HOST, LIBRARY):
        return check_repository(name.name)
    return oci_repository(name)


def oci_tag(name: ModelName) -> str:
    """Return the tag of a model: `variant`, or `variant-version` for the release `variant@version`.

    Raises:
        OciNameInvalid: more than 128 characters.
    """
    return check_tag(f"{name.tag}-{name.version}" if name.version else name.tag)


def oci_tags(name: ModelName) -> tuple[str, ...]:
    """Return every tag under which a model is published: its own, and for a release also the moving one after it."""
    return (oci_tag(name), oci_tag(name.moving)) if name.version else (oci_tag(name),)


def check_repository(text: str) -> str:
    """Return `text` when it is a repository's path.

    Raises:
        OciNameInvalid: anything else (OCI distribution specification, "Pulling manifests").
    """
    if len(text) > MAX_REPOSITORY_CHARS:
        raise OciNameInvalid("repository", text, f"{len(text)} characters, at most {MAX_REPOSITORY_CHARS} are allowed")
    if not _REPOSITORY.fullmatch(text):
        raise OciNameInvalid(
            "repository", text, "expected lower-case letters and digits, '.', '_', '-' between two of them, and '/'"
        )
    return text


def check_tag(text: str) -> str:
    """Return `text` when it is a tag.

    Raises:
        OciNameInvalid: anything else.
    """
    if not _TAG.fullmatch(text):
        raise OciNameInvalid("tag", text, f"expected 1 to {MAX_TAG_CHARS} letters, digits, '.', '_' and '-'")
    return text
