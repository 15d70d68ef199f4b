"""What people mean by a name and a version of it: a number, a release, or the beginning of a digest (specs/0022)."""

from typing import Final

from protocol.errors import ModelNameInvalid
from protocol.model_name import LATEST, ModelName, format_model_name, parse_model_name
from store.errors import ModelUnknown, VersionAmbiguous, VersionUnknown
from store.refs import RefEntry, Refs, Version

MIN_DIGEST_CHARS: Final = 6


def find_entry(refs: Refs, name: ModelName) -> RefEntry:
    """Return what `name` stands for; a name with a version that is no release is a version of its tag.

    Raises:
        ModelUnknown: there is no such name; the error suggests the nearest one.
        VersionUnknown, VersionAmbiguous, RefCorrupt: it has no such version, or that cannot be told.
    """
    entry = refs.entry(name)
    if entry is None and name.version and refs.get(name.moving) is not None:
        version = find_version(refs, name.moving, name.version)
        entry = RefEntry(name, version.digest, version.time_s)
    if entry is None:
        raise unknown(refs, name)
    return entry


def find_version(refs: Refs, name: ModelName, text: str) -> Version:
    """Return the version of `name` that `text` means: a number, a release, or a digest's first 6 characters or more.

    A number wins over a release of that spelling, and a release over a digest; `@` before it means the release.

    Raises:
        VersionUnknown, VersionAmbiguous: there is none, or several begin so.
        ModelUnknown, RefCorrupt: there is no such name, or it cannot be read.
    """
    history = refs.history(name)
    release = _release(refs, name, text.removeprefix("@"))
    if not history and release is None:
        raise unknown(refs, name)
    found = [version for version in history if str(version.number) == text]
    if not found and release is not None:
        found = [version for version in history if version.digest == release.digest][-1:] or [release]
    found = found or _beginning_with(history, text.lower().removeprefix("sha256:"))
    if len({version.digest for version in found}) > 1:
        raise VersionAmbiguous(format_model_name(name), text, len(found))
    if not found:
        raise VersionUnknown(format_model_name(name), text)
    return found[-1]


def numbered_version(refs: Refs, name: ModelName, text: str) -> Version:
    """Return the version that `text` means if `name` itself remembers it. Raises as `find_version`."""
    version = find_version(refs, name, text)
    if version not in refs.history(name):  # only a release has it, under a number of its own
        raise VersionUnknown(format_model_name(name), text)
    return version


def unknown(refs: Refs, name: ModelName) -> ModelUnknown:
    """Return the error for a name that is not there, with the nearest one that is."""
    import difflib  # here, because it costs every start 5 ms and a mistyped name is rare

    known = {_shortly(entry.name): format_model_name(entry.name) for entry in refs.list()}
    close = difflib.get_close_matches(_shortly(name), known, n=1)
    return ModelUnknown(format_model_name(name), known[close[0]] if close else None)


def _shortly(name: ModelName) -> str:
    """Return a name without the tag that goes without saying, which would make all names alike."""
    return format_model_name(name).removesuffix(f":{LATEST}")


def _release(refs: Refs, name: ModelName, text: str) -> Version | None:
    try:
        release = parse_model_name(f"{format_model_name(name.moving)}@{text}")
    except ModelNameInvalid:
        return None
    history = refs.history(release)
    return history[-1] if history else None


def _beginning_with(history: tuple[Version, ...], digits: str) -> list[Version]:
    if len(digits) < MIN_DIGEST_CHARS:
        return []
    return [version for version in history if version.digest.startswith(digits)]
