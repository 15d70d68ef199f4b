"""The versions of a name as people look back on them: which releases they are, how large, and what changed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from protocol.build_record import BUILD_RECORD
from protocol.digest import Digest
from protocol.manifest import Manifest
from protocol.model_name import ModelName, format_model_name
from store.contents import MODELFILE
from store.errors import ModelUnknown
from store.models import ModelStore
from store.reach import read_manifest
from store.refs import Version

_WEIGHTS: Final = ".safetensors"
_DRAFT: Final = "draft/"


@dataclass(frozen=True)
class PastVersion:
    """A version, the releases that are the same manifest, its bytes (None where it cannot be read), and what is new.

    `what` says in a word how it differs from the version before: `weights`, `draft`, `recipe`, `config`, `files`,
    several of them with `+`, `first` (`oldest` where earlier ones were forgotten), or `same as 3` for a manifest that
    the name stood for before.
    """

    version: Version
    releases: tuple[str, ...]
    size_bytes: int | None
    what: str
    current: bool


def past_versions(store: ModelStore, name: ModelName) -> tuple[PastVersion, ...]:
    """Return every version of `name`, the oldest first; for a release those of its tag.

    Raises:
        ModelUnknown, RefCorrupt: there is no such name, or it cannot be read.
    """
    history = store.refs.history(name.moving) or store.refs.history(name)
    if not history:
        raise ModelUnknown(format_model_name(name))
    releases = store.refs.releases(name)
    manifests = {digest: read_manifest(store.blobs, digest) for digest in {version.digest for version in history}}
    return tuple(_past(history, releases, manifests))


def _past(
    history: tuple[Version, ...], releases: Mapping[str, Digest], manifests: Mapping[Digest, Manifest | None]
) -> Iterator[PastVersion]:
    seen: dict[Digest, int] = {}
    before: Manifest | None = None
    for version in history:
        manifest = manifests[version.digest]
        if version.digest in seen:
            what = f"same as {seen[version.digest]}"
        elif manifest is None:
            what = "cannot be read"
        elif not seen:
            what = "first" if version.number == 1 else "oldest"
        else:
            what = _difference(before, manifest)
        yield PastVersion(
            version=version,
            releases=tuple(sorted(release for release, digest in releases.items() if digest == version.digest)),
            size_bytes=manifest.size_bytes if manifest else None,
            what=what,
            current=version is history[-1],
        )
        seen[version.digest] = version.number
        before = manifest


def _difference(before: Manifest | None, after: Manifest) -> str:
    """Return which kinds of files differ, in the order of what weighs most."""
    if before is None:
        return "unknown"
    mine, theirs = ({(layer.filepath, layer.digest) for layer in each.layers} for each in (before, after))
    changed = {path for path, _ in mine ^ theirs}
    kinds = [
        kind
        for kind in ("weights", "draft", "config", "files", "recipe")
        if any(_kind(path) == kind for path in changed)
    ]
    return "+".join(kinds) or "metadata"


def _kind(filepath: str) -> str:
    if filepath.startswith(_DRAFT):
        return "draft"
    if filepath.endswith(_WEIGHTS):
        return "weights"
    return {"config.json": "config", MODELFILE: "recipe", BUILD_RECORD: ""}.get(filepath, "files")
