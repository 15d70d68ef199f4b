"""Named errors of `node`.

The message says what failed, where and what was found; `hint` says what to do about it.

    NodeError
"""


class NodeError(Exception):
    """Base of every error that `node` raises on purpose."""

    hint: str = ""
