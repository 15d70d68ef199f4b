"""What is carried by hand: bundles and packed directories.

StoreError
├── BundleMissing
├── BundleDamaged
├── BundleTargetUsed
├── BundleBaseMissing
├── BundleUntrusted
├── BundleOlder
├── BundleTakesName
├── LogUnproven
└── PackRefused
"""

from pathlib import Path

from protocol.digest import Digest, short_digest
from store.errors.base import StoreError


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


class PackRefused(StoreError):
    """The directory for a packed model is not one that may be filled."""

    hint = "name a new or empty directory: tilenode pack NAME --to DIR"

    def __init__(self, directory: Path, reason: str) -> None:
        super().__init__(f"directory {directory}: {reason}")
        self.directory = directory
        self.reason = reason
