"""Digests: lower-case SHA-256, 64 hex characters, the only thing from which a store path is built."""

import hashlib
import re
from typing import Final, NewType

from protocol.errors import DigestInvalid

Digest = NewType("Digest", str)

_HEX64: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


def parse_digest(text: str) -> Digest:
    """Return `text` as a digest; accepts `<64 hex>` and `sha256:<64 hex>`, lower case only.

    Raises:
        DigestInvalid: anything else, upper case and other algorithms included.
    """
    bare = text.removeprefix("sha256:")
    if not _HEX64.fullmatch(bare):
        raise DigestInvalid(text)
    return Digest(bare)


def format_oci_digest(digest: Digest) -> str:
    """Return the OCI spelling, `sha256:<64 hex>`."""
    return f"sha256:{digest}"


def digest_of(content: bytes) -> Digest:
    """Return the SHA-256 digest of `content`."""
    return Digest(hashlib.sha256(content).hexdigest())


def short_digest(digest: Digest) -> str:
    """Return the first 12 hex characters, the form shown to people."""
    return digest[:12]
