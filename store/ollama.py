"""Models in Ollama's own store on this machine: those of its newer, safetensors kind; GGUF is refused with the reason.

<models>/manifests/<host>/<namespace>/<name>/<tag>    JSON: layers {mediaType, digest, size, name}
<models>/blobs/sha256-<64 hex>                        one blob a tensor (or a packed group), and one a JSON file

A tensor's blob is a small safetensors file. The tensor in it has its own name, or in older models `data`: then the
layer's name is the tensor's. A quantised one lies with `NAME.scale` and `NAME.bias` and says how in its metadata
(`quant_type`, `group_size`); int4 and int8 are the affine packing that mlx-lm knows under other names. All tensors
become one canonical file, so weights are written once and JSON files are linked. Written from Ollama's source code; no
model of Ollama's was at hand. Source: specs/0021-builds.md §Caches.
"""

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.build_record import SourceKind
from protocol.canonical_json import decode_json, encode_json
from protocol.digest import Digest, digest_of, parse_digest
from protocol.errors import DigestInvalid, JsonInvalid
from store.blobs import BLOCK_BYTES, hash_file
from store.disk import disk_errors, open_regular
from store.errors import (
    CacheModelUnknown,
    FormatUnsupported,
    HubFileCorrupt,
    LayerCorrupt,
    RepositoryNameInvalid,
    SourceInvalid,
)
from store.fetched import Fetched, Moved, Report, Wanted, fetched_event
from store.leases import Lease
from store.models import ModelStore
from store.safetensors import LENGTH_BYTES, SafetensorsHeader, Tensor, header_bytes, parse_header, write_tensors
from store.sources import CONFIG, MAX_CONFIG_BYTES, FileAt, Origin, wanted_of_repository
from store.take import Way, take_file

PREFIX: Final = "ollama:"
WEIGHTS: Final = "model.safetensors"
MAX_MANIFEST_BYTES: Final = 16 << 20
MAX_LAYERS: Final = 40_000
MAX_JSON_BYTES: Final = 256 << 20
MAX_SHOWN: Final = 5

_MEDIA: Final = "application/vnd.ollama.image."
_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", re.ASCII)
_DEFAULT_NAMESPACE: Final = "library"
_BITS: Final[Mapping[str, int]] = {"int4": 4, "int8": 8}
_GROUP_SIZES: Final = ("32", "64", "128")
_counter: Final = itertools.count(1)


@dataclass(frozen=True)
class OllamaName:
    """`[host/][namespace/]name[:tag]`; an empty host is any."""

    host: str
    namespace: str
    name: str
    tag: str

    def __str__(self) -> str:
        parts = [self.host, self.namespace, self.name]
        shown = parts[0 if self.host else 1 if self.namespace != _DEFAULT_NAMESPACE else 2 :]
        return f"{PREFIX}{'/'.join(shown)}:{self.tag}"


@dataclass(frozen=True)
class OllamaLayer:
    """A layer as the manifest has it; `kind` is the last part of its media type."""

    kind: str
    digest: Digest
    size: int
    name: str


@dataclass(frozen=True)
class _Place:
    """Where a tensor's bytes lie."""

    path: Path
    tensor: Tensor


def parse_ollama_name(text: str) -> OllamaName:
    """Return the name that `ollama:[host/][namespace/]name[:tag]` spells.

    Raises:
        RepositoryNameInvalid: anything else.
    """
    *parents, last = text.removeprefix(PREFIX).split("/")
    name, colon, tag = last.partition(":")
    if len(parents) > 2:
        raise RepositoryNameInvalid(text)
    host, namespace = ["", _DEFAULT_NAMESPACE][: 2 - len(parents)] + parents
    found = OllamaName(host, namespace, name, tag if colon else "latest")
    for part in (found.host or "any", found.namespace, found.name, found.tag):
        if not _PART.fullmatch(part) or ".." in part:
            raise RepositoryNameInvalid(text)
    return found


class OllamaCache:
    """Ollama's model directory; it need not be there. It is only read."""

    title: Final = "Ollama's models"

    def __init__(self, root: Path) -> None:
        self._manifests = root / "manifests"
        self._blobs = root / "blobs"

    def owns(self, base: str) -> bool:
        """Return whether `base` begins with `ollama:`."""
        return base.startswith(PREFIX)

    def may_have(self, base: str) -> bool:
        """Return False: Ollama's models are only taken when they are asked for by that prefix."""
        return False

    def fetch_base(
        self, store: ModelStore, base: str, lease: Lease, report: Report, wanted: Wanted = Wanted.MODEL
    ) -> Fetched:
        """Return the wanted files of the model `base`; see `Remote`. Its adapters are GGUF and none of them."""
        name = parse_ollama_name(base)
        manifest = self._read_manifest(name)
        layers = parse_manifest(str(name), manifest)
        _refuse_other_kinds(str(name), layers)
        taking = _Taking(self._blobs, str(name), store, lease, report)
        return taking.run(layers, digest_of(manifest), wanted)

    def names(self) -> tuple[str, ...]:
        """Return what there is, as it is spelled after FROM."""
        found = []
        for path in sorted(self._manifests.glob("*/*/*/*")):
            host, namespace, name, tag = path.relative_to(self._manifests).parts
            if all(_PART.fullmatch(part) for part in (host, namespace, name, tag)):
                found.append(str(OllamaName("", namespace, name, tag)))
        return tuple(dict.fromkeys(found))

    def _read_manifest(self, name: OllamaName) -> bytes:
        with disk_errors(self._manifests):
            hosts = [name.host] if name.host else sorted(p.name for p in self._manifests.glob("*") if p.is_dir())
        for host in hosts:
            try:
                with open_regular(self._manifests / host / name.namespace / name.name / name.tag) as file:
                    return file.read(MAX_MANIFEST_BYTES + 1)
            except OSError:
                continue
        raise CacheModelUnknown(str(name), self._manifests.parent, self.names()[:MAX_SHOWN])


def parse_manifest(name: str, data: bytes) -> tuple[OllamaLayer, ...]:
    """Return the layers that Ollama's manifest of `name` lists.

    Raises:
        SourceInvalid: no manifest, more than 40,000 layers, or a digest or size that cannot be.
    """
    try:
        document = decode_json(data, MAX_MANIFEST_BYTES, "manifest")
    except JsonInvalid as error:
        raise SourceInvalid(f"manifest of {name}", error.reason) from None
    layers = document.get("layers") if isinstance(document, dict) else None
    if not isinstance(layers, list) or len(layers) > MAX_LAYERS:
        raise SourceInvalid(f"manifest of {name}", f"no list of at most {MAX_LAYERS} layers")
    return tuple(_parse_layer(name, index, layer) for index, layer in enumerate(layers))


def _parse_layer(name: str, index: int, layer: object) -> OllamaLayer:
    where = f"manifest of {name}: layers[{index}]"
    if not isinstance(layer, dict):
        raise SourceInvalid(where, "no layer")
    kind, size, filename = layer.get("mediaType"), layer.get("size"), layer.get("name", "")
    if not isinstance(kind, str) or type(size) is not int or size < 0 or not isinstance(filename, str):
        raise SourceInvalid(where, "no media type, size or name")
    try:
        digest = parse_digest(str(layer.get("digest")))
    except DigestInvalid as error:
        raise SourceInvalid(where, str(error)) from None
    return OllamaLayer(kind.removeprefix(_MEDIA), digest, size, filename)


def _refuse_other_kinds(name: str, layers: tuple[OllamaLayer, ...]) -> None:
    kinds = {layer.kind for layer in layers}
    if "model" in kinds:
        raise FormatUnsupported(name, "Ollama keeps its weights as GGUF, which is not read here")
    if "tensor" not in kinds:
        raise FormatUnsupported(name, "no weights that are read here")
    if any("/" in layer.name for layer in layers if layer.kind in ("tensor", "json")):
        raise FormatUnsupported(name, "a model of several parts (images), which is not read here")


class _Taking:
    """One model of Ollama's on its way into the store."""

    def __init__(self, blobs: Path, name: str, store: ModelStore, lease: Lease, report: Report) -> None:
        self._blobs = blobs
        self._name = name
        self._store = store
        self._lease = lease
        self._report = report
        self._moved = Moved()
        self._places: dict[str, _Place] = {}
        self._quantized: dict[str, tuple[int, int]] = {}
        self._written = 0

    def run(self, layers: tuple[OllamaLayer, ...], manifest: Digest, wanted: Wanted) -> Fetched:
        tensors = [layer for layer in layers if layer.kind == "tensor" and wanted is Wanted.MODEL]
        names = set(wanted_of_repository([WEIGHTS, *(layer.name for layer in layers if layer.kind == "json")]))
        files = [layer for layer in layers if layer.kind == "json" and layer.name in names]
        self._store.require_space(sum(layer.size for layer in (*tensors, *files)))
        for layer in tensors:
            self._read_tensors(layer)
        taken = {WEIGHTS: self._write_weights()} if tensors else {}
        for layer in files:
            taken[layer.name] = self._take_config(layer) if layer.name == CONFIG else self._take(layer)
        origin = Origin(SourceKind.CACHE, self._name, manifest)
        self._report(fetched_event(origin, self._moved, OllamaCache.title))
        return Fetched(
            files={path: FileAt(self._store.layout.blob_path(digest), digest) for path, digest in taken.items()},
            origin=origin,
            moved=self._moved,
            skipped=tuple(sorted({layer.name or layer.kind for layer in layers if layer not in (*tensors, *files)})),
        )

    def _path(self, layer: OllamaLayer) -> Path:
        return self._blobs / f"sha256-{layer.digest}"

    def _read_tensors(self, layer: OllamaLayer) -> None:
        """Note where each tensor of a blob lies, under the name that mlx-lm has for it."""
        header = self._read_header(layer)
        named = {tensor.name if tensor.name != "data" else layer.name: tensor for tensor in header.tensors}
        for name, tensor in named.items():
            quantization = self._quantization(header, name)
            if quantization is not None and f"{name}.scale" in named:
                module = name.removesuffix(".weight")
                self._quantized[module] = quantization
                self._place(layer, tensor, f"{module}.weight")
                self._place(layer, named[f"{name}.scale"], f"{module}.scales")
                if f"{name}.bias" in named:
                    self._place(layer, named[f"{name}.bias"], f"{module}.biases")
            elif not _is_part_of_quantized(name, named):
                self._place(layer, tensor, name)

    def _place(self, layer: OllamaLayer, tensor: Tensor, name: str) -> None:
        if name in self._places:
            raise SourceInvalid(self._name, f"tensor {name[:80]!r} is there twice")
        self._places[name] = _Place(self._path(layer), tensor)

    def _quantization(self, header: SafetensorsHeader, name: str) -> tuple[int, int] | None:
        """Return (bits, group size) of a packed tensor, None of a plain one."""
        if f"{name}.scale" not in {tensor.name for tensor in header.tensors}:
            return None
        kind = header.metadata.get(f"{name}.quant_type", header.metadata.get("quant_type", "no known packing"))
        group = header.metadata.get(f"{name}.group_size", header.metadata.get("group_size", ""))
        if kind not in _BITS or group not in _GROUP_SIZES:
            raise FormatUnsupported(self._name, f"tensor {name[:80]} is packed as {kind[:20]}, which is not read here")
        return _BITS[kind], int(group)

    def _read_header(self, layer: OllamaLayer) -> SafetensorsHeader:
        path = self._path(layer)
        with disk_errors(path), open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size != layer.size:
                raise SourceInvalid(layer.name[:80], f"its blob has {size} bytes, the manifest says {layer.size}")
            if hash_file(file)[0] != layer.digest:
                raise HubFileCorrupt(self._name, layer.name[:80], OllamaCache.title)
            file.seek(0)
            prefix = file.read(LENGTH_BYTES)
            length = header_bytes(layer.name, prefix, size)
            return parse_header(layer.name, prefix + file.read(length - LENGTH_BYTES), size)

    def _write_weights(self) -> Digest:
        types = {name: (place.tensor.dtype, place.tensor.shape) for name, place in self._places.items()}
        path = self._store.layout.temporary / f"{os.getpid()}-ollama-{next(_counter)}"
        try:
            write_tensors(path, types, self._read_tensor, {"format": "mlx"})
            with disk_errors(path), open_regular(path) as file:
                digest, size = hash_file(file)
            self._lease.add(digest)
            take_file(self._store.blobs, path, digest)
        finally:
            path.unlink(missing_ok=True)
        self._moved += Moved(copied_bytes=size)
        return digest

    def _read_tensor(self, name: str) -> Iterator[bytes]:
        place = self._places[name]
        total = sum(place.tensor.length for place in self._places.values())
        self._report(
            {
                "status": "writing",
                "source": f"{WEIGHTS} from {OllamaCache.title}",
                "completed": self._written,
                "total": total,
            }
        )
        self._written += place.tensor.length
        with disk_errors(place.path), open_regular(place.path) as file:
            file.seek(place.tensor.offset)
            left = place.tensor.length
            while left and (piece := file.read(min(left, BLOCK_BYTES))):
                left -= len(piece)
                yield piece

    def _take(self, layer: OllamaLayer) -> Digest:
        self._lease.add(layer.digest)
        if self._store.blobs.has(layer.digest):
            self._moved += Moved(stored_bytes=layer.size)
            return layer.digest
        try:
            way = take_file(self._store.blobs, self._path(layer), layer.digest)
        except LayerCorrupt:
            raise HubFileCorrupt(self._name, layer.name[:80], OllamaCache.title) from None
        self._moved += Moved(copied_bytes=layer.size) if way is Way.COPY else Moved(linked_bytes=layer.size)
        return layer.digest

    def _take_config(self, layer: OllamaLayer) -> Digest:
        """Take config.json; of a packed model with the packing written down as mlx-lm reads it."""
        if not self._quantized:
            return self._take(layer)
        path = self._path(layer)
        with disk_errors(path), open_regular(path) as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
        try:
            config = decode_json(data, MAX_CONFIG_BYTES, CONFIG)
        except JsonInvalid as error:
            raise SourceInvalid(CONFIG, error.reason) from None
        if not isinstance(config, dict):
            raise SourceInvalid(CONFIG, "no JSON object")
        (bits, group), _ = Counter(self._quantized.values()).most_common(1)[0]
        others = {
            module: {"bits": own_bits, "group_size": own_group}
            for module, (own_bits, own_group) in self._quantized.items()
            if (own_bits, own_group) != (bits, group)
        }
        content = encode_json({**config, "quantization": {"bits": bits, "group_size": group, **others}})
        self._lease.add(digest_of(content))
        self._moved += Moved(copied_bytes=len(content))
        return self._store.blobs.publish_bytes(content)


def _is_part_of_quantized(name: str, named: Mapping[str, Tensor]) -> bool:
    base, _, last = name.rpartition(".")
    return last in ("scale", "bias") and base in named and f"{base}.scale" in named
