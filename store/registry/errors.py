"""Named errors of the registry client.

    StoreError
    └── RegistryError
        ├── RegistryUnreachable
        ├── RegistryStalled
        ├── RegistryAbandoned
        ├── RegistryRefused
        ├── RegistryUnknown
        ├── RegistryLoginNeeded
        ├── RegistryLoginRefused
        ├── RedirectRefused
        ├── AnswerTooLarge
        ├── AnswerMismatch
        ├── ContentEncoded
        ├── IndexAmbiguous
        └── LocalNameNeeded

What a registry says is shown only after `protocol.text.clean_text`; credentials and URLs with queries never are.
"""

from protocol.digest import Digest, short_digest
from protocol.text import clean_text
from store.errors import StoreError


class RegistryError(StoreError):
    """Something went wrong between this node and a registry."""

    hint = "check the address and the network, then run the same command again: what arrived is kept"


class RegistryUnreachable(RegistryError):
    """Nobody answers at the registry's address, or the connection was lost again and again."""

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(f"registry {host} cannot be reached: {clean_text(reason, 200)}")
        self.host = host
        self.reason = reason


class RegistryStalled(RegistryError):
    """The registry sends so slowly that it counts as silent."""

    def __init__(self, host: str, seconds: float) -> None:
        super().__init__(f"registry {host} sent next to nothing for {seconds:.0f} s")
        self.host = host
        self.seconds = seconds


class RegistryAbandoned(RegistryError):
    """A helping thread stops because the one that asked for the work has left."""

    def __init__(self) -> None:
        super().__init__("the work is no longer wanted")


class RegistryRefused(RegistryError):
    """The registry answered with an error; `status` is HTTP's, `code` the registry's own word for it."""

    def __init__(self, host: str, what: str, status: int, code: str = "", message: str = "") -> None:
        said = ": ".join(filter(None, [code, message]))
        super().__init__(f"registry {host} refused {what}: HTTP {status}{f' ({said})' if said else ''}")
        self.host = host
        self.what = what
        self.status = status
        self.code = code


class RegistryUnknown(RegistryError):
    """The registry has no such repository, tag or blob."""

    hint = "check the name; the owner can push it: tilenode push NAME HOST/REPOSITORY:TAG"

    def __init__(self, host: str, what: str) -> None:
        super().__init__(f"registry {host} has no {what}")
        self.host = host
        self.what = what


class RegistryLoginNeeded(RegistryError):
    """The registry wants to know who asks."""

    def __init__(self, host: str, what: str) -> None:
        super().__init__(f"registry {host} wants a login for {what}")
        self.host = host
        self.hint = f"log in: tilenode registry login {host}"


class RegistryLoginRefused(RegistryError):
    """The registry does not accept the login that is kept for it, or not for this."""

    def __init__(self, host: str, what: str) -> None:
        super().__init__(f"registry {host} does not accept the login for {what}")
        self.host = host
        self.hint = f"log in with an account that may do this: tilenode registry login {host}"


class RedirectRefused(RegistryError):
    """A registry sends its client somewhere where it must not go."""

    hint = "nothing was fetched from there; tell whoever runs the registry"

    def __init__(self, host: str, target: str, reason: str) -> None:
        super().__init__(f"registry {host} leads to {clean_text(target, 80)}: {reason}")
        self.host = host
        self.target = target
        self.reason = reason


class AnswerTooLarge(RegistryError):
    """An answer is larger than what it may be; nothing beyond the limit was read."""

    hint = "nothing was accepted; check the address, or tell whoever runs the registry"

    def __init__(self, host: str, what: str, max_bytes: int) -> None:
        super().__init__(f"registry {host} sent more than {max_bytes} bytes for {what}")
        self.host = host
        self.what = what
        self.max_bytes = max_bytes


class AnswerMismatch(RegistryError):
    """An answer is not what its digest, its length or its range promises."""

    hint = "nothing was accepted; check the address, or tell whoever runs the registry"

    def __init__(self, host: str, what: str, reason: str) -> None:
        super().__init__(f"registry {host} sent another thing for {what}: {clean_text(reason, 200)}")
        self.host = host
        self.what = what
        self.reason = reason


class ContentEncoded(RegistryError):
    """An answer is compressed, which was not asked for and could unpack to any size."""

    hint = "nothing was accepted; check the address, or tell whoever runs the registry"

    def __init__(self, host: str, encoding: str) -> None:
        super().__init__(f"registry {host} sent a body encoded as {clean_text(encoding, 40)!r}, which nobody asked for")
        self.host = host
        self.encoding = encoding


class IndexAmbiguous(RegistryError):
    """The tag stands for an index in which none or several manifests may be the model."""

    def __init__(self, what: str, found: list[Digest]) -> None:
        listed = ", ".join(map(short_digest, found[:5])) or "none"
        super().__init__(f"{what} is an index with {len(found)} models in it: {listed}")
        self.found = found
        self.hint = (
            f"name one: tilenode pull {what.partition('@')[0]}@sha256:{found[0]}"
            if found
            else "it holds no model; check the name"
        )


class LocalNameNeeded(RegistryError):
    """A reference that cannot be a model's name here as it stands."""

    def __init__(self, reference: str, reason: str) -> None:
        super().__init__(f"{reference} cannot be the name of a model here: {reason}")
        self.hint = f"give it one: tilenode pull {reference} --as NAME"
