"""The encrypted database: keys, creation, transactions, migrations."""

import base64
import json
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlcipher3

from store import errors
from store.database import Database
from store.errors import (
    DatabaseDamaged,
    DatabaseFailed,
    DatabaseFull,
    DatabaseKeyInvalid,
    DatabaseKeyWrong,
    DatabaseMissing,
    DatabaseTooNew,
    DiskFailed,
)
from store.migrations import MIGRATIONS, migrate, schema_version

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0014-database" / "files.json"
CASES = [pytest.param(case, id=case["comment"]) for case in json.loads(VECTORS.read_text())]
KEY = bytes(range(32))
OTHER_KEY = bytes(32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "node.db"


def make_table(path: Path) -> None:
    database = Database.open(path, KEY, create=True)
    with database.transaction() as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.execute("INSERT INTO t VALUES ('canary-content')")
    database.close()


def test_what_was_written_is_there_after_reopening(path: Path) -> None:
    make_table(path)
    with Database.open(path, KEY).reading() as connection:
        assert connection.execute("SELECT a FROM t").fetchall() == [("canary-content",)]


def test_the_files_are_private_and_hold_no_plaintext(path: Path) -> None:
    make_table(path)
    database = Database.open(path, KEY)
    with database.transaction() as connection:
        connection.execute("INSERT INTO t VALUES ('canary-content')")
    names = {file.name for file in path.parent.iterdir()}
    assert names == {"node.db", "node.db-wal", "node.db-shm"}
    for file in path.parent.iterdir():
        content = file.read_bytes()
        assert b"canary" not in content
        assert b"SQLite format" not in content
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_missing_database_is_made_only_when_asked(path: Path) -> None:
    with pytest.raises(DatabaseMissing) as caught:
        Database.open(path, KEY)
    assert caught.value.hint
    assert not path.exists()


def test_a_wrong_key_is_named_and_changes_nothing(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_table(path)
    before = path.read_bytes()
    for create in (False, True):
        with pytest.raises(DatabaseKeyWrong) as caught:
            Database.open(path, OTHER_KEY, create=create)
        assert caught.value.hint
        assert OTHER_KEY.hex() not in str(caught.value)
    assert path.read_bytes() == before
    assert capfd.readouterr() == ("", "")  # SQLCipher's own log is silent


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_a_key_of_another_length_is_refused(path: Path, key: bytes) -> None:
    with pytest.raises(DatabaseKeyInvalid):
        Database.open(path, key, create=True)
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 300])
def test_an_existing_file_is_never_replaced(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises((DatabaseDamaged, DatabaseKeyWrong)):
        Database.open(path, KEY, create=True)
    assert path.read_bytes() == content


def test_a_write_ahead_file_without_its_database_is_kept(path: Path) -> None:
    path.parent.mkdir()
    remain = path.with_name("node.db-wal")
    remain.write_bytes(b"unsaved")
    with pytest.raises(DatabaseDamaged):
        Database.open(path, KEY, create=True)
    assert remain.read_bytes() == b"unsaved"


def test_a_kill_during_creation_leaves_no_obstacle(path: Path) -> None:
    path.parent.mkdir()
    path.with_name("node.db.new").write_bytes(b"half")
    Database.open(path, KEY, create=True).close()
    assert {file.name for file in path.parent.iterdir()} == {"node.db"}


def test_a_flipped_bit_is_damage_and_not_content(path: Path) -> None:
    make_table(path)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatabaseDamaged), Database.open(path, KEY).reading() as connection:
        connection.execute("SELECT * FROM t").fetchall()


def insert_and_fail(database: Database, value: int) -> None:
    with database.transaction() as connection:
        connection.execute("INSERT INTO t VALUES (?)", (value,))
        raise ZeroDivisionError


def test_a_failed_transaction_keeps_nothing(path: Path) -> None:
    make_table(path)
    database = Database.open(path, KEY)
    with pytest.raises(ZeroDivisionError):
        insert_and_fail(database, 2)
    with database.reading() as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (1,)


def test_an_inner_transaction_fails_alone(path: Path) -> None:
    make_table(path)
    database = Database.open(path, KEY)
    with database.transaction() as connection:
        connection.execute("INSERT INTO t VALUES (2)")
        with pytest.raises(ZeroDivisionError):
            insert_and_fail(database, 3)
        with database.transaction():
            connection.execute("INSERT INTO t VALUES (4)")
    with database.reading() as connection:
        assert [row[0] for row in connection.execute("SELECT a FROM t ORDER BY rowid")] == ["canary-content", 2, 4]


def test_a_statement_that_sqlite_refuses_has_a_name(path: Path) -> None:
    database = Database.open(path, KEY, create=True)
    with pytest.raises(DatabaseFailed), database.transaction() as connection:
        connection.execute("SELECT * FROM nowhere")
    with database.transaction() as connection:
        connection.execute("CREATE TABLE still_works (a)")


def test_transactions_of_two_threads_do_not_mix(path: Path) -> None:
    make_table(path)
    database = Database.open(path, KEY)
    inside, leave = threading.Event(), threading.Event()
    seen: list[int] = []

    def second() -> None:
        inside.wait(10)
        leave.set()
        with database.transaction() as connection:
            seen.append(connection.execute("SELECT count(*) FROM t").fetchone()[0])

    thread = threading.Thread(target=second)
    thread.start()
    with database.transaction() as connection:
        inside.set()
        leave.wait(10)
        connection.execute("INSERT INTO t VALUES (2)")
        assert not seen
    thread.join(10)
    assert seen == [2]


def test_a_full_disk_is_named_and_keeps_what_was_there(path: Path) -> None:
    make_table(path)
    database = Database.open(path, KEY)
    pages = database._connection.execute("PRAGMA page_count").fetchone()[0]
    database._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(DatabaseFull) as caught, database.transaction() as connection:
        connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
    assert caught.value.hint
    with database.transaction() as connection:
        connection.execute("INSERT INTO t VALUES (2)")
    with database.reading() as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (2,)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiskFailed):
        Database.open(tmp_path / "file" / "node.db", KEY, create=True)


def test_an_error_of_the_caller_passes_through(path: Path) -> None:
    make_table(path)
    database = Database.open(path, KEY)
    with pytest.raises(FileNotFoundError), database.transaction():
        path.with_name("nowhere").read_bytes()


def test_a_newer_schema_is_refused(path: Path) -> None:
    database = Database.open(path, KEY, create=True)
    with database.transaction() as connection:
        connection.execute("PRAGMA user_version = 999")
    database.close()
    with pytest.raises(DatabaseTooNew) as caught:
        Database.open(path, KEY)
    assert (caught.value.found, caught.value.known) == (999, len(MIGRATIONS))


def test_steps_are_applied_once_and_in_order(path: Path) -> None:
    database = Database.open(path, KEY, create=True)
    first = len(MIGRATIONS)
    steps = (*MIGRATIONS, "CREATE TABLE one (a);", "INSERT INTO one VALUES (1); -- a comment at the end")
    connection = database._connection
    assert migrate(connection, steps) == 2
    assert migrate(connection, steps) == 0
    assert schema_version(connection) == first + 2
    assert connection.execute("SELECT a FROM one").fetchall() == [(1,)]


def test_a_step_that_fails_leaves_the_step_before(path: Path) -> None:
    database = Database.open(path, KEY, create=True)
    steps = (*MIGRATIONS, "CREATE TABLE one (a);", "CREATE TABLE two (a); SELECT * FROM nowhere;")
    with pytest.raises(sqlcipher3.OperationalError):
        migrate(database._connection, steps)
    assert schema_version(database._connection) == len(MIGRATIONS) + 1
    names = [row[0] for row in database._connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    assert "one" in names
    assert "two" not in names


@pytest.mark.parametrize("case", CASES)
def test_vectors_of_files(case: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    path.write_bytes(base64.b64decode(case["input"]["file"]))
    key = bytes.fromhex(case["input"]["key"])
    if case["expect"] == "ok":
        assert read_vector(path, key) == case["output"]["rows"]
        return
    with pytest.raises(getattr(errors, case["expect"])) as caught:
        read_vector(path, key)
    assert type(caught.value).__name__ == case["expect"]


def read_vector(path: Path, key: bytes) -> list[str]:
    with Database.open(path, key, create=True).reading() as connection:
        return [row[0] for row in connection.execute("SELECT text FROM vector")]
