"""Whether a program that speaks to the API on loopback runs under the account that this node runs under.

The port answers every account of the machine; what changes models, or uses this person's logins, is for its own.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil
import trio
from fastapi import Request

from node.api.errors import CallerNotOwn

IsOwn = Callable[[int, int], bool]

_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED: Final = "01"
# The loopback addresses as those tables spell them: 127.0.0.1, ::1, ::ffff:127.0.0.1.
_LOOPBACK: Final = frozenset({"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"})


async def require_own(request: Request, is_own: IsOwn) -> None:
    """Accept a request of a program that `is_own`, told the caller's port and this API's, says is this account's own.

    Raises:
        CallerNotOwn: it is not, or that cannot be told.
    """
    client, server = request.client, request.scope.get("server")
    # From another loopback address than this API's, a stranger may come with the port of an own program's connection.
    if client is None or server is None or client.host != server[0]:
        raise CallerNotOwn
    if not await trio.to_thread.run_sync(is_own, client.port, server[1]):
        raise CallerNotOwn


def is_own_program(client_port: int, server_port: int) -> bool:
    """Return whether the other end of a loopback connection belongs to this account, or to root.

    `client_port` is the caller's port, `server_port` this API's. False where that cannot be told. Blocking.
    """
    if sys.platform == "linux":
        return _owner(client_port, server_port) in (0, os.getuid())
    return any(_holds(process, client_port, server_port) for process in psutil.process_iter())


def _owner(client_port: int, server_port: int) -> int | None:
    """Return the user id of the socket on the caller's side, as the kernel says it."""
    for table in _TABLES:
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            _, local, remote, state, _, _, _, owner, *_ = line.split()
            (address, port), (far, far_port) = local.split(":"), remote.split(":")
            ports = (int(port, 16), int(far_port, 16))
            on_one_address = address == far and address in _LOOPBACK
            if state == _ESTABLISHED and on_one_address and ports == (client_port, server_port):
                return int(owner)
    return None


def _holds(process: psutil.Process, client_port: int, server_port: int) -> bool:
    """Return whether a process of this account has the caller's side; those of other accounts cannot be looked into."""
    try:
        if process.uids().real not in (0, os.getuid()):
            return False
        return any(
            found.laddr and found.raddr and (found.laddr.port, found.raddr.port) == (client_port, server_port)
            for found in process.net_connections(kind="tcp")
        )
    except psutil.Error:
        return False
