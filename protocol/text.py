"""Text that other people sent, made safe to show on this person's screen."""

import unicodedata
from typing import Final

MAX_NAME_CHARS: Final = 64
# Control, format (bidi overrides among them), surrogate, private use, line and paragraph separators.
_UNSAFE_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
# How the identities of devices begin, with and without their method: a name must not pass for another device's.
_IDENTITIES: Final = ("did:", "z6mk")


def clean_text(text: str, max_chars: int) -> str:
    """Return `text` without control and bidi characters, white space folded, cut to `max_chars`."""
    safe = "".join(" " if unicodedata.category(c) in _UNSAFE_CATEGORIES else c for c in text)
    return " ".join(safe.split())[:max_chars]


def clean_name(text: str) -> str:
    """Return a nickname or model name as it may be shown: at most 64 characters, never empty, no device's identity."""
    name = clean_text(text, MAX_NAME_CHARS)
    return "unnamed" if not name or unicodedata.normalize("NFKC", name).casefold().startswith(_IDENTITIES) else name
