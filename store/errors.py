"""Named errors of `store`.

The message says what failed, where and what was found; `hint` says what to do about it.

    StoreError
"""


class StoreError(Exception):
    """Base of every error that `store` raises on purpose."""

    hint: str = ""
