"""This device's transparency log on disk, append-only across crashes and restored backups (tlog-tiles, specs/0003).

log/checkpoint            the newest signed note
log/tile/<L>/<N>[.p/<W>]  hashes; log/tile/entries/<N>[.p/<W>] the entries
log/frozen                a note that proves this log was set back; nothing is appended any more
log/tmp/                  files being written
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from identity.did import DeviceId
from identity.keys import DeviceKey
from identity.note import format_verifier_key, verifier_key_of
from protocol.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from protocol.tiles import (
    TILE_WIDTH,
    Tile,
    bundle_path,
    encode_bundle,
    grow_tiles,
    hash_reader,
    spans,
    split_hashes,
    tile_path,
    tiles_of,
)
from protocol.tlog import EMPTY_ROOT, HashReader, leaf_hash, prove_consistency, prove_inclusion, tree_root
from store.disk import disk_errors, make_directories, remove_orphans, replace_file
from store.errors import LogDamaged, LogEntryUnknown, LogExportRefused, LogRolledBack
from store.log_files import CHECKPOINT_FILE, LogSummary, open_state, read_bundle, read_note, read_tile, verify_log

FROZEN_FILE: Final = "frozen"
TEMPORARY: Final = "tmp"


class RollbackGuard(Protocol):
    """Remembers the newest acknowledged state of the log, where a restored backup of the log does not reach."""

    def read(self) -> tuple[int, bytes]:
        """Return (size, root)."""

    def advance(self, size: int, root: bytes) -> None:
        """Keep a newer state, durably, before this returns."""


class Log:
    """The log of one device key; one process at a time has it open, any thread may call it."""

    def __init__(self, directory: Path, key: DeviceKey, guard: RollbackGuard) -> None:
        """Do not call; see `open`."""
        self._directory = directory
        self._key = key
        self._guard = guard
        self._lock = threading.RLock()
        self._note = b""
        self._state = Checkpoint(key.did, 0, EMPTY_ROOT)
        self._settled = False
        self.rolled_back: str | None = None

    @classmethod
    def open(cls, directory: Path, key: DeviceKey, guard: RollbackGuard) -> "Log":
        """Return the log in `directory`, made there if there is none yet.

        What a crash left unfinished is settled. A log that is older than its guard, or not the one the guard knows,
        opens for reading: `rolled_back` says why, and `append` refuses.

        Raises:
            LogDamaged: a file is missing or does not hash to the signed checkpoint, or another device's log is here.
            DiskFull, DiskFailed: the disk says no.
        """
        log = cls(directory, key, guard)
        with disk_errors(directory):
            make_directories(directory / TEMPORARY)
            remove_orphans(directory / TEMPORARY)
        log._settle()
        return log

    @property
    def origin(self) -> DeviceId:
        """The log's name: the device's own id."""
        return self._key.did

    @property
    def size(self) -> int:
        """The number of entries."""
        return self._state.size

    @property
    def root(self) -> bytes:
        """The 32-byte root over all entries."""
        return self._state.root

    @property
    def verifier_key(self) -> str:
        """The key in the form that other log verifiers take, `name+id+base64`."""
        return format_verifier_key(verifier_key_of(self._key.did))

    def checkpoint(self) -> bytes:
        """Return the newest signed note; it was on the disk, and the guard had it, before it is returned."""
        with self._lock:
            if not self._settled:
                self._settle()
            return self._note

    def append(self, entries: Sequence[bytes]) -> range:
        """Return the indexes of `entries` once they are in the log for good, all of them or none.

        Order: entries and tiles, then the signed checkpoint, then the guard, each flushed to the disk before the next.
        A crash at any point leaves the old or the new log.

        Raises:
            LogRolledBack: this log was set back; signing on would fork it.
            EntryTooLarge: an entry has more than 65,535 bytes; nothing is appended.
            SecretsError: the guard could not be kept; the entries may be in the log, and the next call finds out.
            DiskFull, DiskFailed: nothing is appended.
        """
        with self._lock:
            if not self._settled:
                self._settle()
            if self.rolled_back is not None:
                raise LogRolledBack(self._directory, self.rolled_back)
            old = self._state
            if not entries:
                return range(old.size, old.size)
            tiles = self._write_entries(entries)
            size = old.size + len(entries)
            root = tree_root(size, self._reader(size, tiles))
            self._settled = False  # until the guard has the new state, what is signed must not leave this object
            note = sign_checkpoint(self._key, size, root)
            self._replace(self._directory / CHECKPOINT_FILE, note)
            self._guard.advance(size, root)
            self._note, self._state, self._settled = note, Checkpoint(old.origin, size, root), True
            self._remove_old_partials(old.size, tiles)
            return range(old.size, size)

    def entry(self, index: int) -> bytes:
        """Return entry `index`.

        Raises:
            LogEntryUnknown: there is no such entry.
            LogDamaged: its bundle is missing or broken.
        """
        with self._lock:
            if not 0 <= index < self.size:
                raise LogEntryUnknown(index, self.size)
            bundle_index, at = divmod(index, TILE_WIDTH)
            return self._read_bundle(bundle_index, min(TILE_WIDTH, self.size - bundle_index * TILE_WIDTH))[at]

    def leaves(self) -> tuple[bytes, list[bytes]]:
        """Return the newest signed note and the hash of every entry under it: all that proofs are made of.

        Raises:
            LogDamaged: a tile is missing or broken.
        """
        with self._lock:
            note = self.checkpoint()
            tiles = [self._read_tile(Tile(0, index, width)) for index, width in spans(0, self.size)]
            return note, [leaf for tile in tiles for leaf in split_hashes(tile)]

    def inclusion_proof(self, index: int, size: int) -> list[bytes]:
        """Return the proof that the first `size` entries include entry `index`.

        Raises:
            InclusionInvalid: there is no such entry or size.
            LogEntryUnknown: the log is smaller than `size`.
        """
        with self._lock:
            self._require_size(size)
            return prove_inclusion(index, size, self._reader(self.size))

    def consistency_proof(self, old: int, new: int) -> list[bytes]:
        """Return the proof that the first `new` entries begin with the first `old` ones.

        Raises:
            ConsistencyInvalid: not 0 ≤ old ≤ new.
            LogEntryUnknown: the log is smaller than `new`.
        """
        with self._lock:
            self._require_size(new)
            return prove_consistency(old, new, self._reader(self.size))

    def root_at(self, size: int) -> bytes:
        """Return the root over the first `size` entries.

        Raises:
            LogEntryUnknown: the log is smaller than `size`.
        """
        with self._lock:
            self._require_size(size)
            return tree_root(size, self._reader(self.size))

    def observe(self, note: bytes) -> None:
        """Take a checkpoint of this log that somebody else holds, and freeze the log if it is newer or another one.

        A restored backup or a cloned disk is found here, before it forks the log: call it with what peers hold.

        Raises:
            CheckpointInvalid: this device did not sign it.
            LogRolledBack: it shows that this log was set back; kept for ever in `frozen`.
        """
        seen = open_checkpoint(note, self._key.did)
        with self._lock:
            reason = self._contradiction(seen, "a peer holds")
            if reason is None:
                return
            self._replace(self._directory / FROZEN_FILE, note)
            self.rolled_back = reason
            raise LogRolledBack(self._directory, reason)

    def export(self, directory: Path) -> None:
        """Copy the log as it stands into a new or empty `directory`, for any tlog-tiles client or verifier.

        Raises:
            LogExportRefused: the directory is not empty.
            LogDamaged: a file of the log is missing.
            DiskFull, DiskFailed: the disk says no; what was copied so far stays.
        """
        with self._lock, disk_errors(directory):
            if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
                raise LogExportRefused(directory)
            make_directories(directory)
            note = self.checkpoint()
            for tile in tiles_of(self.size):
                _write(directory / tile_path(tile), self._read_tile(tile))
            for index, width in spans(0, self.size):
                _write(directory / bundle_path(index, width), encode_bundle(self._read_bundle(index, width)))
            _write(directory / CHECKPOINT_FILE, note)

    def verify(self) -> LogSummary:
        """Return the log's summary after reading and hashing all of it.

        Raises:
            LogDamaged: something is missing or does not hash to what was signed.
        """
        with self._lock:
            return verify_log(self._directory, self._key.did)

    def _settle(self) -> None:
        """Read the log as it is on disk, check its right edge, and bring the guard up to it."""
        note = read_note(self._directory, CHECKPOINT_FILE)
        guarded = Checkpoint(self._key.did, *self._guard.read())
        if note is None and guarded.size == 0:
            note = sign_checkpoint(self._key, 0, EMPTY_ROOT)
            self._replace(self._directory / CHECKPOINT_FILE, note)
        if note is None:
            # The empty log's checkpoint contradicts nothing that was ever signed.
            self._note = sign_checkpoint(self._key, 0, EMPTY_ROOT)
            self.rolled_back = f"it is gone, the keychain or vault knows {guarded.size} entries"
            self._settled = True
            return
        self._note, self._state = note, open_state(self._directory, note, self._key.did)
        self._require_root()
        self.rolled_back = self._contradiction(guarded, "the keychain or vault knows") or self._frozen()
        if self.rolled_back is None and guarded != self._state:
            self._guard.advance(self._state.size, self._state.root)
        self._settled = True

    def _require_root(self) -> None:
        found = tree_root(self.size, self._reader(self.size))
        if found != self.root:
            reason = f"the tiles hash to {found.hex()[:12]}, the checkpoint says {self.root.hex()[:12]}"
            raise LogDamaged(self._directory, reason)

    def _contradiction(self, seen: Checkpoint, who: str) -> str | None:
        if seen.size > self.size:
            return f"it has {self.size} entries, {who} {seen.size}"
        if tree_root(seen.size, self._reader(self.size)) != seen.root:
            return f"{who} another root at {seen.size} entries"
        return None

    def _frozen(self) -> str | None:
        note = read_note(self._directory, FROZEN_FILE)
        return None if note is None else "a peer showed a newer or another state of it"

    def _write_entries(self, entries: Sequence[bytes]) -> dict[Tile, bytes]:
        """Write bundles and tiles for what follows; until the checkpoint names them nobody reads them."""
        size, kept = self.size, self.size % TILE_WIDTH
        first = size // TILE_WIDTH
        tail = [*(self._read_bundle(first, kept) if kept else []), *entries]
        files = {}
        for index, width in spans(first * TILE_WIDTH, size + len(entries)):
            files[bundle_path(index, width)] = encode_bundle(tail[(index - first) * TILE_WIDTH :][:width])
        tiles = grow_tiles(size, [leaf_hash(entry) for entry in entries], self._read_tile)
        files |= {tile_path(tile): content for tile, content in tiles.items()}
        for path, content in files.items():
            self._replace(self._directory / path, content)
        return tiles

    def _replace(self, path: Path, content: bytes) -> None:
        with disk_errors(path, len(content)):
            make_directories(path.parent)
        replace_file(self._directory / TEMPORARY, path, content)

    def _remove_old_partials(self, old_size: int, tiles: dict[Tile, bytes]) -> None:
        """Remove the narrower copies of what was just written; they are of no use to a log that proves for itself."""
        paths = [tile_path(tile) for tile in tiles]
        paths += [bundle_path(index, width) for index, width in spans(old_size - old_size % TILE_WIDTH, self.size)]
        for path in paths:
            full, _, width = path.partition(".p/")
            directory = self._directory / f"{full}.p"
            if not directory.is_dir():
                continue
            with disk_errors(directory):
                for partial in directory.iterdir():
                    if partial.name != width:
                        partial.unlink(missing_ok=True)
                if not width:
                    directory.rmdir()

    def _reader(self, size: int, overlay: dict[Tile, bytes] | None = None) -> HashReader:
        written = overlay or {}
        return hash_reader(size, lambda tile: written[tile] if tile in written else self._read_tile(tile))

    def _read_tile(self, tile: Tile) -> bytes:
        return read_tile(self._directory, tile)

    def _read_bundle(self, index: int, width: int) -> list[bytes]:
        return read_bundle(self._directory, index, width)

    def _require_size(self, size: int) -> None:
        if size > self.size:
            raise LogEntryUnknown(size, self.size)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
