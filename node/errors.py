"""Named errors of `node`.

The message says what failed, where and what was found; `hint` says what to do about it.

    NodeError
    ├── HomeUnusable
    ├── VariableInvalid
    ├── SettingsInvalid
    ├── ApiAddressInvalid
    ├── PortInUse
    ├── IdentityMissing
    ├── IdentityExists
    ├── PassphraseUnreadable
    ├── TerminalNeeded
    ├── UsageInvalid
    ├── RecipeNameMissing
    ├── BuildDiffers
    ├── NodeNotRunning
    ├── NodeStartFailed
    ├── NodeStopFailed
    ├── NodeStopping
    ├── ControlRequestInvalid
    ├── ControlFailed
    ├── Interrupted
    ├── DemoStepFailed
    ├── ListenFailed
    ├── PeerUnreachable
    ├── LinkRequestUnknown
    ├── PeerNotLinked
    ├── RemoteRefused
    ├── StreamClosed
    ├── SyncStalled
    ├── OfferRefused
    │   ├── OfferMalformed
    │   └── OfferUnproven
    ├── OriginStopped
    ├── LogBehind
    ├── TooManyOrigins
    ├── ModelNotOffered
    ├── OfferAmbiguous
    ├── BlobUnavailable
    │   ├── BlobCorrupt
    │   └── ChunksCorrupt
    ├── FetchStalled
    ├── RepairIncomplete
    ├── LayerTooLarge
    └── PeerListingInvalid

Longer than most files: one table of every named error.
"""

from collections.abc import Sequence
from pathlib import Path

from identity.did import DeviceId


class NodeError(Exception):
    """Base of every error that `node` raises on purpose."""

    hint: str = ""


class HomeUnusable(NodeError):
    """The data root cannot be used."""

    hint = "name another place: TILENODE_HOME=DIR tilenode …"

    def __init__(self, directory: Path, reason: str) -> None:
        super().__init__(f"data directory {directory}: {reason}")
        self.directory = directory


class VariableInvalid(NodeError):
    """An environment variable has a value that means nothing here."""

    hint = "correct it, or unset it for the default"

    def __init__(self, name: str, value: str, expected: str) -> None:
        super().__init__(f"{name}={value[:40]!r}: expected {expected}")
        self.name = name
        self.expected = expected


class SettingsInvalid(NodeError):
    """The settings file is not what this version writes."""

    hint = "move settings.json away; nickname and ports are asked again, no key is in it"

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path


class ApiAddressInvalid(NodeError):
    """The API serves HOST:PORT on loopback only."""

    hint = "use for example --api 127.0.0.1:11435, or port 0 for any free port"

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f"API address {text!r}: {reason}")


class PortInUse(NodeError):
    """Another program holds the port."""

    def __init__(self, what: str, address: str) -> None:
        super().__init__(f"{what} {address}: the port is in use by another program")
        self.address = address
        flag = "--api 127.0.0.1:0" if what == "API" else "--listen /ip4/0.0.0.0/tcp/0"
        self.hint = f"take any free port: tilenode serve {flag}"
        if what == "registry":
            self.hint = "leave --port away to take any free one"


class IdentityMissing(NodeError):
    """This home has no identity yet."""

    hint = "make one: tilenode account create --nickname NAME"

    def __init__(self, home: Path) -> None:
        super().__init__(f"no identity in {home}")


class IdentityExists(NodeError):
    """An identity is made once per home."""

    hint = "rename it: tilenode account set-nickname NAME"

    def __init__(self, did: str) -> None:
        super().__init__(f"this home already has the identity {did}")


class PassphraseUnreadable(NodeError):
    """The passphrase's file or descriptor gives no passphrase."""

    hint = "write it to a file that only you can read (chmod 600) and set TILENODE_PASSPHRASE_FILE to its path"

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"passphrase from {source}: {reason}")


class TerminalNeeded(NodeError):
    """Something would have to be asked, and there is no terminal to ask on."""

    def __init__(self, question: str, hint: str) -> None:
        super().__init__(f"{question}: there is no terminal to ask on")
        self.hint = hint


class UsageInvalid(NodeError):
    """The command line asks for something that does not exist or does not fit together."""

    def __init__(self, message: str, hint: str = "see: tilenode --help") -> None:
        super().__init__(message)
        self.hint = hint


class RecipeNameMissing(NodeError):
    """A Modelfile does not say how the model is called."""

    hint = "give the name: tilenode create NAME -f Modelfile"

    def __init__(self) -> None:
        super().__init__("the recipe names no model")


class BuildDiffers(NodeError):
    """A model that was built again came out different."""

    def __init__(self, name: str, expected: str, found: str, count: int) -> None:
        lines = f"{count} {'difference' if count == 1 else 'differences'}"
        super().__init__(f"{name}: manifest {found[:12]} came out of the rebuild, not {expected[:12]}; {lines}")
        self.name = name
        self.hint = "the model itself is unchanged; to keep what was built now, run: tilenode create NAME -f FILE"


class NodeNotRunning(NodeError):
    """No node answers on this home's control socket."""

    hint = "start it: tilenode serve"

    def __init__(self, home: Path) -> None:
        super().__init__(f"no node is running on {home}")


class NodeStartFailed(NodeError):
    """The node that was started in the background ended before it was ready."""

    hint = "see what it says in the foreground: tilenode serve"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the node did not start: {reason}")


class NodeStopFailed(NodeError):
    """The node was told to stop and is still there."""

    def __init__(self, pid: int, waited_s: float) -> None:
        super().__init__(f"the node (process {pid}) is still running {waited_s:.0f} s after it was told to stop")
        self.hint = f"end it: kill -9 {pid} (the next start repairs what is left)"


class NodeStopping(NodeError):
    """The node was told to stop while this was under way."""

    hint = "start it again: tilenode serve"

    def __init__(self) -> None:
        super().__init__("the node is stopping")


class ControlRequestInvalid(NodeError):
    """A request on the control socket is not one this version serves."""

    hint = "stop the node and start it again, so that both sides have one version: tilenode stop"

    def __init__(self, reason: str) -> None:
        super().__init__(f"control request: {reason}")


class ControlFailed(NodeError):
    """The node answered with an error; kind, message, hint and exit code are its own."""

    def __init__(self, kind: str, message: str, hint: str, exit_code: int) -> None:
        super().__init__(message)
        self.kind = kind
        self.hint = hint
        self.exit_code = exit_code


class Interrupted(NodeError):
    """The person pressed Ctrl-C."""

    def __init__(self) -> None:
        super().__init__("interrupted")


class DemoStepFailed(NodeError):
    """One step of the demo was not verified."""

    def __init__(self, step: str, reason: str, kept: Path) -> None:
        super().__init__(f"demo step {step!r}: {reason}")
        self.step = step
        self.hint = f"the two nodes' log files are kept in {kept}"


class ListenFailed(NodeError):
    """An address to listen on that this machine cannot listen on."""

    hint = "listen on an address of this machine: tilenode serve --listen /ip4/127.0.0.1/tcp/0"

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"cannot listen on {address}: {reason}")
        self.address = address


class PeerUnreachable(NodeError):
    """No address of the peer answered with the peer's own key."""

    hint = "check that the other device is on and runs: tilenode serve"

    def __init__(self, peer: str, reason: str) -> None:
        super().__init__(f"cannot reach {peer}: {reason}")
        self.peer = peer
        self.reason = reason


class PeerNotLinked(NodeError):
    """This device does not link the peer, or not for what was asked."""

    hint = "see who is linked: tilenode link list-peers"

    def __init__(self, peer: str) -> None:
        super().__init__(f"{peer} is not linked with this device for this")
        self.peer = peer


class RemoteRefused(NodeError):
    """The other node said no, with one of the codes of specs/0010."""

    def __init__(self, peer: str, code: str, why: str) -> None:
        super().__init__(f"{peer} refused: {code} ({why})" if why else f"{peer} refused: {code}")
        self.peer = peer
        self.code = code
        self.why = why
        self.hint = "link the two devices again: tilenode link enable" if code.startswith("not-") else ""


class StreamClosed(NodeError):
    """The stream or its connection ended; what was on the way may be lost."""

    hint = "the node reconnects by itself; see the path with: tilenode status"

    def __init__(self, peer: str, reason: str = "the stream ended") -> None:
        super().__init__(f"{peer}: {reason}")
        self.peer = peer
        self.reason = reason


class SyncStalled(NodeError):
    """A sync round made no progress; what was stored stays, and the next contact goes on from there."""

    def __init__(self, peer: str, waited_s: float) -> None:
        super().__init__(f"sync with {peer}: no progress for {waited_s:.0f} s")
        self.peer = peer
        self.hint = "try again: tilenode sync"


class OfferRefused(NodeError):
    """A peer offers a model whose provenance does not hold; it is not listed and not fetched."""

    hint = "nothing was accepted; the publisher has to publish the model again"

    def __init__(self, peer: str, manifest: str, reason: str) -> None:
        super().__init__(f"offer of {manifest[:12]} by {peer}: {reason}")
        self.peer = peer
        self.manifest = manifest
        self.reason = reason


class OfferMalformed(OfferRefused):
    """The manifest that a peer offers has a bad digest, path or shape, whoever signed it."""


class OfferUnproven(OfferRefused):
    """A signature or a log proof of the model that a peer offers does not verify."""


class OriginStopped(NodeError):
    """A device signed two different logs; nothing it publishes is accepted any more, and it is not served."""

    hint = "the evidence is kept; unlink it (tilenode link disable PEER) and link again only with a new identity"

    def __init__(self, origin: DeviceId) -> None:
        super().__init__(f"{origin} is stopped: it signed two different logs")
        self.origin = origin


class LogBehind(NodeError):
    """A device shows an older state of its log than it showed before and cannot prove that the two belong together."""

    hint = "that device was probably restored from a backup: it needs a new identity"

    def __init__(self, origin: str, seen_size: int, found_size: int) -> None:
        super().__init__(f"log of {origin}: {found_size} entries, {seen_size} were seen before")
        self.origin = origin
        self.seen_size = seen_size
        self.found_size = found_size


class TooManyOrigins(NodeError):
    """Linked peers pass on models of more unlinked publishers than this node keeps account of."""

    hint = "link the publisher itself: tilenode link enable"

    def __init__(self, origin: str, limit: int) -> None:
        super().__init__(f"log of {origin}: logs of {limit} devices that are not linked are kept already")
        self.origin = origin
        self.limit = limit


class ModelNotOffered(NodeError):
    """No linked device that was asked offers a model of this name."""

    hint = "see what is offered: tilenode list --peers"

    def __init__(self, name: str, who: str) -> None:
        super().__init__(f"model {name[:100]!r}: not offered by {who}")
        self.name = name


class OfferAmbiguous(NodeError):
    """Several publishers offer a model under this name."""

    hint = "say from whom: tilenode pull NAME --from PEER"

    def __init__(self, name: str, publishers: tuple[str, ...]) -> None:
        super().__init__(f"model {name[:100]!r}: offered by several publishers: {', '.join(publishers)}")
        self.name = name
        self.publishers = publishers


class BlobUnavailable(NodeError):
    """No linked device delivered this part of a model as its digest says."""

    hint = "link a device that has the model, or have the publisher verify it: tilenode verify NAME"

    def __init__(self, digest: str, reason: str) -> None:
        super().__init__(f"blob {digest[:12]}: {reason}")
        self.digest = digest
        self.reason = reason


class BlobCorrupt(BlobUnavailable):
    """The devices that were asked sent bytes that do not hash to the blob's digest."""


class ChunksCorrupt(BlobUnavailable):
    """The devices that were asked sent chunks that do not hash to their records in the chunk map."""


class FetchStalled(NodeError):
    """Nobody who has what is missing could be reached for a while; what arrived is kept."""

    hint = "run the same pull again once the other device is back; it goes on where it stopped"

    def __init__(self, digest: str, missing_bytes: int, waited_s: float) -> None:
        super().__init__(f"layer {digest[:12]}: {missing_bytes} bytes missing, no source for {waited_s:.0f} s")
        self.digest = digest
        self.missing_bytes = missing_bytes
        self.waited_s = waited_s


class RepairIncomplete(NodeError):
    """Nobody who could be asked has what a damaged model lacks; what was found is kept for the next attempt."""

    def __init__(
        self, name: str, what: str, digest: str, missing_bytes: int, away: Sequence[str], asked: Sequence[str]
    ) -> None:
        missing = f"{missing_bytes} bytes are missing" if missing_bytes else "it is missing"
        if away:
            who = f"{', '.join(away)} {'has' if len(away) == 1 else 'have'} the model and cannot be reached"
        elif asked:
            who = f"{', '.join(asked)} {'does' if len(asked) == 1 else 'do'} not have it"
        else:
            who = "no linked device that has it is known"
        super().__init__(f"{name}, {what} ({digest[:12]}): {missing}; {who}")
        self.name = name
        self.what = what
        self.digest = digest
        self.missing_bytes = missing_bytes
        self.away = tuple(away)
        self.hint = (
            f"when a device that has it is there, run again: tilenode verify {name} --repair"
            if away or asked
            else f"link a device that has it, or fetch or create the model again: tilenode pull {name}"
        )


class LayerTooLarge(NodeError):
    """A manifest names a layer without a chunk map that is larger than what is fetched in one piece."""

    hint = "have the publisher build the model again with this program, which maps large layers"

    def __init__(self, digest: str, size: int, max_bytes: int) -> None:
        super().__init__(f"layer {digest[:12]}: {size} bytes without a chunk map, at most {max_bytes} are fetched")
        self.digest = digest
        self.size = size
        self.max_bytes = max_bytes


class LinkRequestUnknown(NodeError):
    """No request with this id waits for an answer."""

    hint = "see the requests that wait: tilenode link list-peers"

    def __init__(self, request_id: str) -> None:
        super().__init__(f"no link request {request_id[:20]!r} waits for an answer")
        self.request_id = request_id


class PeerListingInvalid(NodeError):
    """A linked device's registry answered a listing with something that is none."""

    hint = "bring both devices to one version, then try again"

    def __init__(self, peer: DeviceId, path: str) -> None:
        super().__init__(f"the registry of {peer} answered {path[:80]} with no listing")
        self.peer = peer
        self.path = path
