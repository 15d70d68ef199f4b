"""Which kind of network an IP address is in, so that a stranger's redirect cannot reach into this person's own."""

import ipaddress
from enum import StrEnum
from typing import Final

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


class AddressClass(StrEnum):
    """This machine, its link (where cloud machines keep their metadata), a private network, or the internet."""

    LOOPBACK = "this machine"
    LINK_LOCAL = "the local link"
    PRIVATE = "a private network"
    GLOBAL = "the internet"


def address_class(text: str) -> AddressClass:
    """Return the class of the IP address `text`; an IPv4 address inside an IPv6 one counts as itself.

    Whatever is not plainly of the internet, multicast and reserved ranges included, counts as private.

    Raises:
        ValueError: it is no IP address.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return address_class(str(inner))
    if address.is_loopback or address.is_unspecified:  # connecting to 0.0.0.0 reaches this machine
        return AddressClass.LOOPBACK
    if address.is_link_local:
        return AddressClass.LINK_LOCAL
    if address.is_global and not address.is_multicast:
        return AddressClass.GLOBAL
    return AddressClass.PRIVATE


def may_lead(registry: AddressClass, target: AddressClass) -> bool:
    """Return whether a registry at an address of one class may send its client to one of the other."""
    return target in (AddressClass.GLOBAL, registry)
