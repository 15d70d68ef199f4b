"""Text that may be shown to its owner and nobody else: in logs, errors and reprs only its size appears."""

from typing import Final, final


@final
class Redacted:
    """Holds what a person or a model wrote; formats as `<redacted 214 bytes>` and gives the text to `reveal()` alone.

    It is no `str` on purpose: what forgets `reveal()` fails loudly (JSON, concatenation) or prints the size.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text: Final = text

    def reveal(self) -> str:
        """Return the text itself, for the screen of the person whose text it is, the model, or the encrypted store."""
        return self._text

    @property
    def size_bytes(self) -> int:
        """The size of the text in UTF-8; a lone surrogate, which UTF-8 cannot hold, counts as three bytes."""
        return len(self._text.encode("utf-8", "surrogatepass"))

    def __repr__(self) -> str:
        return f"<redacted {self.size_bytes} bytes>"

    def __str__(self) -> str:
        return repr(self)

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Redacted) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> str:
        raise TypeError("redacted text is not pickled")
