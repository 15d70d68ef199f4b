import json
import stat
from pathlib import Path
from typing import Any

import pytest

from identity import errors
from identity.errors import PassphraseNeeded, PassphraseWrong, SecretsFileFailed
from identity.testing import secrets_from_number
from identity.vault import VaultSecretStore

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0001-identity"
CASES = json.loads((VECTORS / "vault.json").read_text())


def passphrase() -> bytes:
    return b"correct horse"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["comment"][:40])
def test_vectors(case: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "vault"
    path.write_bytes(bytes.fromhex(case["input"]["file"]))
    store = VaultSecretStore(path, lambda: str(case["input"]["passphrase"]).encode())
    if case["expect"] == "ok":
        assert store.load() == secrets_from_number(7)
    else:
        with pytest.raises(getattr(errors, case["expect"])):
            store.load()
        assert path.read_bytes().hex() == case["input"]["file"]


def test_what_is_saved_is_loaded_and_private(tmp_path: Path) -> None:
    asked = []

    def ask() -> bytes:
        asked.append(1)
        return passphrase()

    path = tmp_path / "home" / "vault"
    store = VaultSecretStore(path, ask)
    assert store.load() is None
    assert not asked
    store.save(secrets_from_number(1))
    first = path.read_bytes()
    store.save(secrets_from_number(2))
    assert store.load() == secrets_from_number(2)
    assert asked == [1]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert first[:28] == path.read_bytes()[:28]
    assert first[-40:] != path.read_bytes()[-40:]
    assert [entry.name for entry in path.parent.iterdir()] == ["vault"]
    assert secrets_from_number(2).device_seed not in path.read_bytes()


def test_a_wrong_passphrase_overwrites_nothing(tmp_path: Path) -> None:
    path = tmp_path / "vault"
    VaultSecretStore(path, passphrase).save(secrets_from_number(1))
    before = path.read_bytes()
    with pytest.raises(PassphraseWrong):
        VaultSecretStore(path, lambda: b"another").save(secrets_from_number(2))
    assert path.read_bytes() == before


@pytest.mark.parametrize("given", [b"", b"x" * 1025])
def test_a_passphrase_has_a_length(given: bytes, tmp_path: Path) -> None:
    with pytest.raises(PassphraseNeeded):
        VaultSecretStore(tmp_path / "vault", lambda: given).save(secrets_from_number(1))
    assert not list(tmp_path.iterdir())


def test_without_a_passphrase_nothing_is_stored(tmp_path: Path) -> None:
    with pytest.raises(PassphraseNeeded) as caught:
        VaultSecretStore(tmp_path / "vault", None).save(secrets_from_number(1))
    assert caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_vault_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where the directory should be")
    with pytest.raises(SecretsFileFailed):
        VaultSecretStore(tmp_path / "home" / "vault", passphrase).save(secrets_from_number(1))


def test_an_endless_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "vault").write_bytes(bytes(1 << 20))
    with pytest.raises(SecretsFileFailed):
        VaultSecretStore(tmp_path / "vault", passphrase).load()
