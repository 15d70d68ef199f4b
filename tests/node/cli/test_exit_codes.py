"""The table of exit codes: complete, distinct, documented, and about errors that exist."""

import errno
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import identity
import node
import protocol
import store
from identity.errors import IdentityError
from node.cli.exit_codes import BY_ERROR, HINTS, MEANINGS, ExitCode, exit_code_of
from node.cli.render import hint_of
from node.errors import ControlFailed, NodeError, PortInUse
from protocol.errors import ProtocolError
from store.errors import StoreError

ROOT = Path(__file__).parents[3]
# A mistake of the program itself, which ends with the code for defects, or an answer that carries its own code.
DEFECTS = {"SeedInvalid", "UnsignableMessage", "NotEncodable", "SyncMisused"}
WITHOUT_A_CODE = DEFECTS | {"ControlFailed", "IdentityError", "ProtocolError", "StoreError", "NodeError"}


def _all_errors() -> dict[str, type[Exception]]:
    for package in (identity, protocol, store, node):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.rpartition(".")[2] == "errors":
                importlib.import_module(module.name)
    found: dict[str, type[Exception]] = {}
    waiting: list[type[Exception]] = [IdentityError, ProtocolError, StoreError, NodeError]
    while waiting:
        kind = waiting.pop()
        found[kind.__name__] = kind
        waiting += [kind for kind in kind.__subclasses__() if not kind.__module__.startswith("test")]
    return found


def test_every_listed_error_exists() -> None:
    assert set(BY_ERROR) - set(_all_errors()) - {"KeyboardInterrupt"} == set()


def test_every_code_has_a_meaning() -> None:
    assert set(MEANINGS) == set(ExitCode)


def test_every_failure_has_a_hint() -> None:
    assert set(HINTS) == set(ExitCode) - {ExitCode.OK, ExitCode.INTERRUPTED}
    assert "verify" in hint_of(ControlFailed("Odd", "odd", "", ExitCode.MODEL_FAILED))
    assert "any free port" in hint_of(PortInUse("API", "127.0.0.1:1"))


@pytest.mark.parametrize("name", ["README.md", "specs/0018-command-line.md"])
def test_every_code_is_documented(name: str) -> None:
    table = (ROOT / name).read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    assert {int(code) for code in re.findall(r"\| (\d+) \|", table)} == {int(code) for code in ExitCode}


def test_the_specs_table_is_the_codes_table() -> None:
    table = (ROOT / "specs/0018-command-line.md").read_text().partition("## Exit codes")[2]
    for code, meaning in MEANINGS.items():
        assert f"| {int(code)} | {meaning} |" in table


def test_every_error_ends_with_a_code_of_its_own_or_its_bases() -> None:
    left = {name for name, kind in _all_errors().items() if not any(base.__name__ in BY_ERROR for base in kind.__mro__)}
    assert left == WITHOUT_A_CODE


def test_bad_input_has_distinct_codes() -> None:
    kinds = [
        "TicketInvalid", "TicketExpired", "TicketUsed", "PeerNotLinked", "ProvenanceInvalid", "ManifestInvalid",
        "LayerCorrupt", "ChunkCorrupt", "SafetensorsInvalid", "ModelfileInvalid", "KeychainLocked", "PassphraseWrong",
        "DiskFull", "PortInUse", "HomeLocked",
    ]  # fmt: skip
    errors = _all_errors()
    codes = [
        next(BY_ERROR[base.__name__] for base in errors[kind].__mro__ if base.__name__ in BY_ERROR) for kind in kinds
    ]
    assert len(set(codes)) == len(codes)


def test_an_error_of_the_node_keeps_its_code() -> None:
    assert exit_code_of(ControlFailed("TicketUsed", "used", "", ExitCode.TICKET_USED)) is ExitCode.TICKET_USED
    assert exit_code_of(ControlFailed("Odd", "odd", "", 99)) is ExitCode.INTERNAL


def test_a_full_disk_is_told_apart_from_other_trouble_with_files() -> None:
    assert exit_code_of(OSError(errno.ENOSPC, "no space")) is ExitCode.DISK_FULL
    assert exit_code_of(OSError(errno.EACCES, "no")) is ExitCode.INTERNAL


def test_a_subclass_without_a_line_has_its_bases_code() -> None:
    class Nearer(PortInUse):
        pass

    assert exit_code_of(Nearer("API", "127.0.0.1:1")) is ExitCode.PORT_IN_USE
