"""Commands speak to this user's own node alone: never to a socket that another user could have put in its place."""

import os
from pathlib import Path

import pytest

from node.cli.client import ControlClient
from node.config import MAX_SOCKET_PATH_BYTES, Home
from node.errors import HomeUnusable


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home too deep for a socket, so that the socket lies in a directory that every user can write to."""
    return Home(tmp_path / ("d" * MAX_SOCKET_PATH_BYTES), tmp_path)


def test_without_a_node_there_is_nothing_to_distrust(home: Home) -> None:
    with ControlClient(home):
        assert not home.control_socket.parent.exists()


def test_a_directory_that_others_may_write_to_is_not_spoken_to(home: Home) -> None:
    home.control_socket.parent.mkdir()
    home.control_socket.parent.chmod(0o777)
    with pytest.raises(HomeUnusable, match="other users"):
        ControlClient(home)


def test_a_link_is_not_followed(home: Home, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    home.control_socket.parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HomeUnusable, match="not a directory"):
        ControlClient(home)


def test_another_users_directory_is_not_spoken_to(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: stranger)
    home.control_socket.parent.mkdir(mode=0o700)
    with pytest.raises(HomeUnusable, match="belongs to user"):
        ControlClient(home)
