"""Named errors of `store`.

The message says what failed, where and what was found; `hint` says what to do about it.

    StoreError
    ├── PeerUnknown
    ├── PeerAmbiguous
    ├── HomeLocked
    ├── DiskFull
    ├── DiskFailed
    ├── BlobMissing
    ├── BlobTooLarge
    ├── LayerCorrupt
    ├── ChunkCorrupt
    ├── PartialBusy
    ├── PartialIncomplete
    ├── RefCorrupt
    ├── ForeignUnknown
    ├── ForeignAmbiguous
    ├── ForeignUnusable
    ├── LeaseCorrupt
    ├── LeaseTooLarge
    ├── VersionTaken
    ├── VersionUnknown
    ├── VersionAmbiguous
    ├── VersionPinned
    ├── VersionCurrent
    ├── HistoryFull
    ├── CollectRefused
    ├── ModelUnknown
    ├── SafetensorsInvalid
    ├── HubError
    │   ├── RepositoryNameInvalid
    │   ├── RepositoryUnknown
    │   ├── RepositoryClosed
    │   ├── RevisionUnknown
    │   ├── HubUnreachable
    │   ├── HubAnswerInvalid
    │   ├── HubFileCorrupt
    │   └── CacheModelUnknown
    └── BuildRefused
        ├── BaseUnknown
        ├── ReleaseNotPinned
        ├── QuantizationRefused
        ├── ConversionFailed
        ├── BuildRecordMissing
        ├── BuildSourceGone
        ├── AdapterUnknown
        ├── AdapterInvalid
        ├── AdapterMismatch
        ├── FormatUnsupported
        ├── SourceMissing
        ├── SourceInvalid
        ├── SourceEscapes
        ├── TensorMissing
        └── WeightsNotFinite
    ├── BundleMissing
    ├── BundleDamaged
    ├── BundleTargetUsed
    ├── BundleBaseMissing
    ├── BundleUntrusted
    ├── BundleOlder
    ├── BundleTakesName
    ├── FileTooLarge
    ├── LogUnproven
    ├── PackRefused
    ├── MoveRefused
    ├── MoveUnfinished
    ├── MoveJournalInvalid
    ├── StoreAway
    ├── LogDamaged
    ├── LogEntryUnknown
    ├── LogExportRefused
    ├── LogRolledBack
    ├── LogForked
    ├── EvidenceDamaged
    ├── DatabaseError
    │   ├── DatabaseKeyInvalid
    │   ├── DatabaseMissing
    │   ├── DatabaseKeyWrong
    │   ├── DatabaseDamaged
    │   ├── DatabaseTooNew
    │   ├── DatabaseFull
    │   └── DatabaseFailed
    ├── ChatUnknown
    ├── ChatAmbiguous
    ├── EntryUnknown
    ├── FeedForked
    ├── FeedBehind
    ├── FeedBroken
    └── DeviceRemoved

Longer than most files: one table of every named error.
"""

from pathlib import Path

from protocol.digest import Digest, short_digest


class StoreError(Exception):
    """Base of every error that `store` raises on purpose."""

    hint: str = ""


class DatabaseError(StoreError):
    """Something is wrong with the encrypted database."""


class DatabaseKeyInvalid(DatabaseError):
    """A database key is exactly 32 bytes."""

    def __init__(self, length: int) -> None:
        super().__init__(f"database key: expected 32 bytes, got {length}")
        self.length = length


class DatabaseMissing(DatabaseError):
    """There is a key for a database, but no database."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"database {path}: no such file")
        self.path = path
        self.hint = f"put {path.name} back from a backup; the key alone cannot bring the chats back"


class DatabaseKeyWrong(DatabaseError):
    """The file does not open under this key; it is left as it is."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"database {path}: not a database under this key")
        self.path = path
        self.hint = (
            "restore the keychain item or vault that belongs to this data directory, "
            f"or move {path.name} away to start without its chats"
        )


class DatabaseDamaged(DatabaseError):
    """The file is empty, or a page of it does not authenticate."""

    def __init__(self, path: Path, found: str) -> None:
        super().__init__(f"database {path}: damaged: {found}")
        self.path = path
        self.hint = f"restore {path.name} from a backup; chats also come back by sync from another linked device"


class DatabaseTooNew(DatabaseError):
    """A newer version of the program has changed the schema."""

    hint = "use the newer tilenode that last opened this data directory"

    def __init__(self, found: int, known: int) -> None:
        super().__init__(f"database schema {found}: this program knows up to {known}")
        self.found = found
        self.known = known


class DatabaseFull(DatabaseError):
    """There is no space left for the database; what was being written was not kept."""

    hint = "free some disk space and try again; nothing that was kept before is lost"

    def __init__(self, path: Path) -> None:
        super().__init__(f"database {path}: disk full")
        self.path = path


class DatabaseFailed(DatabaseError):
    """SQLite reports a failure that has no name of its own here."""

    def __init__(self, path: Path, found: str) -> None:
        super().__init__(f"database {path}: {found}")
        self.path = path
        self.found = found


class ChatUnknown(StoreError):
    """There is no such chat here, or it was deleted."""

    hint = "list the chats with: tilenode chats"

    def __init__(self, text: str) -> None:
        super().__init__(f"chat {text[:40]!r}: not found")
        self.text = text


class ChatAmbiguous(StoreError):
    """More than one chat begins with these characters."""

    hint = "give more characters of the chat's id"

    def __init__(self, text: str, count: int) -> None:
        super().__init__(f"chat {text[:40]!r}: {count} chats begin like this")
        self.text = text
        self.count = count


class EntryUnknown(StoreError):
    """There is no such line to edit or delete."""

    def __init__(self, entry: str) -> None:
        super().__init__(f"chat line {entry[:64]!r}: not found")
        self.entry = entry


class FeedForked(StoreError):
    """This device's own feed continued in two ways: its data directory was copied or restored. Nothing was written."""

    hint = (
        "this identity is in use twice: keep the other copy, and start here with a new data directory (TILENODE_HOME) "
        "and link it again"
    )

    def __init__(self, author: str, sequence: int) -> None:
        super().__init__(f"feed of {author}: two entries follow entry {sequence}")
        self.author = author
        self.sequence = sequence


class FeedBehind(StoreError):
    """Another own device holds more of this device's feed than is here: the database was put back from a backup.

    What was written since comes back by sync; a line written before that would be a second history.
    """

    hint = "fetch it first: tilenode sync; if that brings nothing, unlink the device that says so"

    def __init__(self, author: str, held: int, peer: str, claimed: int) -> None:
        super().__init__(f"feed of {author}: {held} entries are here, {peer} says it holds {claimed}")
        self.author = author
        self.held = held
        self.peer = peer
        self.claimed = claimed


class FeedBroken(StoreError):
    """A feed as kept is not the chain that its author signed: the database was changed by another program."""

    hint = "restore node.db from a backup; chats also come back by sync from another linked device"

    def __init__(self, author: str, sequence: int) -> None:
        super().__init__(f"feed of {author}: the chain breaks after entry {sequence}")
        self.author = author
        self.sequence = sequence


class DeviceRemoved(StoreError):
    """This device was removed from the chats here; nobody's introduction brings it back, only a new link made here."""

    hint = "link it again as an own device: tilenode link enable"

    def __init__(self, did: str, nickname: str) -> None:
        super().__init__(f"device {nickname} ({did}): was removed from the chats here")
        self.did = did
        self.nickname = nickname


class HomeLocked(StoreError):
    """Another node holds this data directory."""

    def __init__(self, home: Path, pid: int | None) -> None:
        super().__init__(f"data directory {home}: in use by {f'process {pid}' if pid else 'another process'}")
        self.home = home
        self.pid = pid
        self.hint = "talk to the running node (tilenode status), stop it (tilenode stop), or set another TILENODE_HOME"


class DiskFull(StoreError):
    """There is no room for what was to be written; nothing that was there before is lost."""

    def __init__(self, place: Path, missing_bytes: int, free_bytes: int) -> None:
        super().__init__(f"disk full at {place}: {missing_bytes} bytes more are needed, {free_bytes} are free")
        self.place = place
        self.missing_bytes = missing_bytes
        self.free_bytes = free_bytes
        self.hint = f"free at least {max(1, missing_bytes >> 20)} MiB there and try again; finished chunks are kept"


class DiskFailed(StoreError):
    """The operating system could not read or write a file of the store."""

    def __init__(self, place: Path, error: OSError) -> None:
        super().__init__(f"{place}: {(error.strerror or type(error).__name__).lower()}")
        self.place = place
        self.errno = error.errno
        self.hint = "check the disk and the rights on that path"


class BlobMissing(StoreError):
    """The store does not hold this blob."""

    def __init__(self, digest: Digest) -> None:
        super().__init__(f"blob {short_digest(digest)}: not in the store")
        self.digest = digest
        self.hint = "fetch what is missing: tilenode verify NAME --repair"


class BlobTooLarge(StoreError):
    """A blob is larger than what the reader can use."""

    def __init__(self, digest: Digest, size: int, max_bytes: int) -> None:
        super().__init__(f"blob {short_digest(digest)}: {size} bytes, at most {max_bytes} are read here")
        self.digest = digest
        self.size = size
        self.max_bytes = max_bytes


class LayerCorrupt(StoreError):
    """A blob's bytes are not the ones that its digest names; it is not served and not loaded."""

    def __init__(self, expected: Digest, actual: Digest | None, where: str = "") -> None:
        found = f"got {short_digest(actual)}" if actual else "its bytes changed"
        super().__init__(f"layer {short_digest(expected)}: {found}{where and f' {where}'}")
        self.expected = expected
        self.actual = actual
        self.hint = "fetch what is damaged, and only that: tilenode verify NAME --repair"


class ChunkCorrupt(StoreError):
    """A chunk's bytes do not have the BLAKE3 hash that the chunk map names."""

    hint = "nothing wrong was kept; try again, or fetch it from somewhere else"

    def __init__(self, blob: Digest, index: int, offset: int) -> None:
        super().__init__(f"layer {short_digest(blob)}: chunk {index} at byte {offset} does not hash to its name")
        self.blob = blob
        self.index = index
        self.offset = offset


class PartialBusy(StoreError):
    """Something else is already fetching this layer."""

    hint = "wait for the other pull to finish"

    def __init__(self, digest: Digest) -> None:
        super().__init__(f"layer {short_digest(digest)}: already being fetched")
        self.digest = digest


class PartialIncomplete(StoreError):
    """A layer was to be finished while chunks of it are missing."""

    def __init__(self, digest: Digest, missing: int) -> None:
        super().__init__(f"layer {short_digest(digest)}: {missing} chunks are missing")
        self.digest = digest
        self.missing = missing


class RefCorrupt(StoreError):
    """The file that says which manifest a name stands for cannot be read."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"ref {path}: {reason}")
        self.path = path
        self.reason = reason
        self.hint = "give the name a model again: tilenode create NAME, or tilenode pull NAME"


class ModelUnknown(StoreError):
    """No model has this name."""

    def __init__(self, name: str, nearest: str | None = None) -> None:
        super().__init__(f"model {name[:100]!r}: not in the store{f'; did you mean {nearest}?' if nearest else ''}")
        self.name = name
        self.nearest = nearest
        self.hint = "see what there is: tilenode list"


class LeaseCorrupt(StoreError):
    """What a running process keeps cannot be read, so nothing may be removed."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"lease {path}: {reason}")
        self.path = path
        self.reason = reason
        self.hint = "end the process whose number the file's name begins with, then try again"


class LeaseTooLarge(StoreError):
    """One process keeps more blobs than its lease file may name."""

    hint = "do fewer pulls and builds at a time"

    def __init__(self, count: int, max_count: int) -> None:
        super().__init__(f"lease: {count} blobs, at most {max_count} are kept by one process")
        self.count = count
        self.max_count = max_count


class VersionTaken(StoreError):
    """A release stands for its manifest for ever; another one needs another release."""

    def __init__(self, name: str, held: Digest, offered: Digest) -> None:
        super().__init__(f"release {name}: is manifest {short_digest(held)}, not {short_digest(offered)}")
        self.name = name
        self.held = held
        self.offered = offered
        self.hint = f"choose another version after the @, or remove this one first: tilenode rm {name}"


class VersionUnknown(StoreError):
    """A name has no such version."""

    def __init__(self, name: str, version: str) -> None:
        super().__init__(f"model {name[:100]!r}: no version {version[:80]!r}")
        self.name = name
        self.version = version
        self.hint = f"see its versions: tilenode history {name}"


class VersionAmbiguous(StoreError):
    """Several versions of a name begin with these characters."""

    def __init__(self, name: str, version: str, count: int) -> None:
        super().__init__(f"model {name[:100]!r}: {count} versions begin with {version[:80]!r}")
        self.name = name
        self.version = version
        self.count = count
        self.hint = f"give more characters, or the number: tilenode history {name}"


class VersionPinned(StoreError):
    """A pinned version is not forgotten."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"model {name}: version {number} is pinned")
        self.name = name
        self.number = number
        self.hint = f"unpin it first: tilenode unpin {name} {number}"


class VersionCurrent(StoreError):
    """What a name stands for now cannot be taken from under it."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"model {name}: version {number} is what the name stands for")
        self.name = name
        self.number = number
        self.hint = f"go back first: tilenode rollback {name}; or remove the whole name: tilenode rm {name}"


class HistoryFull(StoreError):
    """Every version that a name can remember is pinned."""

    def __init__(self, name: str, count: int) -> None:
        super().__init__(f"model {name}: all {count} versions are pinned, there is no room for another one")
        self.name = name
        self.count = count
        self.hint = f"unpin one: tilenode unpin {name} NUMBER"


class CollectRefused(StoreError):
    """What is needed cannot be told, so nothing is removed."""

    def __init__(self, what: str, reason: str, hint: str) -> None:
        super().__init__(f"nothing is removed while {what} cannot be read: {reason}")
        self.what = what
        self.reason = reason
        self.hint = hint


class SafetensorsInvalid(StoreError):
    """A file is no safetensors file, or not all of it."""

    hint = "copy or download the file again; a cut-off file is the usual cause"

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file
        self.reason = reason


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


def _token_hint(given: bool) -> str:
    if given:
        return "the token in HF_TOKEN may need the right to read it"
    return "for a closed one set HF_TOKEN to your token and start the node again: tilenode stop"


class BuildRefused(StoreError):
    """A model cannot be built from what the recipe names; nothing was changed."""


class BaseUnknown(BuildRefused):
    """FROM names nothing that can be found here."""

    def __init__(self, base: str) -> None:
        super().__init__(f"FROM {base[:100]}: neither a directory nor a stored model")
        self.base = base
        self.hint = (
            "FROM takes a directory with config.json and *.safetensors, a stored name (see: tilenode list), "
            "or a repository of a model hub (hf:owner/name)"
        )


class ReleaseNotPinned(BuildRefused):
    """A release never changes, so what it is built from must not change either."""

    def __init__(self, base: str) -> None:
        super().__init__(f"FROM {base[:100]}: a release needs a revision that never moves")
        self.base = base
        self.hint = f"pin it to the 40 hex characters of a commit: FROM {base.partition('@')[0][:100]}@COMMIT"


class QuantizationRefused(BuildRefused):
    """The weights cannot be packed as the recipe asks."""

    def __init__(self, quantization: str, reason: str) -> None:
        super().__init__(f"quantize {quantization}: {reason}")
        self.quantization = quantization
        self.reason = reason
        self.hint = "build it without --quantize, or from weights in 16 or 32 bits"


class ConversionFailed(BuildRefused):
    """The process that converts weights ended before it was done; nothing was kept."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"converting the weights: {reason}")
        self.reason = reason
        self.hint = "run it again; if it ends the same way, build without --quantize"


class BuildRecordMissing(BuildRefused):
    """The model does not say how it was built."""

    hint = "only models that tilenode built can be built again; compare two models with: tilenode diff A B"

    def __init__(self, name: str) -> None:
        super().__init__(f"model {name[:100]}: no build.json in it")
        self.name = name


class BuildSourceGone(BuildRefused):
    """What a model was built from is not here any more."""

    def __init__(self, name: str, source: str, hint: str) -> None:
        super().__init__(f"model {name[:100]}: its source {source[:200]} is not here")
        self.name = name
        self.source = source
        self.hint = hint


class AdapterUnknown(BuildRefused):
    """ADAPTER names nothing that is here."""

    hint = "ADAPTER names a directory with adapters.safetensors and adapter_config.json, or a stored model that has one"

    def __init__(self, adapter: str) -> None:
        super().__init__(f"ADAPTER {adapter[:100]!r}: neither a directory nor a stored model")
        self.adapter = adapter


class AdapterInvalid(BuildRefused):
    """An adapter that is not what mlx-lm writes."""

    hint = "an adapter is a directory with the adapters.safetensors and adapter_config.json that mlx_lm.lora wrote"

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"adapter {file[:100]}: {reason}")
        self.file = file
        self.reason = reason


class AdapterMismatch(BuildRefused):
    """An adapter that was trained for another model."""

    hint = "build FROM the model that the adapter was trained on"

    def __init__(self, tensor: str, reason: str) -> None:
        super().__init__(f"adapter tensor {tensor[:120]!r}: {reason}")
        self.tensor = tensor
        self.reason = reason


class FormatUnsupported(BuildRefused):
    """The weights are in a format that is not read here."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file
        self.reason = reason
        self.hint = "use the model's *.safetensors files, and keep other weight formats out of the directory"


class SourceMissing(BuildRefused):
    """A file that the model needs is not in the directory."""

    def __init__(self, directory: Path, file: str) -> None:
        super().__init__(f"{directory}: {file} is missing")
        self.directory = directory
        self.file = file
        self.hint = "a model directory holds config.json, the tokenizer's files and *.safetensors"


class SourceInvalid(BuildRefused):
    """A file of the model cannot be read or is not what its name says."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file
        self.reason = reason


class SourceEscapes(BuildRefused):
    """A symbolic link in the model's directory leads out of it."""

    hint = "copy the file itself into the directory"

    def __init__(self, file: str) -> None:
        super().__init__(f"{file}: a symbolic link out of the model's directory")
        self.file = file


class TensorMissing(BuildRefused):
    """The weight index names a tensor or file that is not there."""

    hint = "copy or download the whole model again"

    def __init__(self, tensor: str, file: str) -> None:
        super().__init__(f"tensor {tensor[:100]!r}: the index places it in {file[:100]}, where it is not")
        self.tensor = tensor
        self.file = file


class WeightsNotFinite(BuildRefused):
    """A weight is NaN or infinite: the model would answer nonsense in silence."""

    hint = "this file is damaged or was badly converted; download or convert it again"

    def __init__(self, file: str, tensor: str) -> None:
        super().__init__(f"{file}: tensor {tensor[:100]!r} holds NaN or infinity")
        self.file = file
        self.tensor = tensor


class LogDamaged(StoreError):
    """A file of the log is missing or does not hash to what was signed."""

    hint = "restore the log directory from its newest copy; an older copy is noticed and refused"

    def __init__(self, directory: Path, reason: str) -> None:
        super().__init__(f"log {directory}: {reason}")
        self.directory = directory
        self.reason = reason


class LogEntryUnknown(StoreError):
    """The log does not have that many entries."""

    def __init__(self, asked: int, size: int) -> None:
        super().__init__(f"log: entry or size {asked} was asked for, it has {size} entries")
        self.asked = asked
        self.size = size


class LogExportRefused(StoreError):
    """A log is exported into a new or empty directory only."""

    def __init__(self, directory: Path) -> None:
        super().__init__(f"export to {directory}: something is there already")
        self.directory = directory
        self.hint = "name a directory that does not exist yet"


class LogRolledBack(StoreError):
    """The log is older than what this device has signed; signing on would show two logs to the world."""

    hint = "this home was restored or copied from an older state: start a new identity with another TILENODE_HOME"

    def __init__(self, directory: Path, reason: str) -> None:
        super().__init__(f"log {directory}: set back: {reason}")
        self.directory = directory
        self.reason = reason


class LogForked(StoreError):
    """A device has signed two logs that cannot both be true; nothing more is accepted from it."""

    hint = "its device or a copy of its key misbehaves: unlink it, and link again only with a new identity"

    def __init__(self, origin: str, sizes: tuple[int, int]) -> None:
        super().__init__(f"log of {origin}: forked, its checkpoints of {sizes[0]} and {sizes[1]} entries disagree")
        self.origin = origin
        self.sizes = sizes


class EvidenceDamaged(StoreError):
    """What is kept about another device's log cannot be read any more."""

    hint = "restore this file from a backup; without it a change of that log's past would go unnoticed"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class PeerUnknown(StoreError):
    """No linked peer has this nickname or DID."""

    hint = "see who is linked: tilenode link list-peers"

    def __init__(self, text: str) -> None:
        super().__init__(f"no linked peer is called {text[:80]!r}")
        self.text = text


class PeerAmbiguous(StoreError):
    """Several linked peers have this nickname, or a DID that begins so."""

    def __init__(self, text: str, dids: tuple[str, ...]) -> None:
        super().__init__(f"{text[:80]!r} fits {len(dids)} linked peers: {', '.join(dids)}")
        self.text = text
        self.dids = dids
        self.hint = f"name one by its DID: {dids[0]}"


class BundleMissing(StoreError):
    """There is no finished bundle in this directory."""

    def __init__(self, directory: Path, begun: bool) -> None:
        found = "an export that was not finished" if begun else "no bundle (bundle.json and bundle.dsse)"
        super().__init__(f"{directory}: {found}")
        self.directory = directory
        self.hint = (
            f"run the same export again on the other device: tilenode export NAME --to {directory}"
            if begun
            else "name the directory into which the other device exported"
        )


class BundleDamaged(StoreError):
    """A file of a bundle is gone or is not the one that was signed; nothing of it was kept."""

    hint = "copy the bundle again, or export it again on the other device; what was verified is not copied again"

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"bundle, {file}: {reason}")
        self.file = file
        self.reason = reason


class BundleTargetUsed(StoreError):
    """A bundle is written into a new or empty directory, or into one where an export was killed."""

    def __init__(self, directory: Path, found: str) -> None:
        super().__init__(f"{directory}: {found}")
        self.directory = directory
        self.hint = f"name a new directory: --to {directory.with_name(f'{directory.name}-2')}"


class BundleBaseMissing(StoreError):
    """A bundle leaves out what another model has, and that model is not here."""

    def __init__(self, bases: tuple[Digest, ...], missing: int, missing_bytes: int) -> None:
        names = ", ".join(map(short_digest, bases))
        super().__init__(f"bundle: leaves out {missing} blobs ({missing_bytes} bytes) of manifest {names}, not here")
        self.bases = bases
        self.missing_bytes = missing_bytes
        self.hint = "bring that version first, or export without --since on the other device"


class BundleUntrusted(StoreError):
    """A bundle is signed by devices that this one does not know, and nobody agreed to take it from them."""

    def __init__(self, devices: tuple[str, ...]) -> None:
        super().__init__(f"bundle: signed by {', '.join(devices)}, not known here")
        self.devices = devices
        self.hint = f"compare the DID with the other device's screen (tilenode account), then add --trust {devices[0]}"


class BundleOlder(StoreError):
    """A bundle would set a name back to what its publisher signed earlier, and nobody agreed to that."""

    def __init__(self, name: str, here: int, found: int) -> None:
        super().__init__(f"bundle: its {name} is log entry {found} of the publisher, the one here is entry {here}")
        self.name = name
        self.hint = f"keep the newer one, or go back with --yes (then forward again: tilenode rollback {name})"


class BundleTakesName(StoreError):
    """A bundle would let a name stand for its model that stands for another publisher's, and nobody agreed to that."""

    def __init__(self, name: str, publisher: str) -> None:
        super().__init__(f"bundle: its {name} is not by {publisher}, who signed the one here")
        self.name = name
        self.publisher = publisher
        self.hint = f"keep yours, or take the other one with --yes (then back again: tilenode rollback {name})"


class FileTooLarge(StoreError):
    """The file system of the target holds no file of that size; nothing was copied."""

    hint = "format the disk as exFAT or ext4, which have no such limit, or take another disk"

    def __init__(self, place: Path, size: int) -> None:
        super().__init__(f"{place}: its file system takes no file of {size} bytes (FAT32 ends at 4 GiB)")
        self.place = place
        self.size = size


class LogUnproven(StoreError):
    """A bundle shows another state of a log than was seen before, and nothing proves that the two are one log."""

    def __init__(self, origin: str, seen_size: int, found_size: int) -> None:
        super().__init__(
            f"log of {origin}: {seen_size} entries were seen, the bundle shows {found_size}, no proof is at hand"
        )
        self.origin = origin
        self.seen_size = seen_size
        self.found_size = found_size
        self.hint = f"export on that device itself, let it be reachable, or accept it so: --trust {origin}"


class MoveRefused(StoreError):
    """The store cannot be moved to this place; it is where it was."""

    hint = "name a new directory on a local disk: tilenode data set-path DIR"

    def __init__(self, target: Path, reason: str) -> None:
        super().__init__(f"{target}: {reason}")
        self.target = target
        self.reason = reason


class MoveUnfinished(StoreError):
    """An earlier move to another place was not finished."""

    def __init__(self, source: Path, target: Path) -> None:
        super().__init__(f"the move of the store from {source} to {target} is not finished")
        self.source = source
        self.target = target
        self.hint = f"finish it: tilenode data set-path {target}; or give it up: tilenode data set-path {source}"


class MoveJournalInvalid(StoreError):
    """The file that says where a killed move goes on cannot be read."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.hint = f"move {path} away; the store is then where settings.json says, or {path.parent / 'store'}"


class StoreAway(StoreError):
    """The directory to which the store was moved is not there: its disk is not mounted."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"store {path}: not there, nothing is made anew in its place")
        self.path = path
        self.hint = "connect or mount its disk and try again"


class PackRefused(StoreError):
    """The directory for a packed model is not one that may be filled."""

    hint = "name a new or empty directory: tilenode pack NAME --to DIR"

    def __init__(self, directory: Path, reason: str) -> None:
        super().__init__(f"directory {directory}: {reason}")
        self.directory = directory
        self.reason = reason


class ForeignUnknown(StoreError):
    """No other program has put a model of this reference or digest into the store."""

    hint = "see what other programs put here: tilenode list"

    def __init__(self, text: str) -> None:
        super().__init__(f"nothing that another program put here is called {text[:80]!r}")
        self.text = text


class ForeignAmbiguous(StoreError):
    """Several models that other programs put into the store are called so."""

    hint = "name it by more of its digest, as shown by: tilenode list"

    def __init__(self, text: str, count: int) -> None:
        super().__init__(f"{count} models that other programs put here are called {text[:80]!r}")
        self.text = text
        self.count = count


class ForeignUnusable(StoreError):
    """What another program put into the store is no whole model."""

    hint = "copy it here again, whole; or fetch it: tilenode pull NAME --from PEER"

    def __init__(self, digest: Digest, reason: str) -> None:
        super().__init__(f"manifest {short_digest(digest)}: {reason}")
        self.digest = digest
        self.reason = reason
