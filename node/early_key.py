"""The vault's key, derived while the rest of the program is still being read."""

import threading
from collections.abc import Callable
from pathlib import Path

from identity.errors import IdentityError
from identity.vault import derive_key, read_salt
from node.errors import NodeError


class EarlyKey:
    """Derives the key of a vault in a thread, from now on; called as `derive_key`, which it stands in for.

    Whatever goes wrong ahead of time is left for the call in its own time to meet.
    """

    def __init__(self, vault: Path, passphrase: Callable[[], bytes]) -> None:
        self._made_from: tuple[bytes, bytes] | None = None
        self._key: bytes | None = None
        self._thread: threading.Thread | None = None
        try:
            salt = read_salt(vault)
            if salt is None:
                return
            self._made_from = (passphrase(), salt)
        except (IdentityError, NodeError):
            return
        self._thread = threading.Thread(target=self._derive, name="vault-key", daemon=True)
        self._thread.start()

    def __call__(self, passphrase: bytes, salt: bytes) -> bytes:
        """Return the key: the one that is on its way, or a new one where it was made from something else."""
        if self._thread is not None and self._made_from == (passphrase, salt):
            self._thread.join()
            if self._key is not None:
                return self._key
        return derive_key(passphrase, salt)

    def _derive(self) -> None:
        assert self._made_from is not None
        try:
            self._key = derive_key(*self._made_from)
        except MemoryError:
            return
