"""What other devices' logs were seen to say, and the evidence against those that said two things (specs/0003).

evidence/<SHA-256 of the origin>/checkpoint   the newest signed note that was accepted from the origin
evidence/<SHA-256 of the origin>/fork         evidence that the origin's log forked; kept for ever
evidence/tmp/                                 files being written
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from identity.did import DeviceId, parse_did
from identity.errors import DidInvalid
from protocol.checkpoint import MAX_CHECKPOINT_BYTES, open_checkpoint
from protocol.digest import digest_of, parse_digest
from protocol.errors import CheckpointInvalid, DigestInvalid, EvidenceInvalid
from protocol.evidence import (
    MAX_EVIDENCE_BYTES,
    Evidence,
    check_evidence,
    decode_and_check_evidence,
    encode_evidence,
    find_fork,
)
from protocol.tlog import check_consistency
from store.disk import disk_errors, flush_directory, make_directories, open_regular, remove_orphans, replace_file
from store.errors import EvidenceDamaged, LogForked

CHECKPOINT_FILE: Final = "checkpoint"
FORK_FILE: Final = "fork"
TEMPORARY: Final = "tmp"


@dataclass(frozen=True)
class SeenCheckpoint:
    """The newest accepted state of another device's log, and the note that proves that the device signed it."""

    size: int
    root: bytes
    note: bytes


class SeenLogs:
    """The newest checkpoint of every origin; what it holds only ever grows consistently, and survives a crash."""

    def __init__(self, directory: Path) -> None:
        """Open or make `directory`.

        Raises:
            DiskFull, DiskFailed: the disk says no.
        """
        self._directory = directory
        self._lock = threading.RLock()
        with disk_errors(directory):
            make_directories(directory / TEMPORARY)
            remove_orphans(directory / TEMPORARY)

    def latest(self, origin: DeviceId) -> SeenCheckpoint | None:
        """Return the newest accepted checkpoint of `origin`, or None where none was seen.

        Raises:
            EvidenceDamaged: it is kept, and cannot be read.
        """
        path = self._path(origin, CHECKPOINT_FILE)
        note = self._read(path, MAX_CHECKPOINT_BYTES)
        if note is None:
            return None
        try:
            checkpoint = open_checkpoint(note, origin)
        except CheckpointInvalid as error:
            raise EvidenceDamaged(path, str(error)) from error
        return SeenCheckpoint(checkpoint.size, checkpoint.root, note)

    def advance(
        self, note: bytes, origin: DeviceId, consistency: Sequence[bytes], claimed_old_root: bytes | None = None
    ) -> SeenCheckpoint:
        """Accept a checkpoint of `origin` and return the newest accepted one, which it may not be.

        `consistency` proves the larger of the two logs against the smaller one; it is empty where this is the first
        checkpoint, the sizes are equal, or the smaller log is empty. `claimed_old_root` is the root that the prover
        gives the smaller log: with it a fork can be proven where the smaller size is a power of two as well.

        Raises:
            LogForked: the origin signed two logs, now or earlier. The evidence is on the disk, the origin frozen.
            ConsistencyInvalid: the proof does not fit; that may be the relayer's fault, and nothing was changed.
            CheckpointInvalid: `origin` did not sign this.
            DiskFull, DiskFailed: nothing was changed.
        """
        checkpoint = open_checkpoint(note, origin)
        with self._lock:
            self._refuse_frozen(origin)
            latest = self.latest(origin)
            if latest is None:
                return self._keep(origin, SeenCheckpoint(checkpoint.size, checkpoint.root, note))
            evidence = find_fork(origin, latest.note, note, consistency, claimed_old_root)
            if evidence is not None:
                raise self._freeze(evidence)
            if checkpoint.size < latest.size:
                check_consistency(checkpoint.size, checkpoint.root, latest.size, latest.root, consistency)
            elif checkpoint.size > latest.size:
                check_consistency(latest.size, latest.root, checkpoint.size, checkpoint.root, consistency)
                return self._keep(origin, SeenCheckpoint(checkpoint.size, checkpoint.root, note))
            return latest

    def frozen(self, origin: DeviceId) -> Evidence | None:
        """Return the evidence for which nothing more is accepted from `origin`, or None.

        Raises:
            EvidenceDamaged: there is evidence, and it cannot be read.
        """
        path = self._path(origin, FORK_FILE)
        data = self._read(path, MAX_EVIDENCE_BYTES)
        if data is None:
            return None
        try:
            return decode_and_check_evidence(data)
        except EvidenceInvalid as error:
            raise EvidenceDamaged(path, str(error)) from error

    def accuse(self, evidence: Evidence) -> None:
        """Keep evidence that somebody else found, once it is proven, and freeze its origin.

        Raises:
            EvidenceInvalid: it proves nothing; nothing was changed.
            DiskFull, DiskFailed: nothing was changed.
        """
        check_evidence(evidence)
        with self._lock:
            if self.frozen(evidence.origin) is None:
                self._freeze(evidence)

    def forget(self, origin: DeviceId) -> bool:
        """Forget the newest checkpoint of `origin`, the next one is its first; False where evidence is kept, for ever.

        Raises:
            DiskFailed: nothing was changed.
        """
        path = self._path(origin, CHECKPOINT_FILE)
        with self._lock, disk_errors(path):
            if path.with_name(FORK_FILE).exists():
                return False
            path.unlink(missing_ok=True)
            if path.parent.exists():
                path.parent.rmdir()
            flush_directory(self._directory)
        return True

    def origins(self) -> list[DeviceId]:
        """Return every origin of which a checkpoint or evidence is kept, in order.

        Raises:
            EvidenceDamaged: what is kept does not begin with its origin.
        """
        found = []
        for path in self._directory.iterdir():
            try:
                parse_digest(path.name)
            except DigestInvalid:
                continue
            origin = self._origin_of(path)
            if origin is not None:
                found.append(origin)
        return sorted(found)

    def _origin_of(self, directory: Path) -> DeviceId | None:
        """Return whose directory this is; None where a crash left it empty."""
        note = self._read(directory / CHECKPOINT_FILE, MAX_CHECKPOINT_BYTES)
        fork = self._read(directory / FORK_FILE, MAX_EVIDENCE_BYTES)
        try:
            if note is not None:
                return parse_did(note.split(b"\n", 1)[0].decode("ascii"))
            return None if fork is None else decode_and_check_evidence(fork).origin
        except (DidInvalid, UnicodeDecodeError, EvidenceInvalid) as error:
            raise EvidenceDamaged(directory, "what is kept does not name its origin") from error

    def _refuse_frozen(self, origin: DeviceId) -> None:
        evidence = self.frozen(origin)
        if evidence is not None:
            raise _forked(evidence)

    def _freeze(self, evidence: Evidence) -> LogForked:
        self._write(self._path(evidence.origin, FORK_FILE), encode_evidence(evidence))
        return _forked(evidence)

    def _keep(self, origin: DeviceId, seen: SeenCheckpoint) -> SeenCheckpoint:
        self._write(self._path(origin, CHECKPOINT_FILE), seen.note)
        return seen

    def _path(self, origin: DeviceId, name: str) -> Path:
        return self._directory / digest_of(origin.encode("ascii")) / name

    def _write(self, path: Path, content: bytes) -> None:
        with disk_errors(path, len(content)):
            make_directories(path.parent)
        replace_file(self._directory / TEMPORARY, path, content)

    def _read(self, path: Path, max_bytes: int) -> bytes | None:
        with disk_errors(path):
            try:
                with open_regular(path) as file:
                    content: bytes = file.read(max_bytes + 1)
            except FileNotFoundError:
                return None
        if len(content) > max_bytes:
            raise EvidenceDamaged(path, f"more than {max_bytes} bytes")
        return content


def _forked(evidence: Evidence) -> LogForked:
    first, second = check_evidence(evidence)
    return LogForked(evidence.origin, (first.size, second.size))
