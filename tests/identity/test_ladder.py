from pathlib import Path

import pytest
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked

from identity import keychain
from identity.errors import (
    KeychainItemMissing,
    KeychainLocked,
    KeychainUnavailable,
    NoSecretStore,
    SecretsMissing,
)
from identity.keychain import KeychainSecretStore
from identity.ladder import open_secret_store
from identity.testing import secrets_from_number
from identity.vault import VaultSecretStore


class Memory(KeyringBackend):
    """A keychain that works, or says no to everything."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.items: dict[tuple[str, str], str] = {}
        self.refusal = refusal

    def get_password(self, service: str, username: str) -> str | None:
        if self.refusal:
            raise self.refusal
        return self.items.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        if self.refusal:
            raise self.refusal
        self.items[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.items[service, username]


@pytest.fixture
def working(monkeypatch: pytest.MonkeyPatch) -> Memory:
    backend = Memory()
    monkeypatch.setattr(keychain, "system_keychain", lambda: backend)
    return backend


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keychain, "system_keychain", lambda: Memory(KeyringLocked("locked")))


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> KeyringBackend:
        raise KeychainUnavailable("no bus")

    monkeypatch.setattr(keychain, "system_keychain", refuse)


def passphrase() -> bytes:
    return b"correct horse"


def never() -> bytes:
    raise AssertionError("the passphrase is not needed")


@pytest.mark.usefixtures("working")
def test_a_new_home_takes_the_keychain(tmp_path: Path) -> None:
    store = open_secret_store(tmp_path, never)
    assert store.rung == "keychain"
    assert store.load() is None
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("absent")
def test_without_a_keychain_the_vault(tmp_path: Path) -> None:
    store = open_secret_store(tmp_path, never)
    assert (store.rung, store.place) == ("vault", f"vault file {tmp_path / 'vault'}")
    assert store.load() is None


@pytest.mark.usefixtures("absent")
def test_without_both_nothing(tmp_path: Path) -> None:
    with pytest.raises(NoSecretStore) as caught:
        open_secret_store(tmp_path, None)
    assert "TILENODE_PASSPHRASE_FILE" in caught.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("locked")
def test_a_locked_keychain_stops_a_new_home(tmp_path: Path) -> None:
    with pytest.raises(KeychainLocked):
        open_secret_store(tmp_path, passphrase)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("locked")
def test_who_hands_a_passphrase_over_may_leave_the_keychain_out(tmp_path: Path) -> None:
    assert open_secret_store(tmp_path, passphrase, keychain=False).rung == "vault"


@pytest.mark.usefixtures("working")
def test_a_vault_wins_over_a_keychain(tmp_path: Path) -> None:
    VaultSecretStore(tmp_path / "vault", passphrase).save(secrets_from_number(1))
    assert open_secret_store(tmp_path, passphrase).load() == secrets_from_number(1)


def test_a_home_on_the_keychain_stays_there(tmp_path: Path, working: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    open_secret_store(tmp_path, None).save(secrets_from_number(1))
    assert open_secret_store(tmp_path, never, keychain=False).load() == secrets_from_number(1)

    working.refusal = KeyringLocked("locked")
    with pytest.raises(KeychainLocked):
        open_secret_store(tmp_path, never).load()

    working.refusal = None
    working.items.clear()
    with pytest.raises(KeychainItemMissing):
        open_secret_store(tmp_path, never).load()

    def refuse() -> KeyringBackend:
        raise KeychainUnavailable("no bus")

    monkeypatch.setattr(keychain, "system_keychain", refuse)
    with pytest.raises(KeychainUnavailable):
        open_secret_store(tmp_path, never)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["keychain"]


@pytest.mark.usefixtures("absent")
def test_a_home_that_never_finished_storing_may_take_the_vault(tmp_path: Path) -> None:
    with pytest.raises(KeychainLocked):
        KeychainSecretStore(tmp_path, Memory(KeyringLocked("locked"))).save(secrets_from_number(1))
    assert open_secret_store(tmp_path, passphrase).rung == "vault"


@pytest.mark.usefixtures("working")
@pytest.mark.parametrize("name", ["node.db", "log/checkpoint"])
def test_no_new_key_beside_an_old_identity(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(SecretsMissing):
        open_secret_store(tmp_path, passphrase)
