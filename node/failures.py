"""What may go wrong on purpose: the named errors of all four floors, alone or in the group a nursery made of them."""

from typing import Final

import trio

from identity.errors import IdentityError
from node.errors import NodeError
from protocol.errors import ProtocolError
from store.errors import StoreError

NAMED: Final = (NodeError, StoreError, ProtocolError, IdentityError, trio.TooSlowError)


def leaves(error: BaseException) -> list[BaseException]:
    """Return the errors inside a group, however deep, or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


def names_of(errors: list[BaseException]) -> str:
    """Return the classes of `errors` for a log line, each once."""
    return " ".join(sorted({type(error).__name__ for error in errors}))


def is_named(error: BaseException) -> bool:
    """Return whether nothing but named errors happened."""
    return all(isinstance(leaf, NAMED) for leaf in leaves(error))


def first_cause(error: BaseException) -> BaseException:
    """Return the first error inside a group, however deep, or the error itself: one failure is one message."""
    return leaves(error)[0]
