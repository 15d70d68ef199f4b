"""Which blobs are needed, by which manifest."""

import re
from typing import Final

from protocol.digest import Digest
from protocol.errors import ProtocolError
from protocol.manifest import MAX_MANIFEST_BYTES, parse_manifest
from store.blobs import Blobs
from store.errors import BlobMissing, StoreError
from store.refs import Refs

_DIGEST: Final = re.compile(rb"sha256:([0-9a-f]{64})")


def closure(blobs: Blobs, manifest: Digest) -> tuple[Digest, ...]:
    """Return the manifest and every blob that it names; the manifest alone where it cannot be read."""
    try:
        parsed = parse_manifest(blobs.read(manifest, MAX_MANIFEST_BYTES))
    except (StoreError, ProtocolError):
        return (manifest,)
    return (manifest, *(blob.digest for blob in parsed.blobs()))


def blobs_needed(blobs: Blobs, refs: Refs) -> frozenset[Digest] | None:
    """Return every blob that a name or an entry of another program needs; None when that cannot be told.

    It cannot when a ref or a manifest to which a name leads is unreadable: then nothing may be removed.
    """
    entries, unreadable = refs.scan()
    if unreadable:
        return None
    needed: set[Digest] = set()
    for manifest in {version.digest for entry in entries for version in entry.history}:
        needed.add(manifest)
        try:
            parsed = parse_manifest(blobs.read(manifest, MAX_MANIFEST_BYTES))
        except (StoreError, ProtocolError):
            return None
        needed.update(blob.digest for blob in parsed.blobs())
    return frozenset(needed | _foreign_blobs(blobs, refs))


def _foreign_blobs(blobs: Blobs, refs: Refs) -> set[Digest]:
    """Return what entries of other programs lead to, in any form: every digest that stands in a document counts."""
    needed: set[Digest] = set()
    waiting = [digest for entry in refs.foreign_entries() for digest in _digests(str(entry).encode())]
    while waiting:
        digest = waiting.pop()
        if digest in needed:
            continue
        needed.add(digest)
        try:
            if blobs.size(digest) <= MAX_MANIFEST_BYTES:
                with blobs.open(digest) as file:
                    content = file.read(MAX_MANIFEST_BYTES)
                waiting += _digests(content) if content.lstrip().startswith(b"{") else []
        except BlobMissing:
            continue
    return needed


def _digests(content: bytes) -> list[Digest]:
    return [Digest(match.decode()) for match in _DIGEST.findall(content)]
