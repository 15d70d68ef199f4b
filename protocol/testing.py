"""A log in memory and provenance bundles made from nothing, for tests of whatever consumes them."""

from collections.abc import Sequence

from identity.keys import DeviceKey
from protocol.attestation import Artifact, BuildFacts, build_statement, sign_statement
from protocol.checkpoint import sign_checkpoint
from protocol.digest import Digest, digest_of
from protocol.dsse import sign_envelope
from protocol.log_entry import EventKind
from protocol.manifest import (
    CONFIG_MEDIA_TYPE,
    WEIGHT,
    Descriptor,
    Layer,
    Manifest,
    encode_manifest,
    parse_manifest,
)
from protocol.provenance import LoggedEvent, encode_provenance, entry_for, manifest_layers
from protocol.tlog import leaf_hash, node_hash, prove_consistency, prove_inclusion, tree_root


class MemoryLog:
    """The log of one key, kept as a list of entries; hashes are computed anew each time, slowly and plainly."""

    def __init__(self, key: DeviceKey, entries: Sequence[bytes] = ()) -> None:
        self.key = key
        self.entries = list(entries)

    def read(self, level: int, index: int) -> bytes:
        """Return the hash of a complete subtree, a `HashReader`."""
        if level == 0:
            return leaf_hash(self.entries[index])
        return node_hash(self.read(level - 1, 2 * index), self.read(level - 1, 2 * index + 1))

    def root(self, size: int | None = None) -> bytes:
        """Return the root of the first `size` entries, of all without it."""
        return tree_root(len(self.entries) if size is None else size, self.read)

    def checkpoint(self, size: int | None = None) -> bytes:
        """Return the signed note at `size`, of the whole log without it."""
        size = len(self.entries) if size is None else size
        return sign_checkpoint(self.key, size, self.root(size))

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """Return the inclusion proof of entry `index`."""
        return prove_inclusion(index, len(self.entries) if size is None else size, self.read)

    def consistency(self, old: int, new: int | None = None) -> list[bytes]:
        """Return the consistency proof from `old` to `new`."""
        return prove_consistency(old, len(self.entries) if new is None else new, self.read)


def small_manifest(weights: bytes = b"weights") -> bytes:
    """Return the manifest of a model with one weight file of this content and an empty configuration."""
    config = Descriptor(digest_of(b"{}"), 2, CONFIG_MEDIA_TYPE)
    return encode_manifest(Manifest(config, (Layer(digest_of(weights), len(weights), WEIGHT, "model.safetensors"),)))


def statements_for(key: DeviceKey, name: str, manifest: bytes) -> dict[EventKind, tuple[bytes, bytes]]:
    """Return (statement, salt) of both events; the salts are 32 bytes of 0xb1 and 0x51."""
    model = Artifact(name, digest_of(manifest))
    layers = manifest_layers(parse_manifest(manifest))
    facts = BuildFacts(
        {"modelfile": "FROM ."}, [Artifact("model.safetensors", digest_of(b"source"))], {"tilenode": "0"}, 0
    )
    build_salt, sign_salt = b"\xb1" * 32, b"\x51" * 32
    return {
        "build": (build_statement(model, layers, facts, key.did, build_salt), build_salt),
        "sign": (sign_statement(model, layers, sign_salt), sign_salt),
    }


def publish_in_memory(log: MemoryLog, name: str, manifest: bytes) -> bytes:
    """Log both events of a model in `log` and return the provenance bundle under the new checkpoint."""
    digest: Digest = digest_of(manifest)
    envelopes: dict[EventKind, bytes] = {}
    for kind, (statement, salt) in statements_for(log.key, name, manifest).items():
        log.entries.append(entry_for(kind, statement, salt, digest))
        envelopes[kind] = sign_envelope(log.key, statement)
    first = len(log.entries) - 2
    build = LoggedEvent(envelopes["build"], first, tuple(log.inclusion(first)))
    sign = LoggedEvent(envelopes["sign"], first + 1, tuple(log.inclusion(first + 1)))
    return encode_provenance(log.key.did, name, manifest, build, sign, log.checkpoint())
