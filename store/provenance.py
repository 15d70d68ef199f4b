"""Provenance bundles on disk, and the one way in which a model of this device gets one: attested, logged, named.

<store>/provenance/<manifest digest>/<SHA-256 of publisher and name>    one verified bundle each (specs/0004)
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, Protocol

from identity.keys import DeviceKey
from protocol.attestation import Artifact, BuildFacts, build_statement, parse_statement, sign_statement
from protocol.canonical_json import Json
from protocol.checkpoint import open_checkpoint
from protocol.digest import Digest, digest_of, parse_digest
from protocol.dsse import sign_envelope
from protocol.errors import DigestInvalid, ProvenanceInvalid
from protocol.log_entry import SALT_BYTES, EventKind
from protocol.manifest import parse_manifest
from protocol.model_name import ModelName, format_model_name
from protocol.provenance import (
    MAX_MANIFEST_BYTES,
    MAX_PROVENANCE_BYTES,
    LoggedEvent,
    Provenance,
    decode_and_verify_provenance,
    encode_provenance,
    entry_for,
    manifest_layers,
)
from store.blobs import Blobs
from store.disk import disk_errors, flush_directory, make_directories, open_regular, replace_file
from store.facts import Signature
from store.layout import Layout
from store.log import Log
from store.refs import RefEvent, Refs

# What checkpoint, proofs and field names take at most in a bundle.
_PROOF_ROOM_BYTES: Final = 16_384


class BuildRecord(Protocol):
    """What a build says about itself; `sources` have a name and a digest."""

    @property
    def sources(self) -> Iterable[Artifact]:
        """What went in, by digest."""

    @property
    def external_parameters(self) -> Mapping[str, Json]:
        """What the person asked for: the Modelfile."""

    @property
    def tool_versions(self) -> Mapping[str, str]:
        """What did the work."""


class ProvenanceFiles:
    """The bundles of one store. Only verified bundles are written; who reads one verifies it again."""

    def __init__(self, layout: Layout) -> None:
        self._root = layout.provenance
        self._temporary = layout.temporary

    def save(self, bundle: bytes) -> Provenance:
        """Keep `bundle` beside those of other publishers and names of the same model, and return what it says.

        Raises:
            ProvenanceInvalid: it does not verify; nothing was written.
            DiskFull, DiskFailed: nothing was written.
        """
        provenance = decode_and_verify_provenance(bundle)
        path = self._directory(provenance.manifest_digest) / _file_name(provenance.publisher, provenance.name)
        with disk_errors(path, len(bundle)):
            make_directories(path.parent)
        replace_file(self._temporary, path, bundle)
        return provenance

    def load(self, manifest: Digest, publisher: str | None = None, name: str | None = None) -> bytes | None:
        """Return the newest bundle of `manifest`, narrowed to a publisher or a signed name; None where there is none.

        Raises:
            DiskFailed: the disk says no.
        """
        for bundle in self.all(manifest):
            try:
                provenance = decode_and_verify_provenance(bundle)
            except ProvenanceInvalid:
                continue  # damaged on the disk; another one may do, and without one the model counts as unverified
            if publisher in (None, provenance.publisher) and name in (None, provenance.name):
                return bundle
        return None

    def all(self, manifest: Digest) -> list[bytes]:
        """Return every bundle of `manifest`, the newest first, as they lie on the disk."""
        directory = self._directory(manifest)
        with disk_errors(directory):
            if not directory.is_dir():
                return []
            paths = sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True)
            return [_read(path) for path in paths if path.is_file()]

    def remove(self, manifest: Digest) -> None:
        """Forget every bundle of `manifest`."""
        directory = self._directory(manifest)
        with disk_errors(directory):
            if directory.is_dir():
                for path in directory.iterdir():
                    path.unlink()
                directory.rmdir()
                flush_directory(self._root)

    def list(self) -> list[Digest]:
        """Return the manifests of which there is a bundle, in order."""
        with disk_errors(self._root):
            names = [path.name for path in self._root.iterdir()] if self._root.is_dir() else []
        return sorted(digest for name in names if (digest := _digest_or_none(name)) is not None)

    def _directory(self, manifest: Digest) -> Path:
        return self._root / parse_digest(manifest)


def publish_model(
    *,
    blobs: Blobs,
    refs: Refs,
    log: Log,
    key: DeviceKey,
    name: ModelName,
    manifest: Digest,
    build: BuildRecord,
    now_s: int,
    entropy: Callable[[int], bytes],
    event: RefEvent = RefEvent.CREATE,
    source: str = "",
) -> bytes:
    """Return the provenance bundle of a model that this device built, once its name stands for it.

    `event` and `source` are what the name's history says about it.

    Order: both attestations signed → both commitments appended to the log in one step → bundle on the disk → name
    moved. A crash in between leaves at most log entries to which no name leads; publishing again is always right.

    Raises:
        LogRolledBack: this device's log was set back; nothing is published.
        BlobMissing, BlobTooLarge, ManifestInvalid: the manifest or a layer is not there, or is none that can be signed.
        ProvenanceInvalid: the manifest is too large for a bundle of 1 MiB; nothing is logged.
        SecretsError, DiskFull, DiskFailed: the name was not moved.
    """
    manifest_bytes = blobs.read(manifest, MAX_MANIFEST_BYTES)
    model = Artifact(format_model_name(name), manifest)
    statements = _state(model, manifest_bytes, build, key, now_s, entropy)
    envelopes = {kind: sign_envelope(key, statement) for kind, (statement, _) in statements.items()}
    _require_acceptable(manifest_bytes, statements, envelopes.values())
    entries = [entry_for(kind, statement, salt, manifest) for kind, (statement, salt) in statements.items()]
    indexes = log.append(entries)
    note = log.checkpoint()
    size = open_checkpoint(note, key.did).size  # another thread may have appended since
    events = {
        kind: LoggedEvent(envelope, index, tuple(log.inclusion_proof(index, size)))
        for (kind, envelope), index in zip(envelopes.items(), indexes, strict=True)
    }
    bundle = encode_provenance(key.did, model.name, manifest_bytes, events["build"], events["sign"], note)
    ProvenanceFiles(blobs.layout).save(bundle)
    refs.set(name, manifest, event=event, source=source, now_s=now_s)
    return bundle


def signature_of(bundle: bytes) -> Signature | None:
    """Return whose bundle this is and under which name it was signed; None where it does not verify."""
    try:
        provenance = decode_and_verify_provenance(bundle)
    except ProvenanceInvalid:
        return None
    return Signature(provenance.publisher, provenance.name)


def _state(
    model: Artifact,
    manifest: bytes,
    build: BuildRecord,
    key: DeviceKey,
    now_s: int,
    entropy: Callable[[int], bytes],
) -> dict[EventKind, tuple[bytes, bytes]]:
    """Return the statement and the salt of each event, in the order in which they are logged."""
    layers = manifest_layers(parse_manifest(manifest))
    sources = [Artifact(source.name, source.digest) for source in build.sources]
    facts = BuildFacts(build.external_parameters, sources, build.tool_versions, now_s)
    build_salt, sign_salt = entropy(SALT_BYTES), entropy(SALT_BYTES)
    return {
        "build": (build_statement(model, layers, facts, key.did, build_salt), build_salt),
        "sign": (sign_statement(model, layers, sign_salt), sign_salt),
    }


def _require_acceptable(
    manifest: bytes, statements: Mapping[EventKind, tuple[bytes, bytes]], envelopes: Iterable[bytes]
) -> None:
    """Refuse what no peer would accept before the log says anything about it."""
    for kind, (statement, _) in statements.items():
        parse_statement(statement, kind)
    total = len(manifest) + sum(map(len, envelopes)) + _PROOF_ROOM_BYTES
    if total > MAX_PROVENANCE_BYTES:
        reason = f"{total} bytes of manifest and attestations, at most {MAX_PROVENANCE_BYTES} are allowed"
        raise ProvenanceInvalid("bundle", reason)


def _file_name(publisher: str, name: str) -> str:
    return digest_of(f"{publisher}\n{name}".encode())


def _read(path: Path) -> bytes:
    with open_regular(path) as file:
        content: bytes = file.read(MAX_PROVENANCE_BYTES + 1)
        return content


def _digest_or_none(name: str) -> Digest | None:
    try:
        return parse_digest(name)
    except DigestInvalid:
        return None
