"""The database schema as an ordered list of steps; a step that has landed is never edited, only followed."""

from typing import Final

PEERS_V1: Final = """
"""

OFFERS_V1: Final = """
"""

CHATS_V1: Final = """
"""

MIGRATIONS: Final[tuple[str, ...]] = (PEERS_V1, OFFERS_V1, CHATS_V1)
