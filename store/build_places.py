"""Where the directories lay from which a model was built here: what no manifest says, because it is nobody's business.

`indexes/builds/<manifest>.json` in the store, a file for each model that was built from directories of this machine.
Only `build --check` reads it; a model without one is checked with a directory that is named.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from protocol.canonical_json import decode_json, encode_json
from protocol.digest import Digest, parse_digest
from protocol.errors import DigestInvalid, JsonInvalid
from store.disk import disk_errors, make_directories, open_regular, replace_file
from store.layout import Layout

VERSION: Final = 1
MAX_PLACES_BYTES: Final = 64 << 10


def remember_places(layout: Layout, manifest: Digest, places: Mapping[str, Path]) -> None:
    """Keep where each recorded path of the model's recipe led; what is kept of models that are gone is forgotten.

    Raises:
        DiskFull, DiskFailed: nothing was kept.
    """
    directory = _directory(layout)
    with disk_errors(directory):
        if directory.is_dir():
            for note in directory.iterdir():
                if not _is_needed(layout, note):
                    note.unlink(missing_ok=True)
        if not places:
            return
        make_directories(directory)
    content = encode_json({"version": VERSION, "places": {name: str(path) for name, path in places.items()}})
    if len(content) <= MAX_PLACES_BYTES:
        replace_file(layout.temporary, directory / f"{manifest}.json", content)


def recall_places(layout: Layout, manifest: Digest) -> dict[str, Path]:
    """Return where the recorded paths led; empty where that is not known or cannot be read."""
    path = _directory(layout) / f"{parse_digest(manifest)}.json"
    try:
        with open_regular(path) as file:
            document = decode_json(file.read(MAX_PLACES_BYTES + 1), MAX_PLACES_BYTES, path.name)
    except (OSError, JsonInvalid):
        return {}
    match document:
        case {"version": 1, "places": dict(places), **rest} if not rest:
            return {name: Path(place) for name, place in places.items() if isinstance(place, str)}
    return {}


def _directory(layout: Layout) -> Path:
    return layout.indexes / "builds"


def _is_needed(layout: Layout, note: Path) -> bool:
    try:
        return layout.blob_path(parse_digest(note.stem)).exists()
    except DigestInvalid:
        return True  # not ours
