"""Fakes for tests, in the open: numbered device keys, and secrets that are kept in memory."""

from identity.keys import SEED_BYTES, DeviceKey
from identity.secrets import Secrets


def key_from_number(number: int) -> DeviceKey:
    """Return the device key whose seed is `number` as 32 big-endian bytes: 31 zero bytes and n for small numbers."""
    return DeviceKey(number.to_bytes(SEED_BYTES, "big"))


def secrets_from_number(number: int) -> Secrets:
    """Return secrets with the device key `key_from_number(number)` and a database key made of the same number."""
    return Secrets(number.to_bytes(SEED_BYTES, "big"), number.to_bytes(32, "little"))


class MemorySecretStore:
    """A rung that forgets everything with the process."""

    rung = "memory"
    place = "this process"

    def __init__(self, secrets: Secrets | None = None) -> None:
        self.secrets = secrets
        self.saves = 0

    def load(self) -> Secrets | None:
        """Return what was saved last."""
        return self.secrets

    def save(self, secrets: Secrets) -> None:
        """Keep `secrets`."""
        self.secrets = secrets
        self.saves += 1
