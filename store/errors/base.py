"""The base of every error that `store` raises on purpose."""


class StoreError(Exception):
    """Base of every error that `store` raises on purpose."""

    hint: str = ""
