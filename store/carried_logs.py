"""Logs that came with bundles, kept to prove the older and newer ones that come later, without any network (0026).

evidence/carried/<SHA-256 of the origin>    the longest one that was followed (specs/0026 §Logs)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from identity.did import DeviceId
from protocol.bundle import MAX_LOG_BYTES, CarriedLog, decode_log, encode_log
from protocol.checkpoint import open_checkpoint
from protocol.digest import digest_of
from protocol.errors import BundleInvalid, CheckpointInvalid
from protocol.heads import Proof
from protocol.tiles import subtree_hash
from protocol.tlog import HashReader, prove_consistency, tree_root
from store.disk import disk_errors, make_directories, open_regular, replace_file

DIRECTORY: Final = "carried"


class CarriedLogs:
    """The carried logs of one home. Derived from bundles: one that is damaged counts as not there."""

    def __init__(self, evidence: Path) -> None:
        """Keep them below `evidence`, the directory of `store.evidence`."""
        self._temporary = evidence / "tmp"
        self._directory = evidence / DIRECTORY

    def keep(self, log: CarriedLog) -> None:
        """Keep a log that was checked and followed, if it is longer than the one that is kept.

        Raises:
            DiskFull, DiskFailed: the old one stands.
        """
        kept = self.find(log.origin)
        if kept is not None and len(kept.leaves) >= len(log.leaves):
            return
        path, content = self._path(log.origin), encode_log(log)
        with disk_errors(path, len(content)):
            make_directories(self._directory)
        replace_file(self._temporary, path, content)

    def find(self, origin: DeviceId) -> CarriedLog | None:
        """Return the log that is kept of `origin`, None where there is none that can be used."""
        try:
            with open_regular(self._path(origin)) as file:
                log = decode_log(file.read(MAX_LOG_BYTES + 1))
            check_log(log)
        except (OSError, BundleInvalid):
            return None
        return log if log.origin == origin else None

    def _path(self, origin: DeviceId) -> Path:
        return self._directory / digest_of(origin.encode("ascii"))


def check_log(log: CarriedLog) -> None:
    """Accept a carried log whose hashes are those under its checkpoint.

    Raises:
        BundleInvalid: they are not, or its device did not sign the checkpoint.
    """
    try:
        checkpoint = open_checkpoint(log.checkpoint, log.origin)
    except CheckpointInvalid as error:
        raise BundleInvalid("log", str(error)) from error
    if checkpoint.size != len(log.leaves) or tree_root(checkpoint.size, _reader(log)) != checkpoint.root:
        raise BundleInvalid("log", f"{len(log.leaves)} hashes do not lead to the checkpoint of {log.origin}")


def carried_proof(logs: Sequence[CarriedLog | None], old: int, new: int) -> Proof | None:
    """Return the consistency proof between two sizes from the first of `logs` that reaches so far; None without."""
    for log in logs:
        if log is not None and new <= len(log.leaves):
            reader = _reader(log)
            return Proof(tuple(prove_consistency(old, new, reader)), tree_root(old, reader) if old else b"")
    return None


def _reader(log: CarriedLog) -> HashReader:
    return lambda level, index: subtree_hash(log.leaves[index << level : (index + 1) << level])
