"""The vault's key ahead of its time is the key, and what goes wrong with it goes wrong where it always did."""

from pathlib import Path

import pytest

from identity.errors import PassphraseWrong, VaultInvalid
from identity.secrets import load_or_create
from identity.vault import VaultSecretStore, derive_key
from node.early_key import EarlyKey
from node.errors import PassphraseUnreadable


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("home") / "vault"
    load_or_create(VaultSecretStore(path, lambda: b"right"), lambda count: b"\x07" * count)
    return path


def test_the_key_is_made_once(vault: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    early = EarlyKey(vault, lambda: b"right")
    assert early._thread is not None
    early._thread.join()
    monkeypatch.setattr("node.early_key.derive_key", lambda *_: pytest.fail("derived a second time"))
    assert VaultSecretStore(vault, lambda: b"right", early).load() is not None


def test_another_passphrase_or_salt_has_its_own_key(vault: Path) -> None:
    early = EarlyKey(vault, lambda: b"right")
    assert early(b"right", b"0" * 16) == derive_key(b"right", b"0" * 16)
    with pytest.raises(PassphraseWrong):
        VaultSecretStore(vault, lambda: b"wrong", early).load()


def test_what_goes_wrong_ahead_of_time_is_told_in_its_own(tmp_path: Path, vault: Path) -> None:
    def unreadable() -> bytes:
        raise PassphraseUnreadable("the file", "gone")

    assert EarlyKey(tmp_path / "none", lambda: b"x")(b"x", b"0" * 16) == derive_key(b"x", b"0" * 16)
    with pytest.raises(PassphraseUnreadable):
        VaultSecretStore(vault, unreadable, EarlyKey(vault, unreadable)).load()
    broken = tmp_path / "vault"
    broken.write_bytes(b"no vault" * 100)
    with pytest.raises(VaultInvalid):
        VaultSecretStore(broken, lambda: b"x", EarlyKey(broken, lambda: b"x")).load()
