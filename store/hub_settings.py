"""Which model hub is asked, and how."""

from dataclasses import dataclass, field
from typing import Final

ENDPOINT: Final = "https://huggingface.co"


@dataclass(frozen=True)
class HubSettings:
    """Which hub is asked, and how; `token` is shown nowhere. `xet_schemes` are how a Xet storage may be reached."""

    endpoint: str = ENDPOINT
    token: str | None = field(default=None, repr=False)
    offline: bool = False
    xet: bool = True
    xet_schemes: frozenset[str] = frozenset({"https"})
