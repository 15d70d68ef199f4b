"""Where the node keeps things and how it is set up: the only module that reads the environment.

Everything lives under one root, the home: `TILENODE_HOME`, else the platform's directory for user data.
Parsed once into frozen values and passed down. Source: specs/0017-control-api.md §Home.
"""

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from node.errors import ApiAddressInvalid, HomeUnusable
from node.serving import VARIABLES, Serving
from node.settings import load_settings
from store.move_journal import locate_store

DEFAULT_API_HOST: Final = "127.0.0.1"
# Not 11434: that is Ollama's, and both may run side by side.
DEFAULT_API_PORT: Final = 11435
# Embedded in the program and offered by every fresh node.
DEFAULT_MODEL: Final = "demo"
# A Unix socket's path must fit sun_path: 108 bytes on Linux, 104 on macOS, the final zero included.
MAX_SOCKET_PATH_BYTES: Final = 100
PRIVATE_DIRECTORY_MODE: Final = 0o700
_TRUE: Final = frozenset({"1", "ON", "YES", "TRUE"})


@dataclass(frozen=True)
class ModelSources:
    """Where models may come from: a model hub, and the caches of other programs on this machine.

    The variables are those that the hub's own library and Ollama read; an empty `hub_endpoint` is the hub that the
    library knows. `hub_token` is sent to the hub and nowhere else, is in no other process's environment, and is never
    logged.
    """

    hub_endpoint: str
    hub_token: str | None = field(repr=False)
    hub_offline: bool
    hub_cache: Path
    ollama_models: Path


@dataclass(frozen=True)
class Environment:
    """What the environment says about this run; the hub's token is the only secret that is taken from it.

    `variables` are those of `node.serving`, which only a node that starts reads.
    """

    home: Path | None
    passphrase_file: Path | None
    color: bool
    source_date_epoch: str
    runtime_directory: Path
    sources: ModelSources
    variables: Mapping[str, str] = field(default_factory=dict)


def read_environment(environ: Mapping[str, str] | None = None) -> Environment:
    """Return the settings in `environ`, by default the process's own environment."""
    environ = os.environ if environ is None else environ
    return Environment(
        home=_path(environ.get("TILENODE_HOME")),
        passphrase_file=_path(environ.get("TILENODE_PASSPHRASE_FILE")),
        color=not environ.get("NO_COLOR") and environ.get("TERM") != "dumb",
        source_date_epoch=environ.get("SOURCE_DATE_EPOCH", ""),
        runtime_directory=_path(environ.get("XDG_RUNTIME_DIR")) or Path(tempfile.gettempdir()),
        sources=_model_sources(environ),
        variables={name: environ[name] for name in VARIABLES if name in environ},
    )


def _model_sources(environ: Mapping[str, str]) -> ModelSources:
    cache_home = _path(environ.get("XDG_CACHE_HOME")) or Path("~/.cache").expanduser()
    hub_home = _path(environ.get("HF_HOME")) or cache_home / "huggingface"
    return ModelSources(
        hub_endpoint=environ.get("HF_ENDPOINT", ""),
        hub_token=(environ.get("HF_TOKEN") or "").strip() or None,
        hub_offline=environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE,
        hub_cache=_path(environ.get("HF_HUB_CACHE")) or hub_home / "hub",
        ollama_models=_path(environ.get("OLLAMA_MODELS")) or Path("~/.ollama/models").expanduser(),
    )


def silence_libraries() -> None:
    """Keep the Xet library from a log of its own in the user's cache; it looks at the environment when it is loaded."""
    os.environ.setdefault("HF_XET_LOG_DEST", os.devnull)


def child_environment(home: Path, passphrase_file: Path) -> dict[str, str]:
    """Return this process's environment for another `tilenode`, with a home and a vault of its own."""
    return {**os.environ, "TILENODE_HOME": str(home), "TILENODE_PASSPHRASE_FILE": str(passphrase_file)}


def _path(text: str | None) -> Path | None:
    return Path(text).expanduser() if text else None


@dataclass(frozen=True)
class Home:
    """The places under one data root; `moved_store` is where the store lies when it is not in the root."""

    root: Path
    runtime_directory: Path
    moved_store: Path | None = None

    @property
    def store(self) -> Path:
        """The model store, an OCI image layout."""
        return self.moved_store or self.own_store

    @property
    def own_store(self) -> Path:
        """Where the store lies until it is moved."""
        return self.root / "store"

    @property
    def log(self) -> Path:
        """This device's own transparency log."""
        return self.root / "log"

    @property
    def evidence(self) -> Path:
        """What is known about other devices' logs."""
        return self.root / "evidence"

    @property
    def database(self) -> Path:
        """The encrypted database: chats, peers, offers."""
        return self.root / "node.db"

    @property
    def vault(self) -> Path:
        """The passphrase vault, where no keychain holds the keys."""
        return self.root / "vault"

    @property
    def lock(self) -> Path:
        """Held by the one node that runs on this home."""
        return self.root / "node.lock"

    @property
    def start_lock(self) -> Path:
        """Held while a command starts the node, so that two commands start one node."""
        return self.root / "start.lock"

    @property
    def settings(self) -> Path:
        """Nickname, DID, key place and last ports: nothing secret."""
        return self.root / "settings.json"

    @property
    def logs(self) -> Path:
        """The node's own log files, one JSON object a line."""
        return self.root / "logs"

    @property
    def prefixes(self) -> Path:
        """What workers read of prompts, sealed, a directory for each model."""
        return self.root / "prefixes"

    @property
    def registry_logins(self) -> Path:
        """Logins for linked devices' registries, one directory a port, while `registry connect` runs."""
        return self.root / "registry"

    @property
    def control_socket(self) -> Path:
        """The Unix socket of the control API.

        Inside the home; where that path is too long for a socket, in a private directory whose name is derived
        from the home's path.
        """
        inside = self.root / "control.sock"
        if len(os.fsencode(inside)) <= MAX_SOCKET_PATH_BYTES:
            return inside
        name = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        return self.runtime_directory / f"tilenode-{os.getuid()}-{name}" / "control.sock"


def find_home(environment: Environment, override: Path | None = None) -> Home:
    """Return the home: `override` (`--home`), else `TILENODE_HOME`, else the platform's directory.

    Raises:
        SettingsInvalid, MoveJournalInvalid: where its store lies cannot be told.
    """
    root = (override or environment.home or _platform_home()).resolve()
    home = Home(root, environment.runtime_directory)
    set_path = Path(load_settings(home.settings).store or home.own_store)
    store = locate_store(root, set_path)
    return home if store == home.own_store else replace(home, moved_store=store)


def _platform_home() -> Path:
    # Imported here: most runs name their home, and `--help` should not pay for it.
    from platformdirs import user_data_path

    return user_data_path("tilenode", appauthor=False)


def make_private_directory(directory: Path) -> None:
    """Create `directory` (mode 0700) or accept it when it is this user's own and closed to others.

    Raises:
        HomeUnusable: it is a link, a file, another user's, or others may enter it and that cannot be changed.
    """
    try:
        directory.mkdir(mode=PRIVATE_DIRECTORY_MODE, parents=True, exist_ok=True)
        status = directory.lstat()
        if not stat.S_ISDIR(status.st_mode):
            raise HomeUnusable(directory, "is not a directory")
        if status.st_uid != os.getuid():
            raise HomeUnusable(directory, f"belongs to user {status.st_uid}")
        if status.st_mode & 0o077:
            directory.chmod(PRIVATE_DIRECTORY_MODE)
    except OSError as error:
        raise HomeUnusable(directory, error.strerror or str(error)) from error


def require_own_directory(directory: Path) -> None:
    """Accept `directory` when nobody but this user can put a socket there, or when it does not exist.

    Raises:
        HomeUnusable: it is a link, a file, another user's, or others may write to it.
    """
    try:
        status = directory.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise HomeUnusable(directory, error.strerror or str(error)) from error
    if not stat.S_ISDIR(status.st_mode):
        raise HomeUnusable(directory, "is not a directory")
    if status.st_uid != os.getuid():
        raise HomeUnusable(directory, f"belongs to user {status.st_uid}")
    if status.st_mode & stat.S_IWOTH:
        raise HomeUnusable(directory, "other users may write to it")


@dataclass(frozen=True)
class Config:
    """Everything a node is told at its start.

    `listen` holds multiaddrs; empty means every address of this machine, at the last port where that is free.
    `api_is_chosen` says that a person means the port: one in use is then an error, not a reason to take another.
    `derive` makes the vault's key from passphrase and salt, where it is not made as usual.
    """

    home: Home
    listen: tuple[str, ...]
    api_host: str
    api_port: int
    api_is_chosen: bool
    passphrase: Callable[[], bytes] | None
    may_use_keychain: bool
    sources: ModelSources
    serving: Serving = field(default_factory=Serving)
    derive: Callable[[bytes, bytes], bytes] | None = None
    contact_interval_s: float = 30.0
    stop_grace_s: float = 5.0


def parse_api_address(text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`; port 0 asks for any free port.

    Only loopback is served: the API answers whoever reaches it.

    Raises:
        ApiAddressInvalid: not HOST:PORT, or not a loopback address.
    """
    host, separator, port = text.rpartition(":")
    host = host.strip("[]")
    if not separator or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise ApiAddressInvalid(text, "expected HOST:PORT")
    if host not in ("127.0.0.1", "::1", "localhost"):
        raise ApiAddressInvalid(text, f"{host or 'an empty host'} is not a loopback address")
    return (DEFAULT_API_HOST if host == "localhost" else host), int(port)
