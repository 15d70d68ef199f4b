"""Which model hub is asked, and how."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class HubSettings:
    """Which hub is asked, and how; an empty `endpoint` is the one that the hub's library knows.

    `token` is shown nowhere. `xet_schemes` are how a Xet storage may be reached.
    """

    endpoint: str = ""
    token: str | None = field(default=None, repr=False)
    offline: bool = False
    xet: bool = True
    xet_schemes: frozenset[str] = frozenset({"https"})
