"""Importing much at once, quickly."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collections() -> Iterator[None]:
    """Import in the body: nothing is looked at for garbage meanwhile, nor will what was imported ever be.

    Importing makes hundreds of thousands of objects that all stay. Looking among them for garbage takes a fifth of the
    time of the imports, and of every later collection.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
