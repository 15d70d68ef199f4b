"""The one table of exit codes: what each means and which named error ends with it.

Errors are listed by class name, so that `tilenode --help` imports none of them; a class that is not listed has
its nearest base's code. Source: specs/0018-command-line.md §Exit codes.
"""

import errno
from enum import IntEnum
from typing import Final


class ExitCode(IntEnum):
    """How a command ended."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    NOT_RUNNING = 3
    TERMINAL_NEEDED = 4
    ALREADY_RUNNING = 5
    PORT_IN_USE = 6
    DISK_FULL = 7
    HOME_UNUSABLE = 8
    VERSION_MISMATCH = 9
    KEYCHAIN_LOCKED = 10
    PASSPHRASE_WRONG = 11
    NO_SECRET_STORE = 12
    IDENTITY_MISSING = 13
    DATABASE = 14
    TICKET_INVALID = 20
    TICKET_EXPIRED = 21
    TICKET_USED = 22
    LINK_REJECTED = 23
    PEER_UNKNOWN = 24
    PEER_UNREACHABLE = 25
    PEER_MISBEHAVED = 26
    NOT_ALLOWED = 27
    MODEL_NOT_FOUND = 30
    MODELFILE_INVALID = 31
    MODEL_FILES_INVALID = 32
    MANIFEST_INVALID = 33
    PROVENANCE_INVALID = 34
    LAYER_CORRUPT = 35
    CHUNK_CORRUPT = 36
    BUILD_DIFFERS = 37
    LOG_FORKED = 40
    LOG_ROLLED_BACK = 41
    LOG_CORRUPT = 42
    MODEL_FAILED = 50
    BUSY = 51
    CHAT_NOT_FOUND = 60
    DEMO_STEP_FAILED = 70
    INTERRUPTED = 130


MEANINGS: Final[dict[ExitCode, str]] = {
    ExitCode.OK: "done",
    ExitCode.INTERNAL: "a defect in tilenode, or an error without a code of its own",
    ExitCode.USAGE: "the command line, a name or a setting is not understood",
    ExitCode.NOT_RUNNING: "no node runs on this home, or it did not start or stop",
    ExitCode.TERMINAL_NEEDED: "something must be answered and there is no terminal: the hint names the option",
    ExitCode.ALREADY_RUNNING: "another node holds this home; the message names its process",
    ExitCode.PORT_IN_USE: "another program holds the port",
    ExitCode.DISK_FULL: "the disk is full; the message says what is missing",
    ExitCode.HOME_UNUSABLE: "the data directory or its settings cannot be used",
    ExitCode.VERSION_MISMATCH: "a file or a message is of a version that this program does not know",
    ExitCode.KEYCHAIN_LOCKED: "the keychain is locked or not reachable; no key was made",
    ExitCode.PASSPHRASE_WRONG: "the passphrase does not open the vault",
    ExitCode.NO_SECRET_STORE: "neither a keychain nor a passphrase: keys are never stored in the clear",
    ExitCode.IDENTITY_MISSING: "no identity yet, or its keys are gone",
    ExitCode.DATABASE: "the encrypted database does not open with this identity's key, or is damaged",
    ExitCode.TICKET_INVALID: "the ticket is not one, was changed on the way, or is for another device",
    ExitCode.TICKET_EXPIRED: "the ticket is too old",
    ExitCode.TICKET_USED: "the ticket was used before",
    ExitCode.LINK_REJECTED: "one of the two people said no, or nobody answered in time",
    ExitCode.PEER_UNKNOWN: "no linked device has this name, or several have",
    ExitCode.PEER_UNREACHABLE: "the device does not answer",
    ExitCode.PEER_MISBEHAVED: "the device sent something that it must not send",
    ExitCode.NOT_ALLOWED: "the devices are not linked, or not for this",
    ExitCode.MODEL_NOT_FOUND: "no model, request or offer has this name",
    ExitCode.MODELFILE_INVALID: "the Modelfile or ModelSpec.yaml has an error; the message says line and column",
    ExitCode.MODEL_FILES_INVALID: "the model's files are truncated, incomplete, not finite or not safetensors",
    ExitCode.MANIFEST_INVALID: "a manifest has a bad digest, path or shape",
    ExitCode.PROVENANCE_INVALID: "a signature or log proof does not verify",
    ExitCode.LAYER_CORRUPT: "a layer's bytes do not hash to its digest",
    ExitCode.CHUNK_CORRUPT: "a chunk's bytes do not hash to its record, and no other source has it",
    ExitCode.BUILD_DIFFERS: "a model that was built again came out different; each difference is named",
    ExitCode.LOG_FORKED: "a device showed two logs; the evidence is kept and the device is stopped",
    ExitCode.LOG_ROLLED_BACK: "this device's log or chats are older than what it signed: a restored copy signs nothing",
    ExitCode.LOG_CORRUPT: "this device's log does not verify",
    ExitCode.MODEL_FAILED: "the model worker failed or the request does not fit the model",
    ExitCode.BUSY: "too many requests wait already",
    ExitCode.CHAT_NOT_FOUND: "no chat or line has this id",
    ExitCode.DEMO_STEP_FAILED: "a step of the demo was not verified; the message names it",
    ExitCode.INTERRUPTED: "Ctrl-C",
}

BY_ERROR: Final[dict[str, ExitCode]] = {
    "UsageInvalid": ExitCode.USAGE,
    "VariableInvalid": ExitCode.USAGE,
    "ApiAddressInvalid": ExitCode.USAGE,
    "AddressInvalid": ExitCode.USAGE,
    "ListenFailed": ExitCode.USAGE,
    "IdentityExists": ExitCode.USAGE,
    "ModelNameInvalid": ExitCode.USAGE,
    "DigestInvalid": ExitCode.USAGE,
    "OciNameInvalid": ExitCode.USAGE,
    "ReferenceInvalid": ExitCode.USAGE,
    "LocalNameNeeded": ExitCode.USAGE,
    "IndexAmbiguous": ExitCode.USAGE,
    "PackRefused": ExitCode.USAGE,
    "RouteInvalid": ExitCode.USAGE,
    "RangeUnsatisfiable": ExitCode.USAGE,
    "DidInvalid": ExitCode.USAGE,
    "VerifierKeyInvalid": ExitCode.USAGE,
    "ContentTooLarge": ExitCode.USAGE,
    "OfferAmbiguous": ExitCode.USAGE,
    "LogExportRefused": ExitCode.USAGE,
    "ApiRefused": ExitCode.USAGE,
    "NodeNotRunning": ExitCode.NOT_RUNNING,
    "NodeStartFailed": ExitCode.NOT_RUNNING,
    "NodeStopFailed": ExitCode.NOT_RUNNING,
    "NodeStopping": ExitCode.NOT_RUNNING,
    "TerminalNeeded": ExitCode.TERMINAL_NEEDED,
    "HomeLocked": ExitCode.ALREADY_RUNNING,
    "PortInUse": ExitCode.PORT_IN_USE,
    "DiskFull": ExitCode.DISK_FULL,
    "DatabaseFull": ExitCode.DISK_FULL,
    "HomeUnusable": ExitCode.HOME_UNUSABLE,
    "SettingsInvalid": ExitCode.HOME_UNUSABLE,
    "DiskFailed": ExitCode.HOME_UNUSABLE,
    "SecretsFileFailed": ExitCode.HOME_UNUSABLE,
    "RefCorrupt": ExitCode.HOME_UNUSABLE,
    "HomeCopied": ExitCode.HOME_UNUSABLE,
    "ControlRequestInvalid": ExitCode.VERSION_MISMATCH,
    "DatabaseTooNew": ExitCode.VERSION_MISMATCH,
    "KeychainError": ExitCode.KEYCHAIN_LOCKED,
    "PassphraseWrong": ExitCode.PASSPHRASE_WRONG,
    "NoSecretStore": ExitCode.NO_SECRET_STORE,
    "PassphraseNeeded": ExitCode.NO_SECRET_STORE,
    "PassphraseUnreadable": ExitCode.NO_SECRET_STORE,
    "IdentityMissing": ExitCode.IDENTITY_MISSING,
    "SecretsError": ExitCode.IDENTITY_MISSING,
    "KeychainItemMissing": ExitCode.IDENTITY_MISSING,
    "DatabaseError": ExitCode.DATABASE,
    "FeedBroken": ExitCode.DATABASE,
    "TicketError": ExitCode.TICKET_INVALID,
    "TicketExpired": ExitCode.TICKET_EXPIRED,
    "TicketUsed": ExitCode.TICKET_USED,
    "TicketBurned": ExitCode.TICKET_USED,
    "LinkRejected": ExitCode.LINK_REJECTED,
    "LinkRefused": ExitCode.LINK_REJECTED,
    "PeerUnknown": ExitCode.PEER_UNKNOWN,
    "PeerAmbiguous": ExitCode.PEER_UNKNOWN,
    "PeerUnreachable": ExitCode.PEER_UNREACHABLE,
    "StreamClosed": ExitCode.PEER_UNREACHABLE,
    "SyncStalled": ExitCode.PEER_UNREACHABLE,
    "FetchStalled": ExitCode.PEER_UNREACHABLE,
    "BlobUnavailable": ExitCode.PEER_UNREACHABLE,
    "FrameTooLarge": ExitCode.PEER_MISBEHAVED,
    "FrameTruncated": ExitCode.PEER_MISBEHAVED,
    "CodecInvalid": ExitCode.PEER_MISBEHAVED,
    "FieldInvalid": ExitCode.PEER_MISBEHAVED,
    "FeedError": ExitCode.PEER_MISBEHAVED,
    "SyncViolation": ExitCode.PEER_MISBEHAVED,
    "LinkError": ExitCode.PEER_MISBEHAVED,
    "OfferRefused": ExitCode.PEER_MISBEHAVED,
    "PeerListingInvalid": ExitCode.PEER_MISBEHAVED,
    "LayerTooLarge": ExitCode.PEER_MISBEHAVED,
    "RegistryAnswerInvalid": ExitCode.PEER_MISBEHAVED,
    "RedirectRefused": ExitCode.PEER_MISBEHAVED,
    "AnswerTooLarge": ExitCode.PEER_MISBEHAVED,
    "AnswerMismatch": ExitCode.PEER_MISBEHAVED,
    "ContentEncoded": ExitCode.PEER_MISBEHAVED,
    "RegistryError": ExitCode.PEER_UNREACHABLE,
    "RegistryLoginNeeded": ExitCode.NOT_ALLOWED,
    "RegistryLoginRefused": ExitCode.NOT_ALLOWED,
    "RegistryUnknown": ExitCode.MODEL_NOT_FOUND,
    "PeerNotLinked": ExitCode.NOT_ALLOWED,
    "RemoteRefused": ExitCode.NOT_ALLOWED,
    "DeviceRemoved": ExitCode.NOT_ALLOWED,
    "ModelNotFound": ExitCode.MODEL_NOT_FOUND,
    "ModelUnknown": ExitCode.MODEL_NOT_FOUND,
    "ModelNotOffered": ExitCode.MODEL_NOT_FOUND,
    "VersionUnknown": ExitCode.MODEL_NOT_FOUND,
    "ForeignUnknown": ExitCode.MODEL_NOT_FOUND,
    "ForeignAmbiguous": ExitCode.MODEL_NOT_FOUND,
    "ForeignUnusable": ExitCode.MANIFEST_INVALID,
    "VersionAmbiguous": ExitCode.USAGE,
    "VersionTaken": ExitCode.USAGE,
    "VersionPinned": ExitCode.USAGE,
    "VersionCurrent": ExitCode.USAGE,
    "HistoryFull": ExitCode.USAGE,
    "CollectRefused": ExitCode.HOME_UNUSABLE,
    "LeaseCorrupt": ExitCode.HOME_UNUSABLE,
    "LeaseTooLarge": ExitCode.BUSY,
    "LinkRequestUnknown": ExitCode.MODEL_NOT_FOUND,
    "RecipeInvalid": ExitCode.MODELFILE_INVALID,
    "TemplateInvalid": ExitCode.MODELFILE_INVALID,
    "MirInvalid": ExitCode.USAGE,
    "SafetensorsInvalid": ExitCode.MODEL_FILES_INVALID,
    "RecipeNameMissing": ExitCode.USAGE,
    "ReleaseNotPinned": ExitCode.MODELFILE_INVALID,
    "BuildRefused": ExitCode.MODEL_FILES_INVALID,
    "ModelRefused": ExitCode.MODEL_FILES_INVALID,
    "HubError": ExitCode.MODEL_NOT_FOUND,
    "RepositoryNameInvalid": ExitCode.USAGE,
    "RepositoryClosed": ExitCode.NOT_ALLOWED,
    "HubUnreachable": ExitCode.PEER_UNREACHABLE,
    "HubAnswerInvalid": ExitCode.PEER_MISBEHAVED,
    "HubFileCorrupt": ExitCode.LAYER_CORRUPT,
    "OfferMalformed": ExitCode.MANIFEST_INVALID,
    "ManifestInvalid": ExitCode.MANIFEST_INVALID,
    "BuildRecordInvalid": ExitCode.MANIFEST_INVALID,
    "LayerPathInvalid": ExitCode.MANIFEST_INVALID,
    "ChunkMapInvalid": ExitCode.MANIFEST_INVALID,
    "DeltaInvalid": ExitCode.MANIFEST_INVALID,
    "PrefixFileInvalid": ExitCode.MODEL_FAILED,
    "JsonInvalid": ExitCode.MANIFEST_INVALID,
    "ArtifactInvalid": ExitCode.MANIFEST_INVALID,
    "BlobTooLarge": ExitCode.MANIFEST_INVALID,
    "OfferUnproven": ExitCode.PROVENANCE_INVALID,
    "ProvenanceInvalid": ExitCode.PROVENANCE_INVALID,
    "SignatureInvalid": ExitCode.PROVENANCE_INVALID,
    "NoteInvalid": ExitCode.PROVENANCE_INVALID,
    "CheckpointInvalid": ExitCode.PROVENANCE_INVALID,
    "InclusionInvalid": ExitCode.PROVENANCE_INVALID,
    "ConsistencyInvalid": ExitCode.PROVENANCE_INVALID,
    "LogBehind": ExitCode.PROVENANCE_INVALID,
    "TooManyOrigins": ExitCode.PROVENANCE_INVALID,
    "BundleInvalid": ExitCode.PROVENANCE_INVALID,
    "BundleUntrusted": ExitCode.PROVENANCE_INVALID,
    "LogUnproven": ExitCode.PROVENANCE_INVALID,
    "BundleMissing": ExitCode.USAGE,
    "BundleTargetUsed": ExitCode.USAGE,
    "BundleOlder": ExitCode.USAGE,
    "BundleTakesName": ExitCode.USAGE,
    "MoveRefused": ExitCode.USAGE,
    "MoveUnfinished": ExitCode.USAGE,
    "FileTooLarge": ExitCode.DISK_FULL,
    "MoveJournalInvalid": ExitCode.HOME_UNUSABLE,
    "StoreAway": ExitCode.HOME_UNUSABLE,
    "BundleDamaged": ExitCode.LAYER_CORRUPT,
    "RepairIncomplete": ExitCode.LAYER_CORRUPT,
    "BundleBaseMissing": ExitCode.LAYER_CORRUPT,
    "BlobCorrupt": ExitCode.LAYER_CORRUPT,
    "LayerCorrupt": ExitCode.LAYER_CORRUPT,
    "BlobMissing": ExitCode.LAYER_CORRUPT,
    "PartialIncomplete": ExitCode.LAYER_CORRUPT,
    "ChunksCorrupt": ExitCode.CHUNK_CORRUPT,
    "ChunkCorrupt": ExitCode.CHUNK_CORRUPT,
    "BuildDiffers": ExitCode.BUILD_DIFFERS,
    "LogForked": ExitCode.LOG_FORKED,
    "OriginStopped": ExitCode.LOG_FORKED,
    "EvidenceInvalid": ExitCode.LOG_FORKED,
    "EvidenceDamaged": ExitCode.LOG_FORKED,
    "FeedForked": ExitCode.LOG_FORKED,
    "LogRolledBack": ExitCode.LOG_ROLLED_BACK,
    "FeedBehind": ExitCode.LOG_ROLLED_BACK,
    "LogDamaged": ExitCode.LOG_CORRUPT,
    "LogEntryUnknown": ExitCode.LOG_CORRUPT,
    "LogError": ExitCode.LOG_CORRUPT,
    "ModelError": ExitCode.MODEL_FAILED,
    "ServerBusy": ExitCode.BUSY,
    "PartialBusy": ExitCode.BUSY,
    "TicketBusy": ExitCode.BUSY,
    "ChatUnknown": ExitCode.CHAT_NOT_FOUND,
    "ChatAmbiguous": ExitCode.CHAT_NOT_FOUND,
    "EntryUnknown": ExitCode.CHAT_NOT_FOUND,
    "DemoStepFailed": ExitCode.DEMO_STEP_FAILED,
    "Interrupted": ExitCode.INTERRUPTED,
    "KeyboardInterrupt": ExitCode.INTERRUPTED,
}

# What to do where the error itself does not say it better.
HINTS: Final[dict[ExitCode, str]] = {
    ExitCode.INTERNAL: "run it again with --debug to see where, and report it",
    ExitCode.USAGE: "see: tilenode --help",
    ExitCode.NOT_RUNNING: "start it: tilenode serve",
    ExitCode.TERMINAL_NEEDED: "run it on a terminal, or see the options: tilenode --help",
    ExitCode.ALREADY_RUNNING: "use the node that runs, or stop it: tilenode stop",
    ExitCode.PORT_IN_USE: "take any free port: tilenode serve --api 127.0.0.1:0",
    ExitCode.DISK_FULL: "make room, then run the same command again: what was fetched is kept",
    ExitCode.HOME_UNUSABLE: "see what lies where: tilenode data",
    ExitCode.VERSION_MISMATCH: "use the newest version of this program on every device, and start the node again",
    ExitCode.KEYCHAIN_LOCKED: "unlock the keychain, then run the same command again",
    ExitCode.PASSPHRASE_WRONG: "try the passphrase again; without it the keys in the vault cannot be recovered",
    ExitCode.NO_SECRET_STORE: "give a passphrase for a vault: set TILENODE_PASSPHRASE_FILE to a file that holds it",
    ExitCode.IDENTITY_MISSING: "see where the keys should be: tilenode account",
    ExitCode.DATABASE: "start the node again; if that does not help, put node.db back from a backup",
    ExitCode.TICKET_INVALID: "show a new ticket on the other device: tilenode link enable",
    ExitCode.TICKET_EXPIRED: "show a new ticket on the other device: tilenode link enable",
    ExitCode.TICKET_USED: "show a new ticket on the other device: tilenode link enable",
    ExitCode.LINK_REJECTED: "begin again: tilenode link enable",
    ExitCode.PEER_UNKNOWN: "see who is linked: tilenode link list-peers",
    ExitCode.PEER_UNREACHABLE: "check that the other device is on and runs: tilenode serve",
    ExitCode.PEER_MISBEHAVED: "bring both devices to one version; to end the link: tilenode link disable PEER",
    ExitCode.NOT_ALLOWED: "see who is linked, and for what: tilenode link list-peers",
    ExitCode.MODEL_NOT_FOUND: "see what there is: tilenode list --peers",
    ExitCode.MODELFILE_INVALID: "correct the line, then run the same command again",
    ExitCode.MODEL_FILES_INVALID: "put a whole copy of the model's files there, then run the same command again",
    ExitCode.MANIFEST_INVALID: "the model is not accepted; have its publisher create it again",
    ExitCode.PROVENANCE_INVALID: "nothing was accepted; have the publisher create the model again",
    ExitCode.LAYER_CORRUPT: "fetch what is damaged, and only that: tilenode verify NAME --repair",
    ExitCode.CHUNK_CORRUPT: "fetch the model from another device: tilenode pull NAME --from PEER",
    ExitCode.BUILD_DIFFERS: "the model itself is unchanged; see what went in: tilenode show NAME",
    ExitCode.LOG_FORKED: "the evidence is kept; end the link: tilenode link disable PEER",
    ExitCode.LOG_ROLLED_BACK: "put the newest backup back, or begin a new identity in a new TILENODE_HOME",
    ExitCode.LOG_CORRUPT: "see which entry: tilenode log verify",
    ExitCode.MODEL_FAILED: "check that the model is whole: tilenode verify NAME",
    ExitCode.BUSY: "wait a moment, then run the same command again",
    ExitCode.CHAT_NOT_FOUND: "see the chats: tilenode chats",
    ExitCode.DEMO_STEP_FAILED: "run it again; the message names the step",
}

_FULL_DISK: Final = {errno.ENOSPC, errno.EDQUOT}


def exit_code_of(error: BaseException) -> ExitCode:
    """Return the exit code of `error`: its own class's, its nearest base's, or `INTERNAL`."""
    if isinstance(error, OSError) and error.errno in _FULL_DISK:
        return ExitCode.DISK_FULL
    carried = getattr(error, "exit_code", None)
    if isinstance(carried, int):
        return ExitCode(carried) if carried in set(ExitCode) else ExitCode.INTERNAL
    for kind in type(error).__mro__:
        if kind.__name__ in BY_ERROR:
            return BY_ERROR[kind.__name__]
    return ExitCode.INTERNAL
