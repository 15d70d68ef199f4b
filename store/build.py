"""Building a model: from a recipe and the files it names to a manifest, the same one wherever and whenever it runs."""

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Final

from protocol.attestation import Artifact
from protocol.build_record import (
    BUILD_RECORD,
    BuildRecord,
    ResolvedSource,
    SourceKind,
    content_digest,
    encode_build_record,
)
from protocol.chunkmap import ALGORITHM, VERSION
from protocol.digest import Digest, digest_of, parse_digest
from protocol.manifest import (
    CONFIG_MEDIA_TYPE,
    CREATED,
    DOC,
    MIR,
    Descriptor,
    Layer,
    Manifest,
    encode_manifest,
    format_time,
)
from protocol.model_config import ModelConfig, encode_config
from protocol.model_name import format_model_name
from protocol.modelfile import Modelfile, format_modelfile, inherit_modelfile, parse_modelfile
from store.adapters import ADAPTER_HERE
from store.base_parts import BuildRequest, Convert, PartsReader
from store.bases import Bases, LocalBases, Located, Places, shown_path
from store.build_places import remember_places
from store.drafts import DRAFT_HERE
from store.fetched import Report
from store.leases import Lease
from store.models import HERE, MODELFILE, ModelStore, StoredModel

_OWN_FILES: Final = (MODELFILE, BUILD_RECORD)  # of a base: written anew for what is built from it
__all__ = ["AttestedBuild", "BuildRequest", "BuiltModel", "Convert", "build_model"]

_MACHINE: Final = ("device", "host")  # facts about where a build ran: attested, and no part of the model


@dataclass(frozen=True)
class AttestedBuild:
    """What a build attests beside its manifest: what was asked for, what went in, what did the work and where."""

    sources: tuple[Artifact, ...]
    external_parameters: Mapping[str, str]
    tool_versions: Mapping[str, str]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class BuiltModel:
    """A manifest that is in the store with all its blobs, to which no name leads yet.

    The blobs stay until a name stands for the manifest, or nobody holds this object any more. `recorded` is what
    `build.json` in it says.
    """

    manifest: Digest
    record: AttestedBuild
    recorded: BuildRecord
    layers: tuple[Layer, ...]
    lease: Lease = field(repr=False, compare=False)


_NOTHING_ELSE: Final = LocalBases()


def _unheard(event: dict[str, object]) -> None:
    """Nobody listens."""


def build_model(
    store: ModelStore,
    request: BuildRequest,
    *,
    bases: Bases = _NOTHING_ELSE,
    convert: Convert | None = None,
    report: Report = _unheard,
    known: Mapping[str, StoredModel | Located] | None = None,
) -> BuiltModel:
    """Store the model that `request` describes and return its manifest, which no name stands for yet.

    What FROM means is in `Places.locate`; `known` are names that stand for something already. `report` is told how far
    the work is, and may raise to stop it.

    Raises:
        BuildRefused: what FROM, ADAPTER or DRAFT names cannot be built from, or the weights cannot be packed as asked.
        SafetensorsInvalid: a weight file is cut off or otherwise not what its header says.
        LayerCorrupt: a file is not what was promised.
        DiskFull, DiskFailed: nothing was named; what was stored is not in anybody's way.
    """
    # One spelling, so that a recipe that was put together in a program is the one that a file would have given.
    request = replace(request, modelfile=parse_modelfile(format_modelfile(request.modelfile)))
    lease = store.leases.take()
    try:
        places = Places(store, request.base_dir, bases, lease, report, bool(request.name.version), known or {})
        return _Build(store, request, places, convert).run()
    except BaseException:
        store.discard(lease)
        raise


class _Build:
    """One build; everything it stores is kept by the lease of `places`."""

    def __init__(self, store: ModelStore, request: BuildRequest, places: Places, convert: Convert | None) -> None:
        self._store = store
        self._request = request
        self._places = places
        self._convert = convert
        self._lease = places.lease

    def run(self) -> BuiltModel:
        parts = PartsReader(self._request, self._places, self._convert).read()
        request = self._request
        created_s = request.created_s if request.created_s is not None else parts.time_s or 0
        record = BuildRecord(
            recipe=format_modelfile(_shown(request.modelfile)),
            sources=parts.sources,
            quantization=request.quantization,
            tokenizer=shown_path(request.tokenizer or ""),
            tools={**_tool_versions(), **{k: v for k, v in parts.tools.items() if k not in _MACHINE}},
            created_s=created_s,
            content=content_digest(row for taken in parts.taken for row in taken.tensors),
        )
        recipe = replace(inherit_modelfile(parts.recipe, request.modelfile), base=HERE)
        recipe = replace(recipe, adapter=ADAPTER_HERE) if recipe.adapter else recipe
        recipe = replace(recipe, draft=DRAFT_HERE) if recipe.draft else recipe
        layers = (
            *(taken.layer for taken in parts.taken),
            self._document(MODELFILE, format_modelfile(recipe).encode()),
            self._document(BUILD_RECORD, encode_build_record(record)),
        )
        layers = tuple(sorted(layers, key=lambda layer: layer.filepath))
        annotations = {CREATED: format_time(created_s), **({MIR: recipe.mir} if recipe.mir else {})}
        manifest = self._publish(layers, parts.config, created_s, annotations)
        self._lease.until_named = manifest
        remember_places(self._store.layout, manifest, self._places.visited)
        attested = AttestedBuild(
            sources=tuple(artifact for source in parts.sources for artifact in _artifacts(source)),
            external_parameters={
                "name": format_model_name(request.name),
                "modelfile": record.recipe,
                "created": format_time(created_s),
                "quantization": str(request.quantization),
            },
            tool_versions={**record.tools, **parts.tools, "host": f"{sys.platform} {platform.machine()}"},
            left_out=parts.left_out,
        )
        return BuiltModel(manifest, attested, record, layers, self._lease)

    def _document(self, filepath: str, content: bytes) -> Layer:
        self._lease.add(digest_of(content))
        return Layer(self._store.blobs.publish_bytes(content), len(content), DOC, filepath)

    def _publish(
        self, layers: tuple[Layer, ...], config: ModelConfig, created_s: int, annotations: Mapping[str, str]
    ) -> Digest:
        blobs = self._store.blobs
        config_blob = encode_config(config, [layer.digest for layer in layers], created_s)
        self._lease.add(digest_of(config_blob))
        descriptor = Descriptor(blobs.publish_bytes(config_blob), len(config_blob), CONFIG_MEDIA_TYPE)
        manifest = encode_manifest(Manifest(descriptor, layers, annotations))
        self._lease.add(digest_of(manifest))
        return blobs.publish_bytes(manifest)


def _artifacts(source: ResolvedSource) -> tuple[Artifact, ...]:
    if source.kind is SourceKind.MODEL:
        return (Artifact(source.name, parse_digest(source.revision)),)
    return tuple(Artifact(file.path, file.digest) for file in source.files)


def _shown(modelfile: Modelfile) -> Modelfile:
    adapter = None if modelfile.adapter is None else shown_path(modelfile.adapter)
    draft = None if modelfile.draft is None else shown_path(modelfile.draft)
    return replace(modelfile, base=shown_path(modelfile.base), adapter=adapter, draft=draft)


def _tool_versions() -> dict[str, str]:
    return {
        "tilenode": version("tilenode"),
        "pyfastcdc": version("pyfastcdc"),
        "chunkmap": f"{VERSION}.{ALGORITHM}",
    }
