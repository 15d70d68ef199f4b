"""Named errors of `identity`.

The message says what failed, where and what was found; `hint` says what to do about it.

    IdentityError
"""


class IdentityError(Exception):
    """Base of every error that `identity` raises on purpose."""

    hint: str = ""
