"""The system keychain rung: one text item per home directory, through `keyring` and an allow-list of its backends.

A home owns a random id in its file `keychain`; the item is named by that id, so two homes on one machine are two
identities, a home that is moved keeps its identity, and one that is made anew gets a new one. Saving writes the
other of two slots, reads it back and only then deletes the old one: some backends replace an item by deleting it
first, and a crash between the two would lose the key. Loading takes the newer generation (specs/0001).
"""

import json
import re
import secrets as random_source
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

from identity.durable import read_file, replace_file
from identity.errors import (
    HomeCopied,
    KeychainError,
    KeychainFailed,
    KeychainItemMissing,
    KeychainLocked,
    KeychainUnavailable,
    SecretsError,
    SecretsInvalid,
)
from identity.secrets import Secrets, decode_secrets, encode_secrets

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

SERVICE: Final = "tilenode"
MARK_FILE: Final = "keychain"
MAX_MARK_BYTES: Final = 1024
MAX_ITEM_CHARS: Final = 8192
VERSION: Final = 1
_SLOTS: Final = ("a", "b")
# What `secretstorage` raises where an item is locked or nobody answers its prompt, and `keyring` lets through.
_LOCKED_BELOW_KEYRING: Final = frozenset({"LockedException", "PromptDismissedException"})
_HOME_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


@dataclass(frozen=True)
class Mark:
    """The file `keychain` of a home: its id, and whether its item was ever stored."""

    home_id: str
    stored: bool


@dataclass(frozen=True)
class _Item:
    slot: str
    generation: int
    home: str
    secrets: Secrets


def system_keychain() -> "KeyringBackend":
    """Return the keychain of this session; `keyring` is loaded only here, since it takes long.

    Only backends that keep secrets encrypted by the system are considered: the Secret Service (GNOME Keyring,
    KWallet, KeePassXC) and the macOS keychain. `keyring`'s own choice is not asked: configuration files and plug-ins
    could lead it to a file in the clear.

    Raises:
        KeychainUnavailable: none runs in this session.
    """
    backend: KeyringBackend
    if sys.platform == "darwin":
        from keyring.backends.macOS import Keyring as MacKeychain

        backend = MacKeychain()
    else:
        from keyring.backends.SecretService import Keyring as SecretService

        backend = SecretService()  # type: ignore[no-untyped-call]  # keyring types its classes, not their making
    try:
        _ = type(backend).priority
    except (RuntimeError, OSError, ValueError) as error:  # no service; no bus at its address; the bus refuses this user
        raise KeychainUnavailable(_reason(error)) from error
    return backend


class KeychainSecretStore:
    """The keychain rung of the ladder for one home."""

    rung: Final = "keychain"

    def __init__(self, home: Path, backend: "KeyringBackend | None" = None) -> None:
        """Take the keychain of this session, or `backend`, for `home`; nothing is read or written yet.

        Raises:
            KeychainUnavailable: no allow-listed keychain runs in this session.
            SecretsInvalid: the home's file `keychain` is not one that this program wrote.
        """
        self._home = home.resolve()
        self._backend = backend if backend is not None else system_keychain()
        self._name = type(self._backend).__module__.rpartition(".")[2]
        self._mark = read_mark(self._home)
        self._current: _Item | None = None

    @property
    def place(self) -> str:
        """Where the secrets lie, in words for a person."""
        item = f", item {self._mark.home_id}" if self._mark else ""
        return f"{self._name} keychain, service {SERVICE}{item}"

    def load(self) -> Secrets | None:
        """Return the secrets, or None where this home never stored any.

        Raises:
            KeychainLocked, KeychainItemMissing, KeychainFailed: they cannot be had; make no new ones.
            HomeCopied: this home is a copy of one that is still in place.
            SecretsInvalid: the item holds something else.
        """
        if self._mark is None:
            self._probe()
            return None
        items = [item for slot in _SLOTS if (item := self._read(slot)) is not None]
        if not items and self._mark.stored:
            raise KeychainItemMissing(self._name, self._mark.home_id)
        if not items:
            return None
        self._current = max(items, key=lambda item: item.generation)
        self._refuse_copy(Path(self._current.home))
        return self._current.secrets

    def save(self, secrets: Secrets) -> None:
        """Store `secrets` in the free slot, read them back, then drop the old slot.

        Raises:
            KeychainLocked, KeychainFailed: they could not be kept; the previous ones are still there.
        """
        if self._current is None and self._mark is not None:
            self.load()
        mark = self._mark or self._write_mark(Mark(random_source.token_hex(16), stored=False))
        previous = self._current
        slot = _SLOTS[0] if previous is None or previous.slot == _SLOTS[1] else _SLOTS[1]
        item = _Item(slot, (previous.generation if previous else 0) + 1, str(self._home), secrets)
        self._ask("storing the item", "set_password", _account(mark, slot), _format_item(item))
        if self._read(slot) != item:
            raise KeychainFailed(self._name, "reading the item back", "it is not what was stored")
        self._current = item
        if not mark.stored:
            self._write_mark(Mark(mark.home_id, stored=True))
        if previous is not None:
            # What stays here has the older generation, is never loaded, and is overwritten by the next save.
            with suppress(KeychainFailed):
                self._ask("deleting the previous item", "delete_password", _account(mark, previous.slot))

    def _read(self, slot: str) -> _Item | None:
        assert self._mark is not None
        text = self._ask("reading the item", "get_password", _account(self._mark, slot))
        return None if text is None else _parse_item(text, slot, self.place)

    def _probe(self) -> None:
        """Find out whether the keychain answers and is unlocked, without storing anything."""
        self._ask("looking for an item", "get_password", "probe")

    def _ask(self, doing: str, method: str, *arguments: str) -> str | None:
        from keyring.errors import InitError, KeyringError, KeyringLocked, NoKeyringError

        try:
            answer = getattr(self._backend, method)(SERVICE, *arguments)
        except (KeyringLocked, InitError) as error:
            # InitError: there is no default collection yet, and the prompt that would make one was not answered.
            raise KeychainLocked(self._name, _reason(error)) from error
        except NoKeyringError as error:
            raise KeychainUnavailable(_reason(error)) from error
        except KeyringError as error:
            raise _failed(self._name, doing, _reason(error)) from error
        except _foreign_errors() as error:
            if type(error).__name__ in _LOCKED_BELOW_KEYRING:
                raise KeychainLocked(self._name, _reason(error)) from error
            raise _failed(self._name, doing, _reason(error)) from error
        return None if answer is None else str(answer)

    def _write_mark(self, mark: Mark) -> Mark:
        content = json.dumps({"v": VERSION, "id": mark.home_id, "stored": mark.stored}, sort_keys=True)
        replace_file(self._home / MARK_FILE, content.encode() + b"\n")
        self._mark = mark
        return mark

    def _refuse_copy(self, original: Path) -> None:
        """Two homes with one id are a copy; the one that the item names is the original."""
        if original == self._home:
            return
        assert self._mark is not None
        try:
            mark = read_mark(original)
        except SecretsError:  # whatever is there now, it is no home that this id belongs to
            return
        if mark is not None and mark.home_id == self._mark.home_id and not _same_place(original, self._home):
            raise HomeCopied(self._home, original)


def read_mark(home: Path) -> Mark | None:
    """Return what the home's file `keychain` says, or None where there is none.

    Raises:
        SecretsInvalid: it is not one that this program wrote.
    """
    path = home / MARK_FILE
    content = read_file(path, MAX_MARK_BYTES)
    if content is None:
        return None
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise SecretsInvalid(str(path), "not JSON") from error
    match fields:
        case {"v": 1, "id": str(home_id), "stored": bool(stored)} if len(fields) == 3 and _HOME_ID.fullmatch(home_id):
            return Mark(home_id, stored)
    raise SecretsInvalid(str(path), "not a keychain mark of version 1")


def _same_place(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _account(mark: Mark, slot: str) -> str:
    return f"{mark.home_id}/{slot}"


def _format_item(item: _Item) -> str:
    fields = {"v": VERSION, "generation": item.generation, "home": item.home, "secrets": encode_secrets(item.secrets)}
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def _parse_item(text: str, slot: str, place: str) -> _Item:
    if len(text) > MAX_ITEM_CHARS:
        raise SecretsInvalid(place, f"{len(text)} characters, at most {MAX_ITEM_CHARS} are expected")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise SecretsInvalid(place, "not JSON") from None  # the cause would quote the secret text
    match fields:
        case {"v": 1, "generation": int(generation), "home": str(home), "secrets": str(secrets)} if len(fields) == 4:
            return _Item(slot, generation, home, decode_secrets(secrets, place))
    raise SecretsInvalid(place, "not an item of version 1")


def _failed(backend: str, doing: str, reason: str) -> KeychainError:
    # macOS: no user interface may be shown (ssh, launchd), and authorisation failed (changed interpreter).
    if "-25308" in reason:
        return KeychainLocked(backend, "it needs to ask, and no user interface is allowed in this session (-25308)")
    if "-25293" in reason:
        return KeychainFailed(backend, doing, "authorisation failed; was the Python interpreter replaced? (-25293)")
    return KeychainFailed(backend, doing, reason)


def _foreign_errors() -> tuple[type[Exception], ...]:
    """Return what the backends let through from below `keyring`."""
    if sys.platform == "darwin":
        return (OSError,)
    from secretstorage.exceptions import SecretStorageException

    bus_error: type[Exception] = import_module("jeepney.wrappers").DBusErrorResponse  # it publishes no types
    return (OSError, SecretStorageException, bus_error)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
