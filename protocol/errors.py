"""Named errors of `protocol`.

The message says what failed, where and what was found; `hint` says what to do about it.

    ProtocolError
    ├── CodecInvalid
    ├── FieldInvalid
    ├── FrameTooLarge
    ├── FrameTruncated
    ├── NotEncodable
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


class FrameTooLarge(ProtocolError):
    """A frame's length is checked against the receiver's cap before anything is allocated."""

    def __init__(self, size_bytes: int, max_bytes: int) -> None:
        super().__init__(f"frame of {size_bytes} bytes, at most {max_bytes} are allowed")
        self.size_bytes = size_bytes
        self.max_bytes = max_bytes


class FrameTruncated(ProtocolError):
    """The stream ended in the middle of a frame."""

    def __init__(self, found_bytes: int) -> None:
        super().__init__(f"the stream ended {found_bytes} bytes into a frame")
        self.found_bytes = found_bytes


class NotEncodable(ProtocolError):
    """A value that canonical msgpack cannot carry: our own bug, never the other side's fault."""

    def __init__(self, what: str) -> None:
        super().__init__(f"canonical msgpack cannot carry {what}")
        self.what = what


class CodecInvalid(ProtocolError):
    """Bytes that are not the canonical msgpack encoding of a value."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"msgpack at byte {offset}: {reason}")
        self.offset = offset
        self.reason = reason


class FieldInvalid(ProtocolError):
    """A field of a decoded message is missing, unknown, of another type or out of its bounds."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
