"""The two listeners: private, exclusive, and in place of what a dead node left."""

import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from node.config import MAX_SOCKET_PATH_BYTES, Home
from node.control.server import api_url, bind_api_socket, bind_control_socket, remove_control_socket
from node.errors import PortInUse


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", tmp_path / "run")


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield int(other.getsockname()[1])


def test_the_control_socket_is_its_owners_alone(home: Home) -> None:
    with closing(bind_control_socket(home)):
        assert stat.S_IMODE(home.control_socket.stat().st_mode) == 0o600
        assert stat.S_IMODE(home.control_socket.parent.stat().st_mode) == 0o700


def test_a_dead_nodes_socket_is_replaced(home: Home) -> None:
    bind_control_socket(home).close()  # closing leaves the file, as a kill does
    with closing(bind_control_socket(home)), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(home.control_socket))


def test_a_directory_that_was_made_for_the_socket_goes_with_it(tmp_path: Path) -> None:
    deep = Home(tmp_path / ("d" * MAX_SOCKET_PATH_BYTES), Path("/tmp"))
    deep.root.mkdir()
    bind_control_socket(deep).close()
    assert deep.control_socket.parent.is_dir()
    remove_control_socket(deep)
    assert not deep.control_socket.parent.exists()
    assert deep.root.is_dir()


def test_removing_the_socket_leaves_the_home(home: Home) -> None:
    bind_control_socket(home).close()
    remove_control_socket(home)
    assert not home.control_socket.exists()
    assert home.root.is_dir()


def test_port_0_is_a_real_port_afterwards() -> None:
    with closing(bind_api_socket("127.0.0.1", 0, or_any_port=False)) as listener:
        assert api_url(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert listener.getsockname()[1] != 0


def test_a_port_in_use_is_named(taken: int) -> None:
    with pytest.raises(PortInUse, match=str(taken)):
        bind_api_socket("127.0.0.1", taken, or_any_port=False)


def test_a_guest_takes_another_port(taken: int) -> None:
    with closing(bind_api_socket("127.0.0.1", taken, or_any_port=True)) as listener:
        assert listener.getsockname()[1] not in (0, taken)
