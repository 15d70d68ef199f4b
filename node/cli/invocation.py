"""What one run of a command has at hand: its arguments, the home, the screen, and the passphrase's source."""

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from node.cli.render import Screen
from node.config import Environment, Home
from node.errors import PassphraseUnreadable, TerminalNeeded
from node.settings import Settings, load_settings

MAX_PASSPHRASE_BYTES: Final = 4096


@dataclass(frozen=True)
class Invocation:
    """One run of a command."""

    arguments: argparse.Namespace
    home: Home
    environment: Environment
    screen: Screen
    # What the person typed in this run, so that nothing is asked twice.
    _typed: list[bytes] = field(default_factory=list, repr=False)

    def settings(self) -> Settings:
        """Return what the home remembers."""
        return load_settings(self.home.settings)

    def passphrase_source(self) -> Callable[[], bytes] | None:
        """Return what reads the passphrase that this run was given; None where it was given none."""
        if self.arguments.passphrase_fd is not None:
            return _OnceRead(self.arguments.passphrase_fd)
        if self.environment.passphrase_file is not None:
            path = self.environment.passphrase_file
            return lambda: read_passphrase_file(path)
        return None

    def typed_passphrase(self) -> bytes | None:
        """Return the passphrase that the person typed in this run already."""
        return self._typed[-1] if self._typed else None

    def ask_passphrase(self, *, new: bool) -> bytes:
        """Return the passphrase that the person types; twice when it is a new one.

        Raises:
            TerminalNeeded: nobody can be asked.
            PassphraseUnreadable: nothing was typed, or two different ones.
        """
        if not self.screen.interactive:
            raise TerminalNeeded(
                "the passphrase of the vault",
                "put it in a file (chmod 600) and set TILENODE_PASSPHRASE_FILE to its path, or use --passphrase-fd N",
            )
        import getpass

        if new:
            self.screen.say(
                "This device's keys go into a vault under a passphrase. Without it nobody can open them again."
            )
        first = getpass.getpass("Passphrase of the vault: ")
        if new and getpass.getpass("The same once more: ") != first:
            raise PassphraseUnreadable("the terminal", "the two differ")
        if not first:
            raise PassphraseUnreadable("the terminal", "nothing was typed")
        self._typed.append(first.encode())
        return self._typed[-1]


class _OnceRead:
    """Reads a descriptor at the first call and gives the same answer at every later one."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._passphrase: bytes | None = None

    def __call__(self) -> bytes:
        if self._passphrase is None:
            self._passphrase = _read_descriptor(self._descriptor)
        return self._passphrase


def _read_descriptor(descriptor: int) -> bytes:
    source = f"descriptor {descriptor}"
    try:
        with os.fdopen(descriptor, "rb") as file:
            return _one_line(source, file.read(MAX_PASSPHRASE_BYTES + 1))
    except OSError as error:
        raise PassphraseUnreadable(source, error.strerror or str(error)) from error


def read_passphrase_file(path: Path) -> bytes:
    """Return the passphrase in `path`, without the newline at its end.

    Raises:
        PassphraseUnreadable: no such file, others may read it, empty, more than one line or 4,096 bytes.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid == os.getuid() and status.st_mode & 0o077:
                raise PassphraseUnreadable(str(path), f"others may read it (mode {status.st_mode & 0o777:o})")
            return _one_line(str(path), file.read(MAX_PASSPHRASE_BYTES + 1))
    except OSError as error:
        raise PassphraseUnreadable(str(path), error.strerror or str(error)) from error


def _one_line(source: str, content: bytes) -> bytes:
    line = content.removesuffix(b"\n").removesuffix(b"\r")
    if not line or b"\n" in line or len(content) > MAX_PASSPHRASE_BYTES:
        raise PassphraseUnreadable(source, f"expected one line of at most {MAX_PASSPHRASE_BYTES} bytes")
    return line
