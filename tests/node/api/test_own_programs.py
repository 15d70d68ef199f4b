"""Whose program is at the other end of a loopback connection: seen with real connections of real accounts."""

import os
import socket
import subprocess
import sys

import pytest
from fastapi import Request

from node.api.errors import CallerNotOwn
from node.api.own_programs import is_own_program, require_own

CALLER = """
import encodings.idna, os, socket, sys  # the codec is loaded while the interpreter's files can be read
os.setgid(65534); os.setuid(65534)
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print(connection.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_program_of_this_account_is_its_own(family: socket.AddressFamily, address: str) -> None:
    server = socket.create_server((address, 0), family=family)
    with server, socket.create_connection(server.getsockname()[:2]) as client:
        assert is_own_program(client.getsockname()[1], server.getsockname()[1])


def test_a_connection_that_there_is_not_is_nobodys() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert not is_own_program(client.getsockname()[1] ^ 1, port)


@pytest.mark.platform
@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="only root can be another account as well")
def test_a_program_of_another_account_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        server.settimeout(20)
        caller = subprocess.Popen(
            [sys.executable, "-c", CALLER, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert caller.stdout is not None
        assert caller.stdin is not None
        with server.accept()[0]:
            assert not is_own_program(int(caller.stdout.readline()), port)
        caller.stdin.close()
        caller.wait()
        caller.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is one loopback address")
async def test_the_port_of_an_own_connection_at_another_address_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as stranger:
        here = server.getsockname()
        with socket.create_connection(here), server.accept()[0] as own:
            await require_own(Request({"type": "http", "client": own.getpeername(), "server": here}), is_own_program)
            stranger.bind(("127.0.0.2", own.getpeername()[1]))
            stranger.connect(here)
            with server.accept()[0] as other:
                asked = Request({"type": "http", "client": other.getpeername(), "server": here})
                with pytest.raises(CallerNotOwn):
                    await require_own(asked, is_own_program)
