from pathlib import Path

import pytest

from store.database import Database
from store.logins import KnownLogin, Logins
from store.registry.credentials import Authorizer, Login


@pytest.fixture
def logins(tmp_path: Path) -> Logins:
    return Logins(Database.open(tmp_path / "node.db", bytes(32), create=True))


def test_a_login_is_kept_replaced_and_forgotten(logins: Logins) -> None:
    assert logins.get("registry.example") is None
    logins.keep("registry.example", Login("ann", "one"), 1)
    logins.keep("nas:5000", Login("bob", "two"), 2)
    logins.keep("registry.example", Login("ann", "three"), 3)
    assert logins.get("registry.example") == Login("ann", "three")
    assert logins.list() == [KnownLogin("nas:5000", "bob", 2), KnownLogin("registry.example", "ann", 3)]
    assert logins.forget("nas:5000")
    assert not logins.forget("nas:5000")
    assert logins.get("nas:5000") is None


def test_the_file_does_not_say_the_password(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "node.db", bytes(32), create=True)
    Logins(database).keep("registry.example", Login("ann", "canary of a password"), 1)
    database.close()
    for path in tmp_path.iterdir():
        assert b"canary" not in path.read_bytes()


def test_a_login_formats_without_what_is_secret() -> None:
    login = Login("ann", "canary")
    assert "canary" not in f"{login} {login!r}"
    assert login.header() == "Basic YW5uOmNhbmFyeQ=="


def test_nothing_is_shown_before_it_is_asked_for() -> None:
    def ask(url: str, headers: dict[str, str], max_bytes: int) -> bytes:
        raise AssertionError(url)

    authorizer = Authorizer("registry.example", Login("ann", "canary"), ask)
    assert authorizer.header(("repository:a:pull",)) is None
