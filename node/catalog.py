"""The models of this node: those in the store and the embedded one, found, built, described and checked."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import trio

from identity.did import DeviceId
from identity.keys import DeviceKey
from node.models.anatomy import Anatomy, read_stored
from node.models.conversion import Conversion, Emit
from node.models.demo import DEMO_NAME, demo_directory
from node.models.errors import ModelNotFound
from node.models.library import ListedModel, ServedModel
from node.models.listed import embedded_model, listed_model
from node.ports import Clock, Entropy
from node.served_models import ServedModels
from node.threads import Threads
from protocol.build_record import BuildRecord
from protocol.chunkmap import ChunkMap
from protocol.digest import Digest, format_oci_digest, short_digest
from protocol.errors import ModelNameInvalid, ProvenanceInvalid
from protocol.manifest import Layer, format_time
from protocol.mir import check_pattern, matches
from protocol.model_name import ModelName, format_model_name, parse_model_name
from protocol.modelfile import Modelfile
from protocol.provenance import Provenance, decode_and_verify_provenance
from store.bases import LocalBases, Located
from store.build import BuildRequest, BuiltModel, build_model
from store.errors import ModelUnknown, VersionTaken
from store.fetched import Remote
from store.foreign import ForeignModel
from store.log import Log
from store.models import ModelStore, StoredModel
from store.provenance import publish_model
from store.rebuild import CheckReport, check_build

DEMO: ModelName = parse_model_name(DEMO_NAME)
# Greedy, because a model this small answers well only so.
_DEMO_RECIPE = Modelfile(DEMO_NAME, parameters=(("temperature", 0.0),))
Found = TypeVar("Found")
# Chunks are hashed in runs of this many, about 4 MiB.
_CHUNK_RUN = 64


async def _unheard(event: dict[str, object]) -> None:
    """Nobody waits for the embedded model to be built."""


@dataclass(frozen=True)
class Checked:
    """A model of which every byte was hashed again and every signature and proof checked again.

    `provenance` is None where nobody signed it, as with models from registries that have none.
    """

    model: StoredModel
    provenance: Provenance | None
    chunks: int
    size_bytes: int


class Catalog:
    """What `list`, `show`, `create`, `rm` and `verify` do, and where the models service finds its files."""

    def __init__(
        self,
        store: ModelStore,
        log: Log,
        key: DeviceKey,
        threads: Threads,
        clock: Clock,
        entropy: Entropy,
        published: Callable[[bytes], Awaitable[None]],
        remotes: Sequence[Remote] = (),
    ) -> None:
        """`published(bundle)` is awaited after every publication, the embedded model's included.

        `remotes` are the places beyond this store that FROM may name.
        """
        self._store = store
        self._log = log
        self._key = key
        self._threads = threads
        self._clock = clock
        self._entropy = entropy
        self._published = published
        self._remotes = remotes
        self._embedding = trio.Lock()
        self._served = ServedModels(store)

    async def list(self) -> Sequence[ListedModel]:
        """Return every model, the newest first; the embedded one last while it is not in the store."""
        return await self._threads.store(list_models, self._store)

    async def find(self, name: str) -> ServedModel:
        """Return the model that `name` means; the embedded one is built, signed and logged at its first use.

        Raises:
            ModelNotFound: there is none.
        """
        return await self._named(name, self._served.find)

    async def stored(self, name: str) -> StoredModel:
        """Return the model in the store that `name` means. Raises as `find`."""
        return await self._named(name, self._store.resolve)

    async def directory(self, digest: Digest) -> Path:
        """Return a directory with the model's files, verified, for the worker to read."""
        return await self._threads.store(self._store.materialize, digest)

    async def anatomy(self, digest: Digest) -> Anatomy:
        """Return how the model of a manifest is made, as its files say it."""
        return await self._threads.store(read_stored, self._store, digest)

    async def create(
        self, request: BuildRequest, emit: Emit, known: Mapping[str, Located] | None = None
    ) -> tuple[StoredModel, Provenance]:
        """Build, sign and log a model; return it and its provenance. `emit` is told how far the work is.

        When the caller leaves, the work stops and nothing of it stays. `known` are names of the recipe that stand for
        files which lie somewhere already.

        Raises:
            ModelNameInvalid: the name is the embedded model's.
            TemplateInvalid: the recipe's template cannot run.
            BuildRefused, SafetensorsInvalid: what FROM names cannot be built from.
            VersionTaken: the release stands for another model.
            LogRolledBack: this device signs nothing any more.
            DiskFull, DiskFailed: the name was not moved.
        """
        if request.name == DEMO:
            name = format_model_name(request.name)
            raise ModelNameInvalid(name, "the name of the embedded model; take another one or another tag")
        await self._threads.store(check_recipe, request.modelfile)
        if _is_demo(request.modelfile.base):
            await emit({"status": f"embedding {DEMO_NAME}"})
            await self._embed()
        provenance = await self._publish(request, emit, known)
        return await self._threads.store(self._store.resolve, request.name), provenance

    async def check_build(self, name: str, source: Path | None, emit: Emit) -> CheckReport:
        """Build the model `name` again and compare; `source` is the directory where its weights lie now.

        Raises:
            ModelNotFound: there is none.
            BuildRecordMissing, BuildSourceGone: it cannot be built again.
        """
        model = await self.stored(name)
        bases, conversion = self._bases(), Conversion(emit)
        return await self._threads.reporting(
            lambda report: check_build(
                self._store, model.name, bases=bases, convert=conversion, report=report, source_dir=source
            ),
            emit,
        )

    async def verify(self, name: str) -> Checked:
        """Hash every byte and every chunk again, and check signatures, log proofs and names.

        Raises:
            LayerCorrupt, BlobMissing: a byte changed or is gone; what changed is in quarantine.
            ProvenanceInvalid: it was signed, and the proof does not hold.
            ModelNotFound: there is none.
        """
        model = await self.stored(name)
        return await self._threads.store(self._check, model)

    def provenance(self, digest: Digest) -> Provenance | None:
        """Return the verified provenance of a manifest, None where none is kept; blocking."""
        return load_provenance(self._store, digest)

    async def _named(self, name: str, read: Callable[[ModelName], Found]) -> Found:
        """Return what `read` finds under `name`, in a thread."""
        try:
            parsed = parse_model_name(name)
            try:
                return await self._threads.store(read, parsed)
            except ModelUnknown:
                if parsed != DEMO:
                    raise
                await self._embed()
                return await self._threads.store(read, parsed)
        except ModelUnknown as error:
            raise ModelNotFound(name, error.nearest) from error
        except ModelNameInvalid as error:
            raise ModelNotFound(name) from error

    async def _embed(self) -> None:
        async with self._embedding:
            if await self._threads.store(self._store.refs.get, DEMO) is None:
                await self._publish(BuildRequest(_DEMO_RECIPE, DEMO, demo_directory(), 0), _unheard)

    async def _publish(
        self, request: BuildRequest, emit: Emit, known: Mapping[str, Located] | None = None
    ) -> Provenance:
        bases, conversion = self._bases(), Conversion(emit)
        built = await self._threads.reporting(
            lambda report: build_model(
                self._store, request, bases=bases, convert=conversion, report=report, known=known
            ),
            emit,
        )
        with trio.CancelScope(shield=True):  # what is signed and logged is also told
            bundle = await self._threads.store(self._sign, request.name, built)
            await self._published(bundle)
        return decode_and_verify_provenance(bundle)

    def _bases(self) -> LocalBases:
        return LocalBases({name: demo_directory() for name in (DEMO_NAME, format_model_name(DEMO))}, self._remotes)

    def _sign(self, name: ModelName, built: BuiltModel) -> bytes:
        try:
            held = self._store.refs.get(name) if name.version else None
            if held is not None and held != built.manifest:  # before the log hears of it
                raise VersionTaken(format_model_name(name), held, built.manifest)
            return publish_model(
                blobs=self._store.blobs,
                refs=self._store.refs,
                log=self._log,
                key=self._key,
                name=name,
                manifest=built.manifest,
                build=built.record,
                now_s=self._clock.now_s(),
                entropy=self._entropy.random_bytes,
            )
        except BaseException:
            self._store.discard(built.lease)
            raise

    def _check(self, model: StoredModel) -> Checked:
        report = self._store.verify(model.name)
        maps = [chunk_map for layer in model.layers if (chunk_map := self._store.chunk_map(layer)) is not None]
        for chunk_map in maps:
            self._check_chunks(chunk_map)
        provenance = self._require_provenance(model.digest)
        return Checked(model, provenance, sum(map(len, maps)), report.size_bytes)

    def _require_provenance(self, digest: Digest) -> Provenance | None:
        """Return the provenance, None for a model that nobody signed; bundles that are there must verify."""
        found = self.provenance(digest)
        if found is None and self._store.provenance.all(digest):
            raise ProvenanceInvalid("bundle", f"what is kept of {short_digest(digest)} does not verify")
        return found

    def _check_chunks(self, chunk_map: ChunkMap) -> None:
        for first in range(0, len(chunk_map), _CHUNK_RUN):
            self._store.blobs.read_chunks(chunk_map, first, min(_CHUNK_RUN, len(chunk_map) - first))


def list_models(store: ModelStore) -> Sequence[ListedModel]:
    """Return every model, the newest first; the embedded one last while it is not in the store. Needs no node."""
    stored = [listed_model(model, model.facts) for model in store.listing() if model.facts is not None]
    models = sorted(stored, key=lambda model: -model.modified_s)
    if not any(model.name == format_model_name(DEMO) for model in stored):
        models.append(embedded_model())
    return models


def with_mir(models: Sequence[ListedModel], pattern: str | None) -> Sequence[ListedModel]:
    """Return the models whose MIR name `pattern` finds; all of them where it is None.

    Raises:
        MirInvalid: it is no pattern.
    """
    if pattern is None:
        return models
    check_pattern(pattern)
    return [model for model in models if model.mir is not None and matches(model.mir, pattern)]


def check_recipe(recipe: Modelfile) -> None:
    """Accept a recipe whose template can run.

    Raises:
        TemplateInvalid: it is not Jinja; see its subclass for Go's language.
    """
    if recipe.template is not None:
        # Imported here: a node that builds nothing is spared Jinja.
        from node.models.templates import check_template

        check_template(recipe.template)


def load_provenance(store: ModelStore, digest: Digest) -> Provenance | None:
    """Return the verified provenance of a manifest, None where none is kept."""
    bundle = store.provenance.load(digest) if digest else None
    return decode_and_verify_provenance(bundle) if bundle is not None else None


def foreign_facts(model: ForeignModel) -> dict[str, object]:
    """Return what `list` says of a model that another program put into the store."""
    return {
        "reference": model.reference,
        "manifest": model.digest,
        "size_bytes": model.size_bytes,
        "problem": model.problem,
    }


def model_facts(model: ListedModel, name_of: Callable[[DeviceId], str]) -> dict[str, object]:
    """Return what a list shows of a model."""
    return {
        "name": model.name,
        "manifest": model.digest,
        "size_bytes": model.size_bytes,
        "modified_s": model.modified_s,
        "embedded": not model.digest,
        "publisher": model.publisher,
        "publisher_name": name_of(DeviceId(model.publisher)) if model.publisher else "",
        "mir": str(model.mir or ""),
    }


def layer_facts(layer: Layer) -> dict[str, object]:
    """Return what is shown of a layer."""
    return {
        "digest": layer.digest,
        "size_bytes": layer.size,
        "file": layer.filepath,
        "media_type": layer.media_type,
        "chunk_map": layer.chunk_map.digest if layer.chunk_map else None,
    }


def build_facts(record: BuildRecord) -> dict[str, object]:
    """Return what is shown of how a model was built."""
    return {
        "sources": [
            {
                "kind": str(source.kind),
                "name": source.name,
                "revision": source.revision,
                "files": [{"file": file.path, "digest": file.digest, "size_bytes": file.size} for file in source.files],
            }
            for source in record.sources
        ],
        "quantization": str(record.quantization),
        "tokenizer": record.tokenizer,
        "tools": dict(record.tools),
        "created": format_time(record.created_s),
        "content": format_oci_digest(record.content),
    }


def provenance_facts(provenance: Provenance, name_of: Callable[[DeviceId], str]) -> dict[str, object]:
    """Return what is shown of a provenance: who signed what, and where it is logged."""
    return {
        "publisher": provenance.publisher,
        "publisher_name": name_of(provenance.publisher),
        "signed_name": provenance.name,
        "entries": [provenance.build.index, provenance.sign.index],
        "log_size": provenance.log_size,
        "log_root": provenance.log_root.hex(),
    }


def _is_demo(base: str) -> bool:
    try:
        return parse_model_name(base) == DEMO
    except ModelNameInvalid:
        return False
