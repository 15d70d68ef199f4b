import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.errors import SecretsInvalid, VaultInvalid
from identity.secrets import EMPTY_ROOT, LogGuard, Secrets, decode_secrets, encode_secrets, load_or_create
from identity.testing import MemorySecretStore, secrets_from_number

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0001-identity"
CASES = json.loads((VECTORS / "secrets.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["comment"][:40])
def test_vectors(case: dict[str, Any]) -> None:
    text = case["input"]["text"]
    if case["expect"] == "ok":
        secrets = decode_secrets(text, "a test")
        assert secrets.device_seed.hex() == case["output"]["device_seed"]
        assert secrets.database_key.hex() == case["output"]["database_key"]
        assert secrets.log_size == case["output"]["log_size"]
        assert secrets.log_root.hex() == case["output"]["log_root"]
        assert encode_secrets(secrets) == text
    else:
        assert case["expect"] == "SecretsInvalid"
        with pytest.raises(SecretsInvalid):
            decode_secrets(text, "a test")


@given(st.binary(min_size=32, max_size=32), st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))
def test_round_trip(key: bytes, size: int, root: bytes) -> None:
    secrets = Secrets(key, key[::-1], size, root)
    assert decode_secrets(encode_secrets(secrets), "a test") == secrets


@given(st.text(max_size=200))
def test_an_error_does_not_quote_what_it_read(text: str) -> None:
    with pytest.raises(SecretsInvalid) as caught:
        decode_secrets("canary" + text, "a test")
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_nothing_secret_shows() -> None:
    assert repr(secrets_from_number(0x5A5A5A)) == f"Secrets(log_size=0, log_root={EMPTY_ROOT!r})"


def test_secrets_are_made_once() -> None:
    store = MemorySecretStore()
    asked: list[int] = []

    def entropy(count: int) -> bytes:
        asked.append(count)
        return bytes([len(asked)]) * count

    first = load_or_create(store, entropy)
    assert load_or_create(store, entropy) == first
    assert asked == [32, 32]
    assert first.device_seed != first.database_key
    assert (store.saves, first.log_size, first.log_root) == (1, 0, EMPTY_ROOT)


def test_secrets_that_cannot_be_read_are_never_replaced() -> None:
    class Broken(MemorySecretStore):
        def load(self) -> Secrets | None:
            raise VaultInvalid(Path("vault"), "damaged")

    store = Broken()
    with pytest.raises(VaultInvalid):
        load_or_create(store, bytes)
    assert store.saves == 0


def test_the_guard_remembers_only_what_was_stored() -> None:
    class Full(MemorySecretStore):
        def save(self, secrets: Secrets) -> None:
            raise VaultInvalid(Path("vault"), "full")

    secrets = secrets_from_number(1)
    guard = LogGuard(MemorySecretStore(secrets), secrets)
    guard.advance(3, b"r" * 32)
    assert guard.read() == (3, b"r" * 32)
    broken = LogGuard(Full(secrets), secrets)
    with pytest.raises(VaultInvalid):
        broken.advance(3, b"r" * 32)
    assert broken.read() == (0, EMPTY_ROOT)
