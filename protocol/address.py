"""Addresses of nodes as multiaddrs: `/ip4/192.168.1.20/tcp/4001/p2p/12D3Koo…`; literal IP addresses and TCP only.

Names are refused on purpose: an address that a peer sent never makes this node ask a name server.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from protocol.errors import AddressInvalid

MAX_ADDRESS_CHARS: Final = 160
MAX_ADDRESSES: Final = 16

_MULTIADDR: Final = re.compile(
    r"/(ip4|ip6)/([0-9a-fA-F:.]{2,45})/tcp/([0-9]{1,5})(?:/p2p/([1-9A-HJ-NP-Za-km-z]{40,64}))?"
)


@dataclass(frozen=True)
class Address:
    """Where a node listens; `peer_id` is empty in an address to listen on."""

    host: str
    port: int
    peer_id: str = ""

    def __str__(self) -> str:
        return format_address(self)


def parse_address(text: str) -> Address:
    """Return the address that a multiaddr spells; port 0 and unspecified hosts are for listening only.

    Raises:
        AddressInvalid: another shape, a name in place of an IP address, or a number out of range.
    """
    match = _MULTIADDR.fullmatch(text) if len(text) <= MAX_ADDRESS_CHARS else None
    if match is None:
        raise AddressInvalid(text, "expected /ip4/A.B.C.D/tcp/PORT or /ip6/ADDRESS/tcp/PORT")
    family, host, port, peer_id = match.groups()
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        raise AddressInvalid(text, f"{host} is no IP address") from None
    if ip.version != int(family[2]):
        raise AddressInvalid(text, f"{host} is not of the family {family}")
    if int(port) > 65_535:
        raise AddressInvalid(text, f"port {port} is not between 0 and 65535")
    return Address(str(ip), int(port), peer_id or "")


def parse_peer_address(text: str, peer_id: str) -> Address:
    """Return an address at which the node `peer_id` can be dialled.

    Raises:
        AddressInvalid: what `parse_address` refuses, port 0, an unspecified or multicast host, or another node's id.
    """
    address = parse_address(text)
    ip = ipaddress.ip_address(address.host)
    if address.port == 0 or ip.is_unspecified or ip.is_multicast:
        raise AddressInvalid(text, "it cannot be dialled")
    if address.peer_id and address.peer_id != peer_id:
        raise AddressInvalid(text, "it names another node")
    return Address(address.host, address.port, peer_id)


def dialable(texts: tuple[str, ...], peer_id: str) -> tuple[str, ...]:
    """Return those of a peer's claimed addresses that can be dialled, each once, at most `MAX_ADDRESSES`."""
    found: dict[str, None] = {}
    for text in texts:
        try:
            found[str(parse_peer_address(text, peer_id))] = None
        except AddressInvalid:
            continue
    return tuple(found)[:MAX_ADDRESSES]


def format_address(address: Address) -> str:
    """Return the multiaddr of `address`."""
    family = "ip6" if ":" in address.host else "ip4"
    peer = f"/p2p/{address.peer_id}" if address.peer_id else ""
    return f"/{family}/{address.host}/tcp/{address.port}{peer}"
