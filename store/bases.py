"""What a recipe's names mean: a directory, a stored model, the model in the program, a repository elsewhere."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from protocol.build_record import SourceKind
from protocol.errors import ModelNameInvalid
from protocol.manifest import Layer
from protocol.model_name import format_model_name, parse_model_name
from store.disk import disk_errors
from store.errors import BaseUnknown, FormatUnsupported, ModelUnknown, ReleaseNotPinned, RepositoryNameInvalid
from store.fetched import Remote, Report, Wanted
from store.hub_listing import is_commit, parse_repository
from store.leases import Lease
from store.models import ModelStore, StoredModel
from store.sources import FileAt, Origin, list_directory

_PATH_STARTS: Final = (".", "/", "~")
_GGUF: Final = (".gguf", ".ggml")


class Bases(Protocol):
    """What a recipe may name beyond the store and the disk."""

    @property
    def remotes(self) -> Sequence[Remote]:
        """The places elsewhere that may be asked: model hubs, caches of other programs."""

    def find_embedded(self, base: str) -> Path | None:
        """Return the directory of the model that comes with the program, when `base` is its name."""


@dataclass(frozen=True)
class LocalBases:
    """Directories by name, and nothing elsewhere unless it is given."""

    embedded: Mapping[str, Path] = field(default_factory=dict)
    remotes: Sequence[Remote] = ()

    def find_embedded(self, base: str) -> Path | None:
        """Return the directory under that name."""
        return self.embedded.get(base)


@dataclass(frozen=True)
class Located:
    """Files that a name was resolved to; `place` is named where one of them is missing."""

    origin: Origin
    files: Mapping[str, FileAt]
    place: Path
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Places:
    """Where the names of one build are looked for.

    `known` are names that stand for something already; `release` refuses what may be something else tomorrow.
    `visited` are the directories that were found, by the path that is recorded of them. `fetching` keeps what came from
    elsewhere as long as the build works, also while what a failed build has stored is removed.
    """

    store: ModelStore
    base_dir: Path
    bases: Bases
    lease: Lease
    report: Report
    release: bool = False
    known: Mapping[str, StoredModel | Located] = field(default_factory=dict)
    visited: dict[str, Path] = field(default_factory=dict)
    fetching: list[Lease] = field(default_factory=list)

    def locate(self, name: str, wanted: Wanted = Wanted.MODEL) -> StoredModel | Located:
        """Return the stored model or the files that `name` means; from elsewhere only what is wanted is fetched.

        It is, in this order: a path (beginning with `.`, `/` or `~`; relative ones start at `base_dir`), what can only
        be elsewhere (`hf:…`), a stored name, the model that comes with the program, a directory of that name in
        `base_dir`, what may be elsewhere (`owner/name[@revision]`).

        Raises:
            BaseUnknown: it is nothing of that.
            FormatUnsupported: GGUF.
            ReleaseNotPinned: a release is built, and the repository is not pinned to a commit.
            HubError: see `Remote.fetch_base`.
        """
        if name in self.known:
            return self.known[name]
        if name.startswith(_PATH_STARTS):
            return self._directory(name, self.base_dir / _expand_home(name))
        for remote in self.bases.remotes:
            if remote.owns(name):
                return self._fetch(remote, name, wanted)
        if name.lower().endswith(_GGUF):
            raise FormatUnsupported(name, "GGUF weights are not read here")
        if stored := self._stored(name):
            return stored
        if embedded := self.bases.find_embedded(name):
            return Located(Origin(SourceKind.EMBEDDED, name), list_directory(embedded), embedded)
        if self._is_directory(self.base_dir / name):
            return self._directory(name, self.base_dir / name)
        for remote in self.bases.remotes:
            if remote.may_have(name):
                return self._fetch(remote, name, wanted)
        raise BaseUnknown(name)

    def _stored(self, name: str) -> StoredModel | None:
        try:
            return self.store.resolve(parse_model_name(name))
        except (ModelNameInvalid, ModelUnknown):
            return None

    def _directory(self, name: str, path: Path) -> Located:
        if name.lower().endswith(_GGUF):
            raise FormatUnsupported(name, "GGUF weights are not read here")
        if not self._is_directory(path):
            raise BaseUnknown(name)
        self.visited[shown_path(name)] = path.resolve()
        return Located(Origin(SourceKind.DIRECTORY, shown_path(name)), list_directory(path), path)

    def _is_directory(self, path: Path) -> bool:
        try:
            with disk_errors(path):
                return path.is_dir()
        except ValueError:  # a null byte
            return False

    def _fetch(self, remote: Remote, name: str, wanted: Wanted) -> Located:
        if self.release and not _is_pinned(name):
            raise ReleaseNotPinned(name)
        # A lease of its own: what came over a network is worth keeping when the build fails later.
        self.fetching.append(fetching := self.store.lease())
        fetched = remote.fetch_base(self.store, name, fetching, self.report, wanted)
        return Located(fetched.origin, fetched.files, Path(name), fetched.skipped)


def _is_pinned(name: str) -> bool:
    try:
        return is_commit(parse_repository(name).revision)
    except RepositoryNameInvalid:  # no repository: what else there is, is recorded by its digests
        return True


def shown_path(name: str) -> str:
    """Return how a path is recorded: of one outside the recipe's directory only the last part, because peers see it."""
    return f"./{Path(name).name}" if name.startswith(("/", "~", "..")) else name


def located_layers(store: ModelStore, model: StoredModel, layers: Iterable[Layer]) -> Located:
    """Return layers of a stored model as files, each vouched for by its digest."""
    origin = Origin(SourceKind.MODEL, format_model_name(model.name), model.digest)
    files = {layer.filepath: FileAt(store.layout.blob_path(layer.digest), layer.digest) for layer in layers}
    return Located(origin, files, Path(format_model_name(model.name)))


def _expand_home(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # the home of a user whom this machine does not know
        raise BaseUnknown(name) from None
