"""Registries as this node uses them: pull, push and pack off the event loop, and the logins that it shows them."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import trio

from identity.did import DeviceId
from node.ports import Clock
from node.threads import Threads
from protocol.digest import Digest, format_oci_digest
from protocol.errors import ModelNameInvalid, ReferenceInvalid
from protocol.model_name import ModelName, format_model_name, parse_model_name
from protocol.registry import Reference, check_host, local_name, parse_reference, push_target
from store.logins import MAX_PASSWORD_CHARS, MAX_USERNAME_CHARS, KnownLogin, Logins
from store.models import ModelStore, StoredModel
from store.pack import PackReport, pack_model
from store.registry.client import RegistryClient
from store.registry.credentials import Login
from store.registry.errors import LocalNameNeeded
from store.registry.pull import PullReport, pull_model
from store.registry.push import PushReport, push_model
from store.registry_places import RegistryPlaces

Event = dict[str, Any]
Emit = Callable[[Event], Awaitable[None]]

# A repository only to make a client for its host: nothing is asked about it.
_ANY: Final = "any"
_log = logging.getLogger("tilenode.registry")


class Registries:
    """Pull, push, pack and log in. Leaving a call cancels its work within a moment; what arrived is kept."""

    def __init__(
        self,
        store: ModelStore,
        logins: Logins,
        threads: Threads,
        clock: Clock,
        stopped: Callable[[], frozenset[DeviceId]],
        find: Callable[[str], Awaitable[StoredModel]],
        places: RegistryPlaces,
    ) -> None:
        """Take the store, the logins, whose signatures do not count any more, and what finds a model by its name.

        `places` remembers where models were put and fetched from.
        """
        self._store = store
        self._logins = logins
        self._threads = threads
        self._clock = clock
        self._stopped = stopped
        self._find = find
        self._places = places

    async def pull(self, text: str, own_name: str | None, emit: Emit, *, deltas: bool = True) -> PullReport:
        """Fetch the model at the reference `text`, under `own_name` or the reference itself; return what was moved.

        Raises:
            ReferenceInvalid, ModelNameInvalid, LocalNameNeeded: what the person typed leads nowhere.
            StoreError, ProtocolError: as `store.registry.pull.pull_model` says.
        """
        reference, name = parse_reference(text), _local_name(text, own_name)
        login = await self._threads.database(self._logins.get, reference.host)
        stopped = self._stopped()
        done = await self._threads.reporting(
            lambda report: pull_model(
                self._store,
                reference,
                name,
                report=report,
                login=login,
                deltas=deltas,
                distrusted=lambda publisher: publisher in stopped,
                check=trio.from_thread.check_cancelled,
            ),
            emit,
        )
        await self._threads.database(self._places.note, done.manifest, reference, self._clock.now_s())
        _log.info("pulled", extra={"host": reference.host, "manifest": done.manifest, "bytes": done.bytes_moved})
        return done

    async def push(self, text: str, target: str, emit: Emit, *, deltas: bool = True) -> PushReport:
        """Put the model `text` at `target`, or where its own name points; return what was sent.

        Raises:
            ReferenceInvalid: neither names a registry.
            ModelNotFound: there is no such model.
            StoreError, ProtocolError: as `store.registry.push.push_model` says.
        """
        model = await self._find(text)
        reference = push_target(target, model.name)
        login = await self._threads.database(self._logins.get, reference.host)
        done = await self._threads.reporting(
            lambda report: push_model(
                self._store,
                model,
                reference,
                report=report,
                login=login,
                deltas=deltas,
                check=trio.from_thread.check_cancelled,
            ),
            emit,
        )
        await self._threads.database(self._places.note, done.manifest, reference, self._clock.now_s())
        _log.info("pushed", extra={"host": reference.host, "manifest": done.manifest, "bytes": done.bytes_sent})
        return done

    async def pack(self, text: str, directory: Path) -> tuple[ModelName, PackReport]:
        """Write the model `text` into `directory` as an OCI image layout.

        Raises:
            ModelNotFound: there is no such model.
            StoreError: as `store.pack.pack_model` says.
        """
        model = await self._find(text)
        return model.name, await self._threads.store(pack_model, self._store, model, directory)

    async def log_in(self, host: str, login: Login) -> tuple[str, bool]:
        """Show `login` to the registry at `host` and keep it if it is accepted.

        Return the host as it is kept, and whether the registry asked for a login at all.

        Raises:
            ReferenceInvalid: no host, or a login that cannot be shown.
            RegistryError: the registry does not accept it, or does not answer.
        """
        reference = _host_reference(host)
        if not 0 < len(login.username) <= MAX_USERNAME_CHARS or ":" in login.username:
            raise ReferenceInvalid(host, f"a user name has 1 to {MAX_USERNAME_CHARS} characters and no ':'")
        if not 0 < len(login.password) <= MAX_PASSWORD_CHARS:
            raise ReferenceInvalid(host, f"a password has 1 to {MAX_PASSWORD_CHARS} characters")
        asked = await self._threads.store(_check_login, reference, login)
        await self._threads.database(self._logins.keep, reference.host, login, self._clock.now_s())
        return reference.host, asked

    async def log_out(self, host: str) -> bool:
        """Forget the login for `host`; return whether there was one."""
        return await self._threads.database(self._logins.forget, _host_reference(host).host)

    async def places_of(self, manifest: Digest) -> list[Reference]:
        """Return the registries into which a model was put or from which it came, the newest first."""
        return await self._threads.database(self._places.of, manifest)

    async def login_for(self, host: str) -> Login | None:
        """Return the login that is kept for a registry, None where there is none."""
        return await self._threads.database(self._logins.get, host)

    async def logins(self) -> list[KnownLogin]:
        """Return every login, without passwords."""
        return await self._threads.database(self._logins.list)


def pull_facts(done: PullReport) -> Event:
    """Return what a pull did, as its last event says it."""
    return {
        "status": "success",
        "name": format_model_name(done.name),
        "publisher": done.publisher,
        "manifest": format_oci_digest(done.manifest),
        "bytes_moved": done.bytes_moved,
        "bytes_reused": done.bytes_reused,
        "bytes_resumed": done.bytes_resumed,
        "seconds": round(done.seconds, 3),
    }


def push_facts(done: PushReport) -> Event:
    """Return what a push did, as its last event says it."""
    counts = asdict(done)
    return {
        "status": "success",
        "name": format_model_name(done.name),
        "reference": str(done.reference),
        "manifest": format_oci_digest(done.manifest),
        "tags": list(done.tags),
        **{key: counts[key] for key in ("blobs_sent", "bytes_sent", "blobs_mounted", "blobs_there")},
        "referrers": done.referrers,
        "deltas": done.deltas,
        "seconds": round(done.seconds, 3),
    }


def _local_name(text: str, own_name: str | None) -> ModelName:
    if own_name is not None:
        return parse_model_name(own_name)
    try:
        return local_name(text)
    except ModelNameInvalid as error:
        raise LocalNameNeeded(text, error.reason) from None


def _host_reference(host: str) -> Reference:
    return Reference(check_host(host, host), _ANY, _ANY)


def _check_login(reference: Reference, login: Login) -> bool:
    with RegistryClient(reference, login=login, check=trio.from_thread.check_cancelled) as client:
        return client.check_login()
