"""What a link allows: the two scopes that a person chooses between, in `link enable`."""

from enum import StrEnum


class Scope(StrEnum):
    """`own-device`: chats and models. `models-only`: models, for a device of somebody else."""

    OWN = "own-device"
    MODELS = "models-only"


def narrower(one: Scope, other: Scope) -> Scope:
    """Return the scope of a link: own-device only when both sides chose it."""
    return Scope.OWN if one is other is Scope.OWN else Scope.MODELS
