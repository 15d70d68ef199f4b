"""Listening sockets: which addresses, bound exclusively, with the ports that the system chose."""

import errno
import ipaddress
import socket
from collections.abc import Sequence
from typing import Any, Final

import psutil
import trio
from libp2p.abc import IListener
from multiaddr import Multiaddr

from node.errors import ListenFailed, PortInUse
from protocol.address import Address, format_address, parse_address
from protocol.errors import AddressInvalid

BACKLOG: Final = 128


def default_listen(port: int) -> tuple[str, ...]:
    """Return one address to listen on for every address of this machine, loopback first.

    Concrete addresses, because what is listened on is also what is told to peers. Link-local IPv6 is left out: it needs
    a zone, which means nothing on another machine. Port 0 gives every address a port of its own.
    """
    return tuple(format_address(Address(host, port)) for host in _hosts())


async def open_listeners(listen: Sequence[str]) -> list[trio.SocketListener]:
    """Return bound sockets for all of `listen`, or none: at the first failure those already bound are closed.

    Raises:
        PortInUse: another program listens there.
        ListenFailed: the address is none of this machine, or not allowed.
    """
    listeners: list[trio.SocketListener] = []
    try:
        for text in listen:
            listeners.append(await _open(text))  # noqa: PERF401 - one by one, so that those bound are closed on failure
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


def address_of(listener: trio.SocketListener) -> Address:
    """Return the real address of a listener."""
    host, port = listener.socket.getsockname()[:2]
    return Address(str(host), int(port))


def addresses_of(listener: trio.SocketListener) -> list[Address]:
    """Return where others reach a listener: one that listens everywhere, at every address of this machine."""
    address = address_of(listener)
    ip = ipaddress.ip_address(address.host)
    if not ip.is_unspecified:
        return [address]
    return [Address(own, address.port) for own in _hosts() if ipaddress.ip_address(own).version == ip.version]


class Bound(IListener):
    """What libp2p's identify tells others about where this node listens."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = tuple(Multiaddr(format_address(address)) for address in addresses)

    async def listen(self, maddr: Any) -> None:
        """Do nothing: the sockets are bound already."""

    def get_addrs(self) -> tuple[Any, ...]:
        """Return the addresses as multiaddrs."""
        return self._addresses

    async def close(self) -> None:
        """Do nothing: the transport closes its own sockets."""


async def _open(text: str) -> trio.SocketListener:
    try:
        address = parse_address(text)
    except AddressInvalid as error:
        raise ListenFailed(text, error.reason) from error
    try:
        (listener,) = await trio.open_tcp_listeners(address.port, host=address.host, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUse("peer address", text) from error
        raise ListenFailed(text, error.strerror or str(error)) from error
    return listener


def _hosts() -> list[str]:
    found = {"127.0.0.1": None}
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family in (socket.AF_INET, socket.AF_INET6) and _is_concrete(address.address):
                found[address.address] = None
    return list(found)


def _is_concrete(host: str) -> bool:
    if "%" in host:
        return False
    ip = ipaddress.ip_address(host)
    return not (ip.is_link_local or ip.is_unspecified or ip.is_multicast)
