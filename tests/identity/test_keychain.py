import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from keyring.backend import KeyringBackend
from keyring.errors import InitError, KeyringError, KeyringLocked, NoKeyringError, PasswordDeleteError, PasswordSetError

from identity.errors import (
    HomeCopied,
    KeychainFailed,
    KeychainItemMissing,
    KeychainLocked,
    KeychainUnavailable,
    SecretsInvalid,
)
from identity.keychain import MARK_FILE, KeychainSecretStore, system_keychain
from identity.testing import secrets_from_number

ONE, TWO = secrets_from_number(1), secrets_from_number(2)


class Killed(BaseException):
    """Stands for SIGKILL at the n-th call of the backend."""


class Backend(KeyringBackend):
    """A keychain in memory that can refuse, mangle, or be killed at a call."""

    def __init__(self) -> None:
        self.items: dict[str, str] = {}
        self.refusals: dict[str, Exception] = {}
        self.kill_at: int | None = None
        self.calls = 0
        self.mangle = False

    def get_password(self, service: str, username: str) -> str | None:
        self._call("get")
        return self.items.get(username)

    def set_password(self, service: str, username: str, password: str) -> None:
        assert service == "tilenode"
        self.items.pop(username, None)  # as macOS does: delete, then add
        self._call("set")
        self.items[username] = password[:-1] if self.mangle else password

    def delete_password(self, service: str, username: str) -> None:
        self._call("delete")
        del self.items[username]

    def _call(self, method: str) -> None:
        self.calls += 1
        if self.kill_at == self.calls:
            raise Killed
        if method in self.refusals:
            raise self.refusals[method]


@pytest.fixture
def backend() -> Backend:
    return Backend()


def test_one_item_of_text_and_a_mark(tmp_path: Path, backend: Backend) -> None:
    store = KeychainSecretStore(tmp_path, backend)
    assert store.load() is None
    store.save(ONE)
    store.save(TWO)
    assert KeychainSecretStore(tmp_path, backend).load() == TWO
    assert len(backend.items) == 1
    mark = json.loads((tmp_path / MARK_FILE).read_text())
    assert mark["stored"] is True
    assert mark["id"] in store.place
    assert mark["id"] in next(iter(backend.items))


def test_two_homes_are_two_identities(tmp_path: Path, backend: Backend) -> None:
    KeychainSecretStore(tmp_path / "a", backend).save(ONE)
    assert KeychainSecretStore(tmp_path / "b", backend).load() is None
    KeychainSecretStore(tmp_path / "b", backend).save(TWO)
    assert KeychainSecretStore(tmp_path / "a", backend).load() == ONE
    assert KeychainSecretStore(tmp_path / "b", backend).load() == TWO


def test_a_home_that_moves_keeps_its_identity(tmp_path: Path, backend: Backend) -> None:
    KeychainSecretStore(tmp_path / "a", backend).save(ONE)
    (tmp_path / "a").rename(tmp_path / "b")
    store = KeychainSecretStore(tmp_path / "b", backend)
    assert store.load() == ONE
    store.save(TWO)
    assert KeychainSecretStore(tmp_path / "b", backend).load() == TWO


def test_a_copy_of_a_home_is_refused_while_the_original_is_there(tmp_path: Path, backend: Backend) -> None:
    KeychainSecretStore(tmp_path / "a", backend).save(ONE)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / MARK_FILE).write_bytes((tmp_path / "a" / MARK_FILE).read_bytes())
    with pytest.raises(HomeCopied) as caught:
        KeychainSecretStore(tmp_path / "b", backend).load()
    assert caught.value.hint
    assert KeychainSecretStore(tmp_path / "a", backend).load() == ONE


def test_a_stranger_in_the_old_place_is_no_copy(tmp_path: Path, backend: Backend) -> None:
    KeychainSecretStore(tmp_path / "a", backend).save(ONE)
    (tmp_path / "a").rename(tmp_path / "b")
    KeychainSecretStore(tmp_path / "a", backend).save(TWO)
    assert KeychainSecretStore(tmp_path / "b", backend).load() == ONE
    (tmp_path / "a" / MARK_FILE).write_text("damaged")
    assert KeychainSecretStore(tmp_path / "b", backend).load() == ONE


def test_a_home_under_two_names_is_one_home(tmp_path: Path, backend: Backend) -> None:
    KeychainSecretStore(tmp_path / "a", backend).save(ONE)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert KeychainSecretStore(tmp_path / "link", backend).load() == ONE


def test_a_missing_item_is_not_a_new_home(tmp_path: Path, backend: Backend) -> None:
    KeychainSecretStore(tmp_path, backend).save(ONE)
    backend.items.clear()
    with pytest.raises(KeychainItemMissing):
        KeychainSecretStore(tmp_path, backend).load()
    with pytest.raises(KeychainItemMissing):
        KeychainSecretStore(tmp_path, backend).save(TWO)
    assert not backend.items


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_kill_at_any_call_loses_nothing_that_was_saved(tmp_path: Path, before: int) -> None:
    for kill_at in range(1, 12):
        home, backend = tmp_path / f"{before}-{kill_at}", Backend()
        saved = [secrets_from_number(n) for n in range(10, 10 + before)]
        for secrets in saved:
            KeychainSecretStore(home, backend).save(secrets)
        backend.calls, backend.kill_at = 0, kill_at
        try:
            KeychainSecretStore(home, backend).save(TWO)
            survived = True
        except Killed:
            survived = False
        backend.kill_at = None
        found = KeychainSecretStore(home, backend).load()
        previous = saved[-1] if saved else None
        assert found == TWO if survived else found in (previous, TWO)
        KeychainSecretStore(home, backend).save(ONE)
        assert KeychainSecretStore(home, backend).load() == ONE
        assert len(backend.items) == 1
        if survived:
            return
    raise AssertionError("the save took more calls than were tried")


def test_what_does_not_read_back_was_not_saved(tmp_path: Path, backend: Backend) -> None:
    KeychainSecretStore(tmp_path, backend).save(ONE)
    backend.mangle = True
    with pytest.raises((KeychainFailed, SecretsInvalid)):
        KeychainSecretStore(tmp_path, backend).save(TWO)


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (KeyringLocked("dismissed"), KeychainLocked),
        (InitError("no default collection"), KeychainLocked),
        (NoKeyringError("none"), KeychainUnavailable),
        (PasswordSetError("disk"), KeychainFailed),
        (KeyringError("Can't get password from keychain: (-25308, 'Unknown Error')"), KeychainLocked),
        (KeyringError("Can't get password from keychain: (-25293, 'Auth')"), KeychainFailed),
        (OSError("broken pipe"), KeychainFailed),
    ],
)
def test_refusals_are_told_apart(
    tmp_path: Path, backend: Backend, refusal: Exception, expected: type[Exception]
) -> None:
    KeychainSecretStore(tmp_path, backend).save(ONE)
    backend.refusals = {"get": refusal}
    with pytest.raises(expected):
        KeychainSecretStore(tmp_path, backend).load()
    backend.refusals = {}
    store = KeychainSecretStore(tmp_path, backend)
    store.load()
    backend.refusals = {"set": refusal}
    with pytest.raises(expected):
        store.save(TWO)
    backend.refusals = {}
    assert KeychainSecretStore(tmp_path, backend).load() == ONE


def test_an_old_item_that_stays_is_harmless(tmp_path: Path, backend: Backend) -> None:
    KeychainSecretStore(tmp_path, backend).save(ONE)
    backend.refusals = {"delete": PasswordDeleteError("no such password")}
    KeychainSecretStore(tmp_path, backend).save(TWO)
    assert len(backend.items) == 2
    assert KeychainSecretStore(tmp_path, backend).load() == TWO
    backend.refusals = {}
    KeychainSecretStore(tmp_path, backend).save(ONE)
    assert KeychainSecretStore(tmp_path, backend).load() == ONE
    assert len(backend.items) == 1


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"v":2,"id":"%s","stored":true}' % (b"0" * 32), b"\xff"])
def test_a_strange_mark_is_refused(tmp_path: Path, backend: Backend, content: bytes) -> None:
    (tmp_path / MARK_FILE).write_bytes(content)
    with pytest.raises(SecretsInvalid):
        KeychainSecretStore(tmp_path, backend)


@pytest.mark.parametrize("text", ["", "{}", "[1]", "x" * 9000, '{"v":1,"generation":1,"home":"/","secrets":"{}"}'])
def test_a_strange_item_is_refused(tmp_path: Path, backend: Backend, text: str) -> None:
    KeychainSecretStore(tmp_path, backend).save(ONE)
    backend.items = dict.fromkeys(backend.items, text)
    with pytest.raises(SecretsInvalid):
        KeychainSecretStore(tmp_path, backend).load()


@pytest.mark.skipif(sys.platform != "linux", reason="the Secret Service is Linux's")
def test_without_a_bus_there_is_no_keychain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent")
    with pytest.raises(KeychainUnavailable):
        system_keychain()


def test_configuration_cannot_name_another_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent")
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    with pytest.raises(KeychainUnavailable):
        system_keychain()


def test_keyring_is_loaded_only_when_it_is_needed() -> None:
    code = "import sys, identity.ladder; sys.exit('keyring' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
