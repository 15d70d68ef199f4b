"""Named errors of `protocol`.

The message says what failed, where and what was found; `hint` says what to do about it.

    ProtocolError
    ├── TicketError
    │   ├── TicketInvalid
    │   ├── TicketUnknown
    │   ├── TicketExpired
    │   ├── TicketUsed
    │   ├── TicketBurned
    │   └── TicketBusy
    ├── LinkError
    │   ├── ProofWrong
    │   ├── LinkRejected
    │   ├── LinkRefused
    │   └── LinkMessageInvalid
    ├── AddressInvalid
    ├── CodecInvalid
    ├── FieldInvalid
    ├── FrameTooLarge
    ├── FrameTruncated
    ├── NotEncodable
    ├── FeedError
    │   ├── EntryInvalid
    │   ├── EntrySignatureInvalid
    │   └── ContentTooLarge
    ├── SyncViolation
    ├── SyncMisused
    ├── BuildRecordInvalid
    ├── DigestInvalid
    ├── BundleInvalid
    ├── DeltaInvalid
    ├── PrefixFileInvalid
    ├── RouteInvalid
    ├── RangeUnsatisfiable
    ├── ModelNameInvalid
    ├── MirInvalid
    ├── RecipeInvalid
    │   ├── ModelfileInvalid
    │   └── ModelSpecInvalid
    │       └── RevisionUnpinned
    ├── LogError
    │   ├── EntryTooLarge
    │   ├── TileInvalid
    │   ├── CheckpointInvalid
    │   ├── InclusionInvalid
    │   ├── ConsistencyInvalid
    │   └── EvidenceInvalid
    └── ProvenanceInvalid
        ├── EnvelopeInvalid
        ├── StatementInvalid
        └── LogEntryInvalid

Longer than most files: one table of every named error.
"""


class ProtocolError(Exception):
    """Base of every error that `protocol` raises on purpose."""

    hint: str = ""


class DigestInvalid(ProtocolError):
    """A digest is 64 lower-case hex characters, with or without `sha256:` before them."""

    def __init__(self, text: str) -> None:
        super().__init__(f"digest {text[:80]!r}: expected 64 lower-case hex characters")
        self.text = text


class ModelNameInvalid(ProtocolError):
    """A model name is `[host[:port]/][namespace/]name[:tag][@version]`: lower-case letters, digits, `.`, `_`, `-`."""

    hint = "a model name looks like: demo, demo:v2 or ann/demo:v2"

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f"model name {text[:80]!r}: {reason}")
        self.text = text
        self.reason = reason


class BuildRecordInvalid(ProtocolError):
    """A model's `build.json` is not what a build writes."""

    hint = "the model is not accepted; have its publisher create it again"

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"build.json, {where}: {reason}")
        self.where = where
        self.reason = reason


class OciNameInvalid(ProtocolError):
    """A repository or a tag that no registry takes."""

    def __init__(self, what: str, text: str, reason: str) -> None:
        super().__init__(f"{what} {text[:80]!r}: {reason}")
        self.what = what
        self.text = text
        self.reason = reason


class ReferenceInvalid(ProtocolError):
    """A reference to a model in a registry is `HOST[:PORT]/REPOSITORY[:TAG|@sha256:…]`."""

    hint = "a registry reference looks like: registry.example/ann/demo:v2 or localhost:5000/demo"

    def __init__(self, text: str, reason: str, hint: str = "") -> None:
        super().__init__(f"registry reference {text[:80]!r}: {reason}")
        self.text = text
        self.reason = reason
        self.hint = hint or self.hint


class RegistryAnswerInvalid(ProtocolError):
    """A registry said something that the distribution protocol does not know; `what` is the header or document."""

    hint = "nothing was accepted; check the address, or tell whoever runs the registry"

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"registry answer, {what}: {reason}")
        self.what = what
        self.reason = reason


class ArtifactInvalid(ProtocolError):
    """A referrer or an index that cannot be read; `where` is the path inside it."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.where = where
        self.reason = reason


class FrameTooLarge(ProtocolError):
    """A frame's length is checked against the receiver's cap before anything is allocated."""

    def __init__(self, size_bytes: int, max_bytes: int) -> None:
        super().__init__(f"frame of {size_bytes} bytes, at most {max_bytes} are allowed")
        self.size_bytes = size_bytes
        self.max_bytes = max_bytes


class FrameTruncated(ProtocolError):
    """The stream ended in the middle of a frame."""

    def __init__(self, found_bytes: int) -> None:
        super().__init__(f"the stream ended {found_bytes} bytes into a frame")
        self.found_bytes = found_bytes


class NotEncodable(ProtocolError):
    """A value that canonical msgpack cannot carry: our own bug, never the other side's fault."""

    def __init__(self, what: str) -> None:
        super().__init__(f"canonical msgpack cannot carry {what}")
        self.what = what


class CodecInvalid(ProtocolError):
    """Bytes that are not the canonical msgpack encoding of a value."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"msgpack at byte {offset}: {reason}")
        self.offset = offset
        self.reason = reason


class FieldInvalid(ProtocolError):
    """A field of a decoded message is missing, unknown, of another type or out of its bounds."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class FeedError(ProtocolError):
    """Something is wrong with an entry of a feed."""


class EntryInvalid(FeedError):
    """Bytes that are no entry of a feed: too large, not canonical, or a field out of its bounds."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"feed entry: {reason}")
        self.reason = reason


class EntrySignatureInvalid(FeedError):
    """An entry that its author did not sign."""

    def __init__(self, author: str, sequence: int) -> None:
        super().__init__(f"feed entry {sequence} of {author}: the signature is not its author's")
        self.author = author
        self.sequence = sequence


class ContentTooLarge(FeedError):
    """A title or a message is over its cap; nothing was written."""

    def __init__(self, what: str, size_bytes: int, max_bytes: int) -> None:
        super().__init__(f"{what} of {size_bytes} bytes, at most {max_bytes} are allowed")
        self.size_bytes = size_bytes
        self.max_bytes = max_bytes
        self.hint = f"shorten the {what}, or send it in parts of at most {max_bytes} bytes"


class LogError(ProtocolError):
    """Base of what does not fit in a transparency log: entries, tiles, checkpoints, proofs, evidence."""


class EntryTooLarge(LogError):
    """A log entry has at most 65,535 bytes: its length is a 16-bit number in the entry bundle."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"log entry of {size_bytes} bytes, at most 65535 are allowed")
        self.size_bytes = size_bytes


class TileInvalid(LogError):
    """A tile or an entry bundle does not hold what its width says."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class CheckpointInvalid(LogError):
    """A checkpoint is a signed note of three lines: origin, size and root."""

    def __init__(self, origin: str, reason: str) -> None:
        super().__init__(f"checkpoint of {origin[:80]}: {reason}")
        self.origin = origin
        self.reason = reason


class InclusionInvalid(LogError):
    """An inclusion proof does not lead from the entry to the checkpoint's root."""

    def __init__(self, index: int, size: int, reason: str) -> None:
        super().__init__(f"inclusion of entry {index} in a log of {size} entries: {reason}")
        self.index = index
        self.size = size
        self.reason = reason


class ConsistencyInvalid(LogError):
    """A consistency proof does not lead from the old root to the new one; that alone proves nothing about the log."""

    def __init__(self, old: int, new: int, reason: str) -> None:
        super().__init__(f"consistency of a log from {old} to {new} entries: {reason}")
        self.old = old
        self.new = new
        self.reason = reason


class EvidenceInvalid(LogError):
    """What is shown as evidence of a forked log does not prove one."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"evidence of a forked log: {reason}")
        self.reason = reason


class ProvenanceInvalid(ProtocolError):
    """A model's provenance does not prove who built, signed and logged it."""

    hint = "the model was not accepted; ask its publisher to create it again"

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"provenance, {where}: {reason}")
        self.where = where
        self.reason = reason


class BundleInvalid(ProtocolError):
    """A bundle carried by hand is not what its exporting device signed, or not of the known form."""

    hint = "nothing was taken from it; export it again on the other device: tilenode export NAME --to DIR"

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"bundle, {where}: {reason}")
        self.where = where
        self.reason = reason


class EnvelopeInvalid(ProvenanceInvalid):
    """A DSSE envelope is canonical JSON with one payload and one signature by the expected device."""


class StatementInvalid(ProvenanceInvalid):
    """An in-toto statement is canonical JSON of the expected predicate, over the expected subjects."""


class LogEntryInvalid(ProvenanceInvalid):
    """A log entry is the canonical DAG-CBOR commitment to one envelope."""


class JsonInvalid(ProtocolError):
    """A JSON document that is too large, not UTF-8, not JSON, or says one thing twice."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what}: {reason}")
        self.what = what
        self.reason = reason


class LayerPathInvalid(ProtocolError):
    """A file name inside a model that could leave its directory, hide another file or exist on no other system."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"file name {path[:80]!r}: {reason}")
        self.path = path
        self.reason = reason


class ManifestInvalid(ProtocolError):
    """A document that is no ModelPack manifest; `where` is the path of the field that says so."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.where = where
        self.reason = reason


class ChunkMapInvalid(ProtocolError):
    """Bytes that are no chunk map of the blob in question."""

    hint = "tell whoever made the model: its files and its chunk maps do not belong together"

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"chunk map, {where}: {reason}")
        self.where = where
        self.reason = reason


class DeltaInvalid(ProtocolError):
    """Bytes that are no delta between the two blobs in question; nothing was made from them."""

    hint = "nothing was kept; the whole file can still be fetched"

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"delta, {where}: {reason}")
        self.where = where
        self.reason = reason


class PrefixFileInvalid(ProtocolError):
    """A file of kept prefixes that is damaged, of another version, or sealed with another key; it is never used."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"prefix file, {where}: {reason}")
        self.where = where
        self.reason = reason


class RecipeInvalid(ProtocolError):
    """A recipe that does not parse: where, what was expected there, what stood there, the nearest known word.

    `line` and `column` count from 1, `column` in characters. `remedy` is the hint where one is known.
    """

    file = "recipe"
    example = ""

    def __init__(
        self, line: int, column: int, expected: str, found: str, nearest: str | None = None, remedy: str = ""
    ) -> None:
        suggestion = f"; did you mean {nearest}?" if nearest else ""
        super().__init__(f"{self.file} line {line}, column {column}: expected {expected}, found {found}{suggestion}")
        self.line = line
        self.column = column
        self.expected = expected
        self.found = found
        self.nearest = nearest
        self.hint = remedy or (f"write {nearest} there" if nearest else self.example)


class ModelfileInvalid(RecipeInvalid):
    """A Modelfile that does not parse."""

    file = "Modelfile"
    example = "a Modelfile looks like: FROM demo, then PARAMETER or SYSTEM lines"


class ModelSpecInvalid(RecipeInvalid):
    """A ModelSpec.yaml that does not parse."""

    file = "ModelSpec.yaml"
    example = "a ModelSpec.yaml looks like: name: NAME, then base: with hf_repo: and revision:, or with path:"


class RevisionUnpinned(ModelSpecInvalid):
    """A release would be built from whatever the model hub calls by that revision on the day."""

    example = "write the commit of the model repository as revision: 40 hex characters; or leave version: out"


class MirInvalid(ProtocolError):
    """A MIR name or pattern: which part of it, what was expected there, what stood there, the nearest known word.

    `offset` is where in the text the part begins, in characters.
    """

    def __init__(self, text: str, offset: int, expected: str, found: str, nearest: str | None = None) -> None:
        suggestion = f"; did you mean {nearest}?" if nearest else ""
        super().__init__(f"MIR name {text[:80]!r}: expected {expected}, found {found}{suggestion}")
        self.text = text
        self.offset = offset
        self.expected = expected
        self.found = found
        self.nearest = nearest
        self.hint = (
            f"write {nearest} there" if nearest else "a MIR name looks like: mir:model.transformer.clip-l:flux-1"
        )


class AddressInvalid(ProtocolError):
    """A node's address is a literal IP address and a TCP port, as a multiaddr."""

    hint = "an address looks like: /ip4/192.168.1.20/tcp/4001"

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f"address {text[:80]!r}: {reason}")
        self.text = text
        self.reason = reason


class SyncViolation(ProtocolError):
    """The other device broke the rules of the sync protocol; the round ends, what was stored stays."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"sync: {reason}")
        self.reason = reason


class SyncMisused(ProtocolError):
    """This program used the sync machine out of order: our own bug, never the other side's fault."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"sync: {reason}")
        self.reason = reason


class TicketError(ProtocolError):
    """A ticket that does not link; `code` tells the other side why."""

    hint = "show a new ticket on the other device: tilenode link enable"
    code = "bad-request"


class TicketInvalid(TicketError):
    """The text is no ticket, or it was changed on the way."""

    hint = "copy the whole ticket again, or show a new one: tilenode link enable"
    code = "ticket-invalid"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the ticket is not valid: {reason}")
        self.reason = reason


class TicketUnknown(TicketError):
    """The device that should know the ticket does not: it was withdrawn, or the node was restarted since."""

    code = "ticket-unknown"

    def __init__(self) -> None:
        super().__init__("the ticket is not known on the device that showed it: it was withdrawn")


class TicketExpired(TicketError):
    """The ticket's time is over."""

    code = "ticket-expired"

    def __init__(self, ago_s: int | None = None) -> None:
        super().__init__("the ticket has expired" if ago_s is None else f"the ticket expired {ago_s} s ago")
        self.ago_s = ago_s


class TicketUsed(TicketError):
    """A ticket works once."""

    code = "ticket-used"

    def __init__(self) -> None:
        super().__init__("the ticket was used before")


class TicketBurned(TicketError):
    """Too many wrong proofs were shown for the ticket."""

    code = "ticket-burned"

    def __init__(self) -> None:
        super().__init__("the ticket was burned by wrong proofs: somebody tried to use it")


class TicketBusy(TicketError):
    """Another device is just using the ticket."""

    hint = "wait until the other attempt is over"
    code = "ticket-busy"

    def __init__(self) -> None:
        super().__init__("another attempt with this ticket is under way")


class LinkError(ProtocolError):
    """A link that did not come about; `code` tells the other side why."""

    hint = "begin again on both devices: tilenode link enable"
    code = "bad-request"


class ProofWrong(LinkError):
    """The other side does not know the ticket's secret."""

    hint = "somebody may be in between; show a new ticket: tilenode link enable"
    code = "proof-wrong"

    def __init__(self, who: str) -> None:
        super().__init__(f"{who} could not prove that it knows the ticket")
        self.who = who


class LinkRejected(LinkError):
    """One of the two people said no."""

    code = "rejected"

    def __init__(self, who: str) -> None:
        super().__init__(f"the link was rejected on {who}")
        self.who = who


class LinkRefused(LinkError):
    """The other side refused with a code that has no error of its own here."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(f"the other device refused: {code} ({why})" if why else f"the other device refused: {code}")
        self.code = code
        self.why = why


class LinkMessageInvalid(LinkError):
    """A message that the link protocol does not allow here."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"link message: {reason}")
        self.reason = reason


class RouteInvalid(ProtocolError):
    """A request to the registry that no route of it answers; `code` is the registry's own word for why (specs/0024)."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class RangeUnsatisfiable(ProtocolError):
    """A range of bytes begins behind the end of a blob of `size` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the range begins behind the end, the blob has {size} bytes")
        self.size = size
