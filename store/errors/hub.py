"""Model hubs and the caches of other programs.

StoreError
└── HubError
    ├── RepositoryNameInvalid
    ├── RepositoryUnknown
    ├── RepositoryClosed
    ├── RevisionUnknown
    ├── HubUnreachable
    ├── HubAnswerInvalid
    ├── HubFileCorrupt
    └── CacheModelUnknown
"""

from pathlib import Path

from store.errors.base import StoreError


def _token_hint(given: bool) -> str:
    if given:
        return "the token in HF_TOKEN may need the right to read it"
    return "for a closed one set HF_TOKEN to your token and start the node again: tilenode stop"


class HubError(StoreError):
    """A model could not be had from a model hub or from the cache of another program."""


class RepositoryNameInvalid(HubError):
    """It is not spelled as a repository of the hub is, or as a model in another program's cache is."""

    hint = "write FROM hf:owner/name, FROM hf:owner/name@revision or FROM ollama:name:tag"

    def __init__(self, text: str) -> None:
        super().__init__(f"{text[:120]!r} names no repository: expected hf:owner/name or hf:owner/name@revision")
        self.text = text


class RepositoryUnknown(HubError):
    """The hub has no such repository, or does not say so to whoever asks without a token."""

    def __init__(self, repo: str, endpoint: str, token_given: bool, *, looked_here: bool = False) -> None:
        here = "neither a directory nor a stored model here; " if looked_here else ""
        super().__init__(f"{repo}: {here}there is no such repository on {endpoint}, or it is private")
        self.repo = repo
        self.hint = "check the spelling, upper and lower case count; " + _token_hint(token_given)


class RepositoryClosed(HubError):
    """The repository is there and this token, or nobody without one, may not read it."""

    def __init__(self, repo: str, endpoint: str, token_given: bool) -> None:
        super().__init__(f"{repo}: {endpoint} does not let {'this token' if token_given else 'strangers'} read it")
        self.repo = repo
        self.hint = f"accept its conditions at {endpoint}/{repo}; " + _token_hint(token_given)


class RevisionUnknown(HubError):
    """The repository is there and has no such branch, tag or commit, or no such file at it."""

    def __init__(self, repo: str, revision: str) -> None:
        super().__init__(f"{repo}: it has no revision {revision[:120]!r}")
        self.repo = repo
        self.revision = revision
        self.hint = f"leave the revision out to take the newest one: FROM hf:{repo}"


class HubUnreachable(HubError):
    """Nobody answers, or what answers is no hub that works at the moment."""

    hint = "check the network and run the same command again; what was fetched is kept"

    def __init__(self, endpoint: str, reason: str) -> None:
        super().__init__(f"{endpoint}: {reason[:200]}")
        self.endpoint = endpoint
        self.reason = reason


class HubAnswerInvalid(HubError):
    """What the hub says cannot be, or is more than anybody may send; nothing of it was used."""

    hint = "nothing was stored; if the hub is a mirror, try another one"

    def __init__(self, repo: str, reason: str) -> None:
        super().__init__(f"{repo}: the hub's answer {reason[:300]}")
        self.repo = repo
        self.reason = reason


class HubFileCorrupt(HubError):
    """A file did not arrive, or does not lie in a cache, with the bytes that the hub's listing names."""

    hint = "nothing of it was stored; run the same command again to fetch that file again"

    def __init__(self, repo: str, path: str, place: str) -> None:
        super().__init__(f"{repo}: {path} from {place} is not what the hub lists: its hash differs")
        self.repo = repo
        self.path = path
        self.place = place


class CacheModelUnknown(HubError):
    """Another program's cache does not have this model."""

    def __init__(self, name: str, place: Path, known: tuple[str, ...]) -> None:
        super().__init__(f"{name}: not in {place}")
        self.name = name
        elsewhere = "if they lie elsewhere, set OLLAMA_MODELS and start the node again: tilenode stop"
        self.hint = f"it has: {', '.join(known)}" if known else elsewhere
