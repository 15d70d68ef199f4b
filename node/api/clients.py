"""Who asks: requests of one program count as one client, so that nobody waits for somebody else's many requests."""

import hashlib
from typing import Final

from starlette.requests import Request

# What programs say about themselves, and what sets two users of one program apart.
_TOLD: Final = ("user-agent", "x-stainless-lang", "authorization", "x-api-key")
_CLIENT_BYTES: Final = 12


def client_of(request: Request) -> str:
    """Return a name for the program that asks: the same for all its connections, another one for another program.

    It is derived from the address it comes from, what it says it is, and the key that it shows; none of these can be
    read from it.
    """
    host = request.client.host if request.client is not None else ""
    told = "\n".join((host, *(request.headers.get(name, "") for name in _TOLD)))
    return hashlib.blake2b(told.encode(errors="replace"), digest_size=_CLIENT_BYTES).hexdigest()
