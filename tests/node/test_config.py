"""Homes, addresses and private directories: what a node is told, and where it keeps things."""

import json
import os
from pathlib import Path

import pytest

from node.cli.invocation import read_passphrase_file
from node.config import (
    MAX_SOCKET_PATH_BYTES,
    Home,
    find_home,
    make_private_directory,
    parse_api_address,
    read_environment,
)
from node.errors import ApiAddressInvalid, HomeUnusable, NodeError, PassphraseUnreadable

VECTORS = sorted((Path(__file__).parents[2] / "specs/vectors/0018-command-line").glob("*.json"))


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_vectors(path: Path, tmp_path: Path) -> None:
    vector = json.loads(path.read_text())
    found = "ok"
    try:
        if "api" in vector["input"]:
            host, port = parse_api_address(vector["input"]["api"])
            assert [host, port] == vector["input"]["means"]
        else:
            file = tmp_path / "passphrase"
            file.write_bytes(bytes.fromhex(vector["input"]["file_hex"]))
            file.chmod(int(vector["input"]["mode"], 8))
            assert read_passphrase_file(file) == bytes.fromhex(vector["input"]["means_hex"])
    except NodeError as error:
        found = type(error).__name__
    assert found == vector["expect"]


def test_there_are_vectors_of_both_kinds() -> None:
    inputs = [json.loads(path.read_text())["input"] for path in VECTORS]
    assert any("api" in each for each in inputs)
    assert any("file_hex" in each for each in inputs)


def test_the_environment_names_home_and_passphrase_file(tmp_path: Path) -> None:
    environment = read_environment({"TILENODE_HOME": str(tmp_path), "TILENODE_PASSPHRASE_FILE": "/p", "NO_COLOR": "1"})
    assert find_home(environment).root == tmp_path
    assert environment.passphrase_file == Path("/p")
    assert not environment.color


def test_an_option_goes_before_the_environment(tmp_path: Path) -> None:
    environment = read_environment({"TILENODE_HOME": "/elsewhere"})
    assert find_home(environment, tmp_path).root == tmp_path


def test_the_control_socket_lies_in_the_home() -> None:
    assert Home(Path("/h"), Path("/run")).control_socket == Path("/h/control.sock")


def test_a_home_too_deep_for_a_socket_gets_a_private_directory(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * MAX_SOCKET_PATH_BYTES)
    home, other = Home(deep, Path("/run")), Home(deep / "other", Path("/run"))
    assert home.control_socket.parent.parent == Path("/run")
    assert home.control_socket != other.control_socket
    assert len(os.fsencode(home.control_socket)) <= MAX_SOCKET_PATH_BYTES


def test_a_directory_is_closed_to_others(tmp_path: Path) -> None:
    directory = tmp_path / "home"
    directory.mkdir(mode=0o755)
    make_private_directory(directory)
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_link_is_no_private_directory(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(HomeUnusable, match="not a directory"):
        make_private_directory(tmp_path / "link")


def test_a_file_is_no_home(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HomeUnusable):
        make_private_directory(tmp_path / "file" / "home")


def test_a_missing_passphrase_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PassphraseUnreadable, match="nothing-here"):
        read_passphrase_file(tmp_path / "nothing-here")


@pytest.mark.parametrize("text", ["127.0.0.1:٣", "127.0.0.1:-1", "127.0.0.1:+1", "[::1]", ""])
def test_an_api_address_is_ascii_digits_on_loopback(text: str) -> None:
    with pytest.raises(ApiAddressInvalid):
        parse_api_address(text)
