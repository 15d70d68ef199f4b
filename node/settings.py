"""What a home remembers between runs and that is no secret: nickname, DID, where the key lives, last ports."""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from node.errors import HomeUnusable, SettingsInvalid
from protocol.text import clean_name
from store.disk import flush_directory

SETTINGS_VERSION: Final = 1
MAX_SETTINGS_BYTES: Final = 64 * 1024


@dataclass(frozen=True)
class Settings:
    """The contents of `settings.json`; `did` is empty until an identity was made, `port` 0 until a node listened.

    `serve_registry` lets every program on this machine read the offered models as an OCI registry (specs/0024).
    `store` is the absolute path to which the store was moved, empty while it is in the home (specs/0027).
    """

    nickname: str = ""
    did: str = ""
    rung: str = ""
    place: str = ""
    port: int = 0
    serve_registry: bool = False
    store: str = ""

    def named(self, nickname: str) -> "Settings":
        """Return these settings under another nickname, cleaned for display."""
        return replace(self, nickname=clean_name(nickname))


def load_settings(path: Path) -> Settings:
    """Return the settings at `path`; empty ones where there is no file.

    Raises:
        SettingsInvalid: larger than 64 KiB, not JSON, another version, an unknown or mistyped field.
        HomeUnusable: the file cannot be read, or its directory is none.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SETTINGS_BYTES + 1)
    except FileNotFoundError:
        return Settings()
    except OSError as error:
        raise HomeUnusable(path.parent, (error.strerror or str(error)).lower()) from error
    if len(content) > MAX_SETTINGS_BYTES:
        raise SettingsInvalid(path, f"more than {MAX_SETTINGS_BYTES} bytes")
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise SettingsInvalid(path, "not JSON") from error
    return _settings_of(path, fields)


def _settings_of(path: Path, fields: object) -> Settings:
    if not isinstance(fields, dict) or fields.pop("version", None) != SETTINGS_VERSION:
        raise SettingsInvalid(path, f"expected an object of version {SETTINGS_VERSION}")
    port = fields.pop("port", 0)
    serve_registry = fields.pop("serve_registry", False)
    texts = {name: fields.pop(name, "") for name in ("nickname", "did", "rung", "place", "store")}
    if fields:
        raise SettingsInvalid(path, f"unknown field {next(iter(fields))!r}")
    if type(port) is not int or not 0 <= port <= 65535:
        raise SettingsInvalid(path, "port is not a port")
    if type(serve_registry) is not bool:
        raise SettingsInvalid(path, "serve_registry is neither true nor false")
    if not all(isinstance(text, str) for text in texts.values()):
        raise SettingsInvalid(path, "a field is not text")
    if texts["store"] and not Path(texts["store"]).is_absolute():
        raise SettingsInvalid(path, "store is not an absolute path")
    return Settings(**texts, port=port, serve_registry=serve_registry)


def save_settings(path: Path, settings: Settings) -> None:
    """Replace the settings at `path` at once: a reader sees the old ones or the new ones."""
    fields = {"version": SETTINGS_VERSION, **asdict(settings)}
    temporary = path.with_name(path.name + ".new")
    with open(temporary, "w", encoding="utf-8", opener=_open_private) as file:
        json.dump(fields, file, indent=2, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    # Not only atomic: what the old settings led to may be removed next.
    flush_directory(path.parent)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class Profile:
    """The settings by which a running node goes; what changes here is saved first and in force after."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self._path = path
        self.settings = settings

    def nickname(self) -> str:
        """Return what this device calls itself now."""
        return self.settings.nickname

    def change(self, settings: Settings) -> None:
        """Save `settings` and go by them."""
        save_settings(self._path, settings)
        self.settings = settings
