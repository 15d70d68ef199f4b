"""What FROM can name beyond this machine, and its files once they are stored here."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Protocol

from store.leases import Lease
from store.models import ModelStore
from store.sources import FileAt, Origin

Report = Callable[[dict[str, object]], None]


class Wanted(StrEnum):
    """What a recipe wants of a place elsewhere: nobody fetches weights for their tokenizer."""

    MODEL = "model"
    TOKENIZER = "tokenizer"
    ADAPTER = "adapter"


@dataclass(frozen=True)
class Moved:
    """How the bytes of a model came: over the network, as links, as copies, or not at all because they were stored."""

    downloaded_bytes: int = 0
    linked_bytes: int = 0
    copied_bytes: int = 0
    stored_bytes: int = 0

    def __add__(self, other: "Moved") -> "Moved":
        return Moved(
            self.downloaded_bytes + other.downloaded_bytes,
            self.linked_bytes + other.linked_bytes,
            self.copied_bytes + other.copied_bytes,
            self.stored_bytes + other.stored_bytes,
        )


def fetched_event(origin: Origin, moved: Moved, cache: str = "") -> dict[str, object]:
    """Return what `report` is told last: that all files are here, and how their bytes came.

    `cache` says where those were that were linked or copied.
    """
    return {
        "status": "fetched",
        "source": origin.name,
        "revision": origin.revision,
        "cache": cache,
        **asdict(moved),
    }


@dataclass(frozen=True)
class Fetched:
    """Files for `store.sources.read_files`, every one a blob of this store by now: verified, kept by the lease.

    `origin` is how they are recorded: `hf:owner/name` with its 40-hex commit and that commit's time. `skipped` are the
    names that were left where they are.
    """

    files: Mapping[str, FileAt]
    origin: Origin
    moved: Moved
    skipped: tuple[str, ...] = ()


class Remote(Protocol):
    """A place elsewhere: a model hub, the cache of another program."""

    def owns(self, base: str) -> bool:
        """Return whether `base` is spelled so that it can only mean something there (`hf:…`, `ollama:…`).

        It is asked before stored names and directories.
        """

    def may_have(self, base: str) -> bool:
        """Return whether `base` may mean something there when nothing here has that name (`owner/name[@revision]`)."""

    def fetch_base(
        self, store: ModelStore, base: str, lease: Lease, report: Report, wanted: Wanted = Wanted.MODEL
    ) -> Fetched:
        """Return the files of `base` that are wanted; `lease` keeps their blobs from before they are stored.

        `report` gets {status, …} and while bytes move {status, source, completed, total, rate}; it may raise to stop,
        and what came by then is kept for the next time.

        Raises:
            HubError: there is no such repository, revision or model, or it may not be read, or nobody answers.
            FormatUnsupported: nothing in it can be read here, with the reason.
            DiskFull, DiskFailed: it does not fit, which is found before its first byte.
            LayerCorrupt: the bytes are not those that were promised; nothing was stored of that file.
        """
