"""Blobs, layers and chunks: not there, not whole, not what their digests say.

StoreError
├── BlobMissing
├── BlobTooLarge
├── LayerCorrupt
├── ChunkCorrupt
├── PartialBusy
├── PartialIncomplete
└── SafetensorsInvalid
"""

from protocol.digest import Digest, short_digest
from store.errors.base import StoreError


class BlobMissing(StoreError):
    """The store does not hold this blob."""

    def __init__(self, digest: Digest) -> None:
        super().__init__(f"blob {short_digest(digest)}: not in the store")
        self.digest = digest
        self.hint = "fetch what is missing: tilenode verify NAME --repair"


class BlobTooLarge(StoreError):
    """A blob is larger than what the reader can use."""

    def __init__(self, digest: Digest, size: int, max_bytes: int) -> None:
        super().__init__(f"blob {short_digest(digest)}: {size} bytes, at most {max_bytes} are read here")
        self.digest = digest
        self.size = size
        self.max_bytes = max_bytes


class LayerCorrupt(StoreError):
    """A blob's bytes are not the ones that its digest names; it is not served and not loaded."""

    def __init__(self, expected: Digest, actual: Digest | None, where: str = "") -> None:
        found = f"got {short_digest(actual)}" if actual else "its bytes changed"
        super().__init__(f"layer {short_digest(expected)}: {found}{where and f' {where}'}")
        self.expected = expected
        self.actual = actual
        self.hint = "fetch what is damaged, and only that: tilenode verify NAME --repair"


class ChunkCorrupt(StoreError):
    """A chunk's bytes do not have the BLAKE3 hash that the chunk map names."""

    hint = "nothing wrong was kept; try again, or fetch it from somewhere else"

    def __init__(self, blob: Digest, index: int, offset: int) -> None:
        super().__init__(f"layer {short_digest(blob)}: chunk {index} at byte {offset} does not hash to its name")
        self.blob = blob
        self.index = index
        self.offset = offset


class PartialBusy(StoreError):
    """Something else is already fetching this layer."""

    hint = "wait for the other pull to finish"

    def __init__(self, digest: Digest) -> None:
        super().__init__(f"layer {short_digest(digest)}: already being fetched")
        self.digest = digest


class PartialIncomplete(StoreError):
    """A layer was to be finished while chunks of it are missing."""

    def __init__(self, digest: Digest, missing: int) -> None:
        super().__init__(f"layer {short_digest(digest)}: {missing} chunks are missing")
        self.digest = digest
        self.missing = missing


class SafetensorsInvalid(StoreError):
    """A file is no safetensors file, or not all of it."""

    hint = "copy or download the file again; a cut-off file is the usual cause"

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file
        self.reason = reason
