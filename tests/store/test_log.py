import shutil
import threading
from pathlib import Path

import pytest

from identity.errors import SecretsFileFailed
from identity.secrets import EMPTY_ROOT, LogGuard
from identity.testing import MemorySecretStore, key_from_number, secrets_from_number
from protocol.checkpoint import open_checkpoint
from protocol.errors import CheckpointInvalid, ConsistencyInvalid, EntryTooLarge, InclusionInvalid
from protocol.testing import MemoryLog
from protocol.tlog import check_consistency, check_inclusion, leaf_hash
from store.errors import DiskFailed, LogDamaged, LogEntryUnknown, LogExportRefused, LogRolledBack
from store.log import Log
from store.log_files import verify_log

KEY = key_from_number(1)


class Guard:
    """A rollback guard that can fail."""

    def __init__(self, size: int = 0, root: bytes = EMPTY_ROOT) -> None:
        self.state = size, root
        self.broken = False

    def read(self) -> tuple[int, bytes]:
        return self.state

    def advance(self, size: int, root: bytes) -> None:
        if self.broken:
            raise SecretsFileFailed(Path("vault"), "no space left on device")
        self.state = size, root


def entries(count: int, start: int = 0) -> list[bytes]:
    return [b"entry %d" % number for number in range(start, start + count)]


@pytest.fixture
def guard() -> Guard:
    return Guard()


@pytest.fixture
def log(tmp_path: Path, guard: Guard) -> Log:
    return Log.open(tmp_path / "log", KEY, guard)


def test_a_new_log_is_empty_and_signed(log: Log, tmp_path: Path) -> None:
    assert (log.size, log.root, log.rolled_back) == (0, EMPTY_ROOT, None)
    assert open_checkpoint(log.checkpoint(), KEY.did).size == 0
    assert (tmp_path / "log" / "checkpoint").read_bytes() == log.checkpoint()
    assert log.verify().size == 0


@pytest.mark.parametrize("batches", [[1] * 9, [255, 1, 1], [256, 1], [600, 200, 1]])
def test_the_log_is_the_tree_of_its_entries(log: Log, guard: Guard, batches: list[int]) -> None:
    written: list[bytes] = []
    roots = {0: log.root}
    for batch in batches:
        assert log.append(entries(batch, len(written))) == range(len(written), len(written) + batch)
        written += entries(batch, len(written))
        roots[log.size] = log.root
        assert open_checkpoint(log.checkpoint(), KEY.did).root == log.root
        assert guard.state == (log.size, log.root)
    assert log.root == MemoryLog(KEY, written).root()
    for index in {0, 1, len(written) // 2, len(written) - 1}:
        assert log.entry(index) == written[index]
        check_inclusion(leaf_hash(written[index]), index, log.size, log.inclusion_proof(index, log.size), log.root)
    for old, root in roots.items():
        check_consistency(old, root, log.size, log.root, log.consistency_proof(old, log.size))
        assert log.root_at(old) == root
    summary = log.verify()
    assert (summary.origin, summary.size, summary.root) == (KEY.did, len(written), log.root)


def test_a_log_is_found_again(log: Log, guard: Guard, tmp_path: Path) -> None:
    log.append(entries(300))
    again = Log.open(tmp_path / "log", KEY, guard)
    assert (again.size, again.root, again.rolled_back) == (300, log.root, None)
    assert again.checkpoint() == log.checkpoint()
    assert again.append([b"more"]) == range(300, 301)
    assert again.verify().size == 301


def test_proofs_for_an_older_size(log: Log) -> None:
    log.append(entries(300))
    reference = MemoryLog(KEY, entries(300))
    for size in (1, 7, 255, 256, 257):
        assert log.inclusion_proof(0, size) == reference.inclusion(0, size)
        assert log.consistency_proof(size // 2, size) == reference.consistency(size // 2, size)


def test_only_the_current_partial_tiles_stay(log: Log, tmp_path: Path) -> None:
    for number in range(260):
        log.append(entries(1, number))
    files = sorted(str(path.relative_to(tmp_path / "log")) for path in (tmp_path / "log").rglob("*") if path.is_file())
    assert files == [
        "checkpoint",
        "tile/0/000",
        "tile/0/001.p/4",
        "tile/1/000.p/1",
        "tile/entries/000",
        "tile/entries/001.p/4",
    ]


def test_nothing_appended_changes_nothing(log: Log) -> None:
    log.append(entries(2))
    note = log.checkpoint()
    assert log.append([]) == range(2, 2)
    assert log.checkpoint() == note


def test_an_entry_that_is_too_large_is_refused_whole(log: Log) -> None:
    with pytest.raises(EntryTooLarge):
        log.append([b"small", bytes(65_536)])
    assert log.size == 0
    log.append([bytes(65_535)])
    assert log.verify().size == 1


@pytest.mark.parametrize(("index", "size"), [(0, 0), (3, 3), (-1, 3), (0, 4)])
def test_what_is_not_there_cannot_be_proven(log: Log, index: int, size: int) -> None:
    log.append(entries(3))
    with pytest.raises((InclusionInvalid, LogEntryUnknown)):
        log.inclusion_proof(index, size)


def test_what_is_not_there_cannot_be_read(log: Log) -> None:
    log.append(entries(3))
    for index in (-1, 3):
        with pytest.raises(LogEntryUnknown):
            log.entry(index)
    with pytest.raises(LogEntryUnknown):
        log.consistency_proof(1, 4)
    with pytest.raises(ConsistencyInvalid):
        log.consistency_proof(2, 1)


def test_threads_append_one_after_the_other(log: Log) -> None:
    def append(start: int) -> None:
        for number in range(start, start + 10):
            log.append([b"%d" % number])

    threads = [threading.Thread(target=append, args=(start,)) for start in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.verify().size == 30
    assert sorted(int(log.entry(index)) for index in range(30)) == [*range(10), *range(100, 110), *range(200, 210)]


def test_a_real_guard_beside_the_keys(tmp_path: Path) -> None:
    store = MemorySecretStore(secrets_from_number(1))
    log = Log.open(tmp_path / "log", KEY, LogGuard(store, secrets_from_number(1)))
    log.append(entries(3))
    assert store.secrets is not None
    assert (store.secrets.log_size, store.secrets.log_root) == (3, log.root)


# What a restored backup or a crash leaves.


def test_a_log_that_was_set_back_does_not_sign_on(log: Log, guard: Guard, tmp_path: Path) -> None:
    log.append(entries(3))
    shutil.copytree(tmp_path / "log", tmp_path / "backup")
    log.append(entries(2, 3))
    shutil.rmtree(tmp_path / "log")
    shutil.copytree(tmp_path / "backup", tmp_path / "log")
    restored = Log.open(tmp_path / "log", KEY, guard)
    assert restored.rolled_back is not None
    assert restored.size == 3
    before = (tmp_path / "log" / "checkpoint").read_bytes()
    with pytest.raises(LogRolledBack) as caught:
        restored.append([b"fork"])
    assert caught.value.hint
    assert (tmp_path / "log" / "checkpoint").read_bytes() == before
    assert restored.verify().size == 3


def test_a_log_that_is_gone_is_not_begun_anew(log: Log, guard: Guard, tmp_path: Path) -> None:
    log.append(entries(3))
    shutil.rmtree(tmp_path / "log")
    gone = Log.open(tmp_path / "log", KEY, guard)
    assert gone.rolled_back is not None
    with pytest.raises(LogRolledBack):
        gone.append([b"fork"])
    assert not (tmp_path / "log" / "checkpoint").exists()


def test_another_log_of_the_same_size_does_not_sign_on(log: Log, guard: Guard, tmp_path: Path) -> None:
    log.append(entries(3))
    other = Log.open(tmp_path / "other", KEY, Guard())
    other.append([b"x", b"y", b"z"])
    with pytest.raises(LogRolledBack):
        Log.open(tmp_path / "other", KEY, guard).append([b"fork"])


def test_a_longer_log_that_is_another_one_does_not_sign_on(log: Log, guard: Guard, tmp_path: Path) -> None:
    log.append(entries(3))
    other = Log.open(tmp_path / "other", KEY, Guard())
    other.append([b"x", b"y", b"z", b"w"])
    with pytest.raises(LogRolledBack):
        Log.open(tmp_path / "other", KEY, guard).append([b"fork"])
    assert guard.state == (3, log.root)


def test_a_guard_behind_the_log_catches_up(log: Log, guard: Guard, tmp_path: Path) -> None:
    log.append(entries(3))
    behind = Guard(1, log.root_at(1))
    again = Log.open(tmp_path / "log", KEY, behind)
    assert (again.rolled_back, behind.state) == (None, (3, log.root))


def test_a_guard_that_fails_keeps_the_new_state_inside(log: Log, guard: Guard, tmp_path: Path) -> None:
    log.append(entries(2))
    note = log.checkpoint()
    guard.broken = True
    with pytest.raises(SecretsFileFailed):
        log.append(entries(1, 2))
    assert log.size == 2
    with pytest.raises(SecretsFileFailed):
        log.checkpoint()
    with pytest.raises(SecretsFileFailed):
        log.append([b"fork"])
    guard.broken = False
    assert open_checkpoint(log.checkpoint(), KEY.did).size == 3
    assert log.checkpoint() != note
    assert log.append([b"on"]) == range(3, 4)
    assert log.entry(2) == b"entry 2"
    assert log.verify().size == 4


@pytest.mark.parametrize("newer", [True, False])
def test_a_peer_that_holds_more_freezes_the_log(log: Log, guard: Guard, tmp_path: Path, newer: bool) -> None:
    log.append(entries(3))
    clone = Log.open(tmp_path / "clone", KEY, Guard())
    clone.append([*entries(2), b"on the clone"] if not newer else entries(4))
    with pytest.raises(LogRolledBack):
        log.observe(clone.checkpoint())
    with pytest.raises(LogRolledBack):
        log.append([b"fork"])
    again = Log.open(tmp_path / "log", KEY, guard)
    assert again.rolled_back is not None
    with pytest.raises(LogRolledBack):
        again.append([b"fork"])
    assert open_checkpoint((tmp_path / "log" / "frozen").read_bytes(), KEY.did)


def test_what_peers_hold_from_earlier_is_fine(log: Log) -> None:
    notes = [log.checkpoint()]
    for number in range(3):
        log.append(entries(1, number))
        notes.append(log.checkpoint())
    for note in notes:
        log.observe(note)
    assert log.append([b"on"]) == range(3, 4)


def test_a_stranger_cannot_freeze_the_log(log: Log, tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid):
        log.observe(MemoryLog(key_from_number(2), entries(9)).checkpoint())
    with pytest.raises(CheckpointInvalid):
        log.observe(b"anything")
    assert log.append([b"on"]) == range(1)
    assert not (tmp_path / "log" / "frozen").exists()


# What damage does.


@pytest.mark.parametrize("name", ["tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1"])
def test_a_changed_tile_is_noticed_at_the_start(log: Log, guard: Guard, tmp_path: Path, name: str) -> None:
    log.append(entries(300))
    flip(tmp_path / "log" / name)
    if name == "tile/0/000":  # the right edge does not need it: a full check does
        with pytest.raises(LogDamaged):
            Log.open(tmp_path / "log", KEY, guard).verify()
    else:
        with pytest.raises(LogDamaged):
            Log.open(tmp_path / "log", KEY, guard)


@pytest.mark.parametrize("name", ["tile/entries/000", "tile/entries/001.p/44"])
def test_a_changed_entry_is_noticed_by_a_full_check(log: Log, tmp_path: Path, name: str) -> None:
    log.append(entries(300))
    flip(tmp_path / "log" / name)
    with pytest.raises(LogDamaged):
        log.verify()


@pytest.mark.parametrize("name", ["tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1", "tile/entries/000", "checkpoint"])
def test_a_missing_file_is_noticed_by_a_full_check(log: Log, tmp_path: Path, name: str) -> None:
    log.append(entries(300))
    (tmp_path / "log" / name).unlink()
    with pytest.raises(LogDamaged):
        log.verify()


def test_another_devices_log_is_not_taken_over(log: Log, tmp_path: Path) -> None:
    log.append(entries(1))
    with pytest.raises(LogDamaged):
        Log.open(tmp_path / "log", key_from_number(2), Guard())


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 10_000])
def test_a_checkpoint_that_is_none(tmp_path: Path, guard: Guard, content: bytes) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "checkpoint").write_bytes(content)
    with pytest.raises(LogDamaged):
        Log.open(tmp_path / "log", KEY, guard)
    with pytest.raises(LogDamaged):
        verify_log(tmp_path / "log")


def test_a_link_in_place_of_a_file_is_not_followed(log: Log, guard: Guard, tmp_path: Path) -> None:
    log.append(entries(1))
    (tmp_path / "log" / "checkpoint").rename(tmp_path / "elsewhere")
    (tmp_path / "log" / "checkpoint").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DiskFailed):
        Log.open(tmp_path / "log", KEY, guard)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


# Export and the check that needs no node.


@pytest.mark.parametrize("size", [0, 1, 256, 300])
def test_an_export_verifies_by_itself(log: Log, tmp_path: Path, size: int) -> None:
    log.append(entries(size))
    log.export(tmp_path / "export")
    summary = verify_log(tmp_path / "export")
    assert (summary.origin, summary.size, summary.root) == (KEY.did, size, log.root)
    assert verify_log(tmp_path / "export", KEY.did) == summary
    with pytest.raises(LogDamaged):
        verify_log(tmp_path / "export", key_from_number(2).did)
    assert not (tmp_path / "export" / "tmp").exists()


def test_an_export_overwrites_nothing(log: Log, tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    log.export(tmp_path / "export")
    with pytest.raises(LogExportRefused):
        log.export(tmp_path / "export")
    (tmp_path / "file").touch()
    with pytest.raises(LogExportRefused):
        log.export(tmp_path / "file")


def test_an_export_that_cannot_be_written_says_so(log: Log, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskFailed):
        log.export(tmp_path / "file" / "export")
