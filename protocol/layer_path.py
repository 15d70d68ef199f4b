"""File names inside a model: checked before any of them meets a file system."""

import unicodedata
from collections.abc import Iterable
from typing import Final

from protocol.errors import LayerPathInvalid

MAX_PATH_BYTES: Final = 1024
MAX_COMPONENT_BYTES: Final = 200
MAX_DEPTH: Final = 8

_RESERVED: Final = frozenset(
    {"con", "prn", "aux", "nul"} | {f"com{n}" for n in range(1, 10)} | {f"lpt{n}" for n in range(1, 10)}
)
_FORBIDDEN: Final = frozenset('\\:*?"<>|')


def check_layer_path(path: str) -> None:
    """Accept `path` when it names a file below the model's directory on every system that we know.

    Raises:
        LayerPathInvalid: empty, absolute, `..`, control or bidi characters, names that Windows reserves, too long.
    """
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        raise LayerPathInvalid(path, "not text") from None
    if not 0 < len(encoded) <= MAX_PATH_BYTES:
        raise LayerPathInvalid(path, f"{len(encoded)} bytes, 1 to {MAX_PATH_BYTES} are allowed")
    parts = path.split("/")
    if len(parts) > MAX_DEPTH:
        raise LayerPathInvalid(path, f"{len(parts)} folders deep, at most {MAX_DEPTH} are allowed")
    for part in parts:
        _check_component(path, part)


def check_layer_paths(paths: Iterable[str]) -> None:
    """Accept names that can stand in one directory together.

    Raises:
        LayerPathInvalid: a bad name, two names that differ only in case or Unicode form, or a file that is also a
            folder.
    """
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        check_layer_path(path)
        folded = _fold(path)
        if folded in files:
            raise LayerPathInvalid(path, f"collides with {files[folded]!r}")
        files[folded] = path
        parts = folded.split("/")
        folders.update({"/".join(parts[:depth]): path for depth in range(1, len(parts))})
    for folded in files.keys() & folders.keys():
        raise LayerPathInvalid(files[folded], f"is a file and also the folder of {folders[folded]!r}")


def _check_component(path: str, part: str) -> None:
    if part in {"", ".", ".."}:
        raise LayerPathInvalid(path, f"part {part!r} is not a file name")
    if len(part.encode()) > MAX_COMPONENT_BYTES:
        raise LayerPathInvalid(path, f"a part of more than {MAX_COMPONENT_BYTES} bytes")
    if any(c in _FORBIDDEN or unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} for c in part):
        raise LayerPathInvalid(path, "a character that file names must not have")
    if part[-1] in ". " or part[0] == " ":
        raise LayerPathInvalid(path, "a part that begins with a space or ends in a dot or space")
    if part.split(".")[0].rstrip().lower() in _RESERVED:
        raise LayerPathInvalid(path, f"{part!r} is a device name on Windows")


def _fold(path: str) -> str:
    # Twice normalised: folding can leave a form that macOS would compose again.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
