"""The login for a linked device's registry, in a file of the form that docker, podman, skopeo and oras read."""

import base64
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from node.config import make_private_directory

FILE: Final = "config.json"


@contextmanager
def login_file(directory: Path, server: str, user: str, password: str) -> Iterator[Path]:
    """Give a file, mode 0600 in a directory of its own below `directory`, with the login for `server` (HOST:PORT).

    So the password never has to stand on a command line, where other users see it. It is gone after the block.

    Raises:
        HomeUnusable: the directory cannot be made private.
    """
    own = directory / server.rpartition(":")[2]
    make_private_directory(directory)
    shutil.rmtree(own, ignore_errors=True)  # of a node that was killed: its password opens nothing any more
    make_private_directory(own)
    login = base64.b64encode(f"{user}:{password}".encode()).decode()
    path = own / FILE
    try:
        with open(path, "x", encoding="utf-8", opener=_open_private) as file:
            json.dump({"auths": {server: {"auth": login}}}, file)
        yield path
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
