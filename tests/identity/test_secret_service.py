"""The keychain rung against a real Secret Service: GNOME Keyring on a private bus, in a home of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from identity.testing import secrets_from_number

NEEDED = ("dbus-run-session", "gnome-keyring-daemon")
ROOT = Path(__file__).parents[2]
SESSION = Path(__file__).parent / "secret_service_session.py"

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the Secret Service is Linux's"),
    pytest.mark.skipif(
        any(shutil.which(program) is None for program in NEEDED),
        reason="install a Secret Service (Debian: apt-get install gnome-keyring dbus)",
    ),
]
if sys.platform != "linux":
    pytestmark.append(pytest.mark.platform)


def in_session(directory: Path, *steps: str) -> list[object]:
    """Run `steps` inside a new bus session whose user's files are below `directory`; return what each one answers."""
    runtime = directory / "run"
    runtime.mkdir(exist_ok=True, parents=True)
    runtime.chmod(0o700)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "XDG_RUNTIME_DIR": str(runtime),
        "XDG_DATA_HOME": str(directory / "data"),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        ["dbus-run-session", "--", sys.executable, str(SESSION), str(directory / "home"), *steps],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    answers: list[object] = json.loads(done.stdout.splitlines()[-1])
    return answers


def test_secrets_live_in_the_keyring_and_survive_the_session(tmp_path: Path) -> None:
    answers = in_session(tmp_path, "unlock:right", "load", "save:1", "load", "save:2", "items", "rung")
    assert answers == [None, None, None, "secrets 1", None, 1, "keychain"]
    assert in_session(tmp_path, "unlock:right", "load", "items") == [None, "secrets 2", 1]
    seed = secrets_from_number(2).device_seed
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert seed not in stored
    assert seed.hex().encode() not in stored


def test_a_locked_keyring_is_named_and_makes_no_key(tmp_path: Path) -> None:
    answers = in_session(tmp_path, "unlock:right", "save:1", "lock", "load", "save:2", "ladder")
    assert answers == [None, None, None, *["KeychainLocked"] * 3]
    assert in_session(tmp_path, "unlock:right", "load", "items") == [None, "secrets 1", 1]


def test_a_wrong_keyring_password_is_a_locked_keyring(tmp_path: Path) -> None:
    assert in_session(tmp_path, "unlock:right", "save:1") == [None, None]
    assert in_session(tmp_path, "unlock:wrong", "load", "ladder") == [None, "KeychainLocked", "KeychainLocked"]
    assert in_session(tmp_path, "unlock:right", "load") == [None, "secrets 1"]


def test_a_keyring_that_nobody_ever_unlocked_makes_no_key(tmp_path: Path) -> None:
    assert in_session(tmp_path, "ladder", "save:1") == ["KeychainLocked", "KeychainLocked"]
    assert not (tmp_path / "home" / "vault").exists()


def test_a_home_on_the_keychain_says_when_there_is_no_bus(tmp_path: Path) -> None:
    assert in_session(tmp_path, "unlock:right", "save:1", "no-bus", "ladder") == [
        None,
        None,
        None,
        "KeychainUnavailable",
    ]


def test_an_item_that_was_deleted_is_missed(tmp_path: Path) -> None:
    answers = in_session(tmp_path, "unlock:right", "save:1", "delete", "load", "ladder")
    assert answers == [None, None, None, "KeychainItemMissing", "KeychainItemMissing"]
