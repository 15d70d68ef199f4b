"""Named errors of `protocol`.

The message says what failed, where and what was found; `hint` says what to do about it.

    ProtocolError
    ├── DigestInvalid
    └── ModelNameInvalid
"""


class ProtocolError(Exception):
    """Base of every error that `protocol` raises on purpose."""

    hint: str = ""


class DigestInvalid(ProtocolError):
    """A digest is 64 lower-case hex characters, with or without `sha256:` before them."""

    def __init__(self, text: str) -> None:
        super().__init__(f"digest {text[:80]!r}: expected 64 lower-case hex characters")
        self.text = text


class ModelNameInvalid(ProtocolError):
    """A model name is `[host/][namespace/]name[:tag]` in lower-case letters, digits, `.`, `_` and `-`."""

    hint = "a model name looks like: demo, demo:v2 or ann/demo:v2"

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f"model name {text[:80]!r}: {reason}")
        self.text = text
        self.reason = reason
