"""Where the store of a home lies: what a killed move left is finished, and a disk that is away is noticed (0027)."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from node.config import Home
from node.settings import load_settings, save_settings
from store.errors import StoreAway
from store.move import settle_move

_log = logging.getLogger("tilenode.store")


def settle_store(home: Home) -> None:
    """Finish what a killed move has left, and accept the store's place. The caller holds the home.

    Raises:
        StoreAway: the disk to which the store was moved is not there.
        MoveJournalInvalid, DiskFull, DiskFailed: how far a move got cannot be told, or it cannot be finished.
    """
    left = settle_move(home.root, set_store(home), switcher(home))
    if left is not None:
        _log.warning("old_store_left", extra={"path": str(left.place), "error": str(left)})
    require_store(home)


def require_store(home: Home) -> None:
    """Accept a store in the home, made at its first use, or a moved one that is there.

    Raises:
        StoreAway: it was moved, and nothing is there now; an empty one in its place would hide that.
    """
    if home.moved_store is not None and not (home.moved_store / "oci-layout").is_file():
        raise StoreAway(home.moved_store)


def set_store(home: Home) -> Path:
    """Return where the settings say that the store lies."""
    return Path(load_settings(home.settings).store or home.own_store)


def switcher(home: Home) -> Callable[[Path], None]:
    """Return what durably changes the setting that says where the store lies."""

    def switch(path: Path) -> None:
        text = "" if path == home.own_store else str(path)
        save_settings(home.settings, replace(load_settings(home.settings), store=text))

    return switch
