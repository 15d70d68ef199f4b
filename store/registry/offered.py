"""What a registry has beside a model: its referrers, read under caps, believed only as far as they can be checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.digest import Digest, parse_digest
from protocol.errors import ArtifactInvalid, DigestInvalid, ProvenanceInvalid, RegistryAnswerInvalid
from protocol.manifest import Descriptor
from protocol.provenance import MAX_PROVENANCE_BYTES, decode_and_verify_provenance
from protocol.referrer import (
    CHUNK_MAPS,
    DELTA,
    DELTA_BASE,
    DELTA_TARGET,
    MAPPED_BLOB,
    PROVENANCE,
    Artifact,
    Part,
    parse_artifact,
)
from store.referrers import DeltaBlob
from store.registry.client import RegistryClient
from store.registry.errors import (
    AnswerMismatch,
    AnswerTooLarge,
    ContentEncoded,
    RedirectRefused,
    RegistryRefused,
    RegistryUnknown,
)

MAX_LOOKED_AT: Final = 64
MAX_BUNDLES: Final = 8
KINDS: Final = frozenset({CHUNK_MAPS, DELTA, PROVENANCE})
# A referrer that cannot be had or read costs what it would have brought, and never the model.
_USELESS: Final = (
    AnswerMismatch,
    AnswerTooLarge,
    ArtifactInvalid,
    ContentEncoded,
    DigestInvalid,
    RedirectRefused,
    RegistryAnswerInvalid,
    RegistryRefused,
    RegistryUnknown,
)


@dataclass(frozen=True)
class Offered:
    """The referrers of one manifest: chunk maps by the blob that they map, deltas, and verified provenance bundles.

    `complaints` say, for people, what of it was not accepted.
    """

    chunk_maps: Mapping[Digest, Descriptor]
    deltas: tuple[DeltaBlob, ...]
    bundles: tuple[bytes, ...]
    complaints: tuple[str, ...]


def read_offered(client: RegistryClient, subject: Digest) -> Offered:
    """Return what refers to `subject` and is understood here: at most 64 referrers are looked at.

    Raises:
        RegistryError: the registry cannot be reached any more.
    """
    reading = _Reading(client, subject)
    reading.run()
    return Offered(reading.chunk_maps, tuple(reading.deltas), tuple(reading.bundles), tuple(reading.complaints))


class _Reading:
    def __init__(self, client: RegistryClient, subject: Digest) -> None:
        self._client = client
        self._subject = subject
        self.chunk_maps: dict[Digest, Descriptor] = {}
        self.deltas: list[DeltaBlob] = []
        self.bundles: list[bytes] = []
        self.complaints: list[str] = []

    def run(self) -> None:
        try:
            entries = self._client.referrers(self._subject)
        except _USELESS as error:
            self.complaints.append(f"what refers to the model cannot be read: {error}")
            return
        for entry in self._interesting(entries):
            try:
                self._read(entry)
            except (*_USELESS, ProvenanceInvalid) as error:
                self.complaints.append(f"a referrer was not accepted: {error}")

    def _interesting(self, entries: Sequence[Part]) -> list[Part]:
        # A list that does not say what kinds they are, as older registries make it, is looked through.
        return [entry for entry in entries if entry.artifact_type in KINDS or not entry.artifact_type][:MAX_LOOKED_AT]

    def _read(self, entry: Part) -> None:
        artifact = parse_artifact(self._client.manifest(f"sha256:{entry.digest}").data)
        if artifact.subject.digest != self._subject:
            raise ArtifactInvalid("artifact.subject", "another manifest than the one that was asked about")
        if artifact.artifact_type == CHUNK_MAPS:
            self._read_chunk_maps(artifact)
        elif artifact.artifact_type == DELTA:
            self._read_deltas(artifact)
        elif artifact.artifact_type == PROVENANCE and len(self.bundles) < MAX_BUNDLES:
            self._read_bundle(artifact.parts[0])

    def _read_chunk_maps(self, artifact: Artifact) -> None:
        for part in artifact.parts:
            self.chunk_maps[parse_digest(part.annotations.get(MAPPED_BLOB, ""))] = part.descriptor

    def _read_deltas(self, artifact: Artifact) -> None:
        for part in artifact.parts:
            base, target = (parse_digest(part.annotations.get(key, "")) for key in (DELTA_BASE, DELTA_TARGET))
            self.deltas.append(DeltaBlob(part.descriptor, base, target))

    def _read_bundle(self, part: Part) -> None:
        if part.size > MAX_PROVENANCE_BYTES:
            raise ProvenanceInvalid("bundle", f"{part.size} bytes, at most {MAX_PROVENANCE_BYTES} are allowed")
        bundle = self._client.read_blob(part.digest, part.size)
        if decode_and_verify_provenance(bundle).manifest_digest != self._subject:
            raise ProvenanceInvalid("bundle", "is about another model")
        self.bundles.append(bundle)
