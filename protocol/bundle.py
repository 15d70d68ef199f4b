"""Bundles: models carried by hand, every file of them under one signed index (specs/0026).

`bundle.json` is the index, canonical JSON; `bundle.dsse` signs its hash. No path is ever taken from either: a file is
named by its digest, and the four others have fixed names.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from identity.did import DeviceId, parse_did
from identity.errors import DidInvalid
from identity.keys import DeviceKey
from protocol.canonical_json import Json, decode_json, encode_json
from protocol.codec import decode_message, encode_message
from protocol.digest import Digest, digest_of, format_oci_digest, parse_digest
from protocol.dsse import open_envelope, sign_envelope
from protocol.errors import (
    BundleInvalid,
    CodecInvalid,
    DigestInvalid,
    EnvelopeInvalid,
    FieldInvalid,
    JsonInvalid,
    ModelNameInvalid,
)
from protocol.manifest import MAX_BLOB_BYTES
from protocol.model_name import ModelName, format_model_name, parse_model_name
from protocol.tlog import HASH_BYTES

VERSION: Final = 1
PATCH_MAGIC: Final = b"TNBP\x00\x01"  # version 1; then u32be chunk number and the chunk's bytes, again and again
PAYLOAD_TYPE: Final = "application/vnd.tilenode.bundle.v1+json"
MAX_INDEX_BYTES: Final = 16 << 20
MAX_SIGNATURE_BYTES: Final = 4096
MAX_MODELS: Final = 256
MAX_BLOBS: Final = 65_536
MAX_PROVENANCE: Final = 1024
MAX_LOGS: Final = 256
MAX_LEAVES: Final = 65_536
# Manifests, provenance and logs are held in memory while a bundle is open: of each kind so much together.
MAX_HELD_BYTES: Final = 32 << 20
MAX_LOG_BYTES: Final = MAX_LEAVES * HASH_BYTES + 8192
MAX_CREATED_S: Final = 2**33
_MAX_NOTE_BYTES: Final = 4096
_MAX_DID_BYTES: Final = 80
_KEYS: Final = frozenset(
    {
        "version", "exporter", "created_s", "models", "blobs", "absent", "bases", "parts", "provenance", "logs",
        "layout", "index",
    }
)  # fmt: skip


@dataclass(frozen=True, order=True)
class BundledFile:
    """A file of the bundle by digest and size in bytes."""

    digest: Digest
    size: int


@dataclass(frozen=True)
class BundledModel:
    """A model under the name it has on the exporting device, and the provenance bundles that come with it."""

    name: ModelName
    manifest: Digest
    provenance: tuple[Digest, ...]


class How(StrEnum):
    """What a part is: a patch holds the chunks that the base lacks, a delta is one of specs/0025."""

    PATCH = "patch"
    DELTA = "delta"


@dataclass(frozen=True)
class BundledPart:
    """How an absent blob is made on the other side: the file among the blobs, and the blob that it goes on top of."""

    blob: Digest
    how: How
    base: Digest
    file: Digest


@dataclass(frozen=True)
class BundleIndex:
    """Everything that is in a bundle; files in digest order, models in name order, parts in blob order.

    `absent` are blobs that the models need and that are not carried whole: the models `bases` (manifest digests) have
    them, or what `parts` go on top of. `layout` and `index` are the files `oci-layout` and `index.json`.
    """

    exporter: DeviceId
    created_s: int
    models: tuple[BundledModel, ...]
    blobs: tuple[BundledFile, ...]
    absent: tuple[BundledFile, ...]
    bases: tuple[Digest, ...]
    parts: tuple[BundledPart, ...]
    provenance: tuple[BundledFile, ...]
    logs: tuple[BundledFile, ...]
    layout: BundledFile
    index: BundledFile

    @property
    def size_bytes(self) -> int:
        """Bytes of the blobs that are carried."""
        return sum(blob.size for blob in self.blobs)


@dataclass(frozen=True)
class CarriedLog:
    """A log as its own device carries it: the newest signed checkpoint and the hash of every entry under it.

    With them any earlier checkpoint can be compared, without asking the device.
    """

    origin: DeviceId
    checkpoint: bytes
    leaves: tuple[bytes, ...]


def encode_index(index: BundleIndex) -> bytes:
    """Return the canonical bytes of `bundle.json`.

    Raises:
        BundleInvalid: an index that `decode_index` would refuse.
    """
    document: dict[str, Json] = {
        "version": VERSION,
        "exporter": index.exporter,
        "created_s": index.created_s,
        "models": [_model_document(model) for model in index.models],
        "blobs": _file_documents(index.blobs),
        "absent": _file_documents(index.absent),
        "bases": [format_oci_digest(base) for base in index.bases],
        "parts": [_part_document(part) for part in index.parts],
        "provenance": _file_documents(index.provenance),
        "logs": _file_documents(index.logs),
        "layout": _file_document(index.layout),
        "index": _file_document(index.index),
    }
    data = encode_json(document)
    decode_index(data)
    return data


def decode_index(data: bytes) -> BundleIndex:
    """Return the index that `data` holds, in its one spelling; at most 16 MiB.

    Raises:
        BundleInvalid: another version, an unknown key, a file twice or out of order, a model without its manifest.
    """
    try:
        document = _object("bundle.json", decode_json(data, MAX_INDEX_BYTES, "bundle.json"), _KEYS)
    except JsonInvalid as error:
        raise BundleInvalid("bundle.json", error.reason) from None
    if type(document["version"]) is not int or document["version"] != VERSION:
        raise BundleInvalid("version", f"{str(document['version'])[:20]}, {VERSION} is known")
    index = BundleIndex(
        exporter=_did(document["exporter"]),
        created_s=_number("created_s", document["created_s"], MAX_CREATED_S),
        models=_models(document["models"]),
        blobs=_files("blobs", document["blobs"], MAX_BLOBS),
        absent=_files("absent", document["absent"], MAX_BLOBS),
        bases=_digests("bases", document["bases"], MAX_MODELS),
        parts=_parts(document["parts"]),
        provenance=_files("provenance", document["provenance"], MAX_PROVENANCE),
        logs=_files("logs", document["logs"], MAX_LOGS),
        layout=_file("layout", document["layout"]),
        index=_file("index", document["index"]),
    )
    _require_whole(index)
    if encode_json(document) != data:  # type: ignore[arg-type]  # it came out of the JSON decoder
        raise BundleInvalid("bundle.json", "not in canonical form")
    return index


def sign_index(key: DeviceKey, index: bytes) -> bytes:
    """Return `bundle.dsse`: the exporting device's signature over the hash and size of `bundle.json`."""
    return sign_envelope(key, _signed(index), PAYLOAD_TYPE)


def open_index(index: bytes, signature: bytes) -> BundleIndex:
    """Return the index once the device that it names as its exporter is proven to have signed it.

    Raises:
        BundleInvalid: no index, or not signed by that device.
    """
    found = decode_index(index)
    if len(signature) > MAX_SIGNATURE_BYTES:
        raise BundleInvalid("bundle.dsse", f"{len(signature)} bytes, at most {MAX_SIGNATURE_BYTES} are allowed")
    try:
        payload = open_envelope(signature, found.exporter, PAYLOAD_TYPE).payload
    except EnvelopeInvalid as error:
        raise BundleInvalid("bundle.dsse", str(error)) from error
    if payload != _signed(index):
        raise BundleInvalid("bundle.dsse", "signs another bundle.json: the index was changed after it was signed")
    return found


def encode_log(log: CarriedLog) -> bytes:
    """Return the file of a carried log, at most 65,536 entries."""
    return encode_message("carried-log", origin=log.origin, checkpoint=log.checkpoint, leaves=b"".join(log.leaves))


def decode_log(data: bytes) -> CarriedLog:
    """Return the log in `data`; whether the leaves lead to the checkpoint is not checked here.

    Raises:
        BundleInvalid: not of this form.
    """
    try:
        kind, fields = decode_message(data, MAX_LOG_BYTES)
        origin = parse_did(fields.text("origin", max=_MAX_DID_BYTES))
        checkpoint = fields.bytes("checkpoint", max=_MAX_NOTE_BYTES)
        leaves = fields.bytes("leaves", max=MAX_LEAVES * HASH_BYTES)
        fields.done()
    except (CodecInvalid, FieldInvalid, DidInvalid) as error:
        raise BundleInvalid("log", str(error)) from error
    if kind != "carried-log" or len(leaves) % HASH_BYTES:
        raise BundleInvalid("log", f"a message of type {kind[:40]!r} with {len(leaves)} bytes of hashes")
    hashes = tuple(leaves[at : at + HASH_BYTES] for at in range(0, len(leaves), HASH_BYTES))
    return CarriedLog(origin, checkpoint, hashes)


def _signed(index: bytes) -> bytes:
    return encode_json({"index": format_oci_digest(digest_of(index)), "size": len(index), "version": VERSION})


def _require_whole(index: BundleIndex) -> None:
    carried = {blob.digest for blob in index.blobs}
    proofs = {file.digest for file in index.provenance}
    sizes = {blob.digest: blob.size for blob in index.blobs}
    held = {
        "provenance": sum(file.size for file in index.provenance),
        "logs": sum(file.size for file in index.logs),
        "models": sum(sizes.get(model.manifest, 0) for model in index.models),
    }
    for where, size in held.items():
        if size > MAX_HELD_BYTES:
            raise BundleInvalid(where, f"{size} bytes together, at most {MAX_HELD_BYTES} are allowed")
    twice = carried.intersection(blob.digest for blob in index.absent)
    if twice:
        raise BundleInvalid("absent", f"{min(twice)[:12]} is carried as well")
    absent = {blob.digest for blob in index.absent}
    for position, part in enumerate(index.parts):
        if part.blob not in absent or part.file not in carried or part.base == part.blob:
            raise BundleInvalid(f"parts[{position}]", "makes a blob that is not absent, or from what is not carried")
    if index.absent and not index.bases:
        raise BundleInvalid("bases", "blobs are left out and no model is named that has them")
    for position, model in enumerate(index.models):
        if model.manifest not in carried:
            raise BundleInvalid(f"models[{position}]", "its manifest is not among the blobs")
        if not proofs.issuperset(model.provenance):
            raise BundleInvalid(f"models[{position}]", "names a provenance bundle that is not carried")


def _model_document(model: BundledModel) -> Mapping[str, Json]:
    return {
        "name": format_model_name(model.name),
        "manifest": format_oci_digest(model.manifest),
        "provenance": [format_oci_digest(digest) for digest in model.provenance],
    }


def _part_document(part: BundledPart) -> Mapping[str, Json]:
    return {
        "blob": format_oci_digest(part.blob),
        "how": part.how.value,
        "base": format_oci_digest(part.base),
        "file": format_oci_digest(part.file),
    }


def _file_documents(files: Iterable[BundledFile]) -> Sequence[Json]:
    return [_file_document(file) for file in files]


def _file_document(file: BundledFile) -> Mapping[str, Json]:
    return {"digest": format_oci_digest(file.digest), "size": file.size}


def _models(value: object) -> tuple[BundledModel, ...]:
    models = tuple(_model(f"models[{at}]", item) for at, item in enumerate(_list("models", value, MAX_MODELS)))
    names = [format_model_name(model.name) for model in models]
    if not models or names != sorted(set(names)):
        raise BundleInvalid("models", "none, one twice, or not in name order")
    return models


def _model(where: str, value: object) -> BundledModel:
    document = _object(where, value, frozenset({"name", "manifest", "provenance"}))
    text = document["name"]
    try:
        name = parse_model_name(text if isinstance(text, str) else "")
    except ModelNameInvalid as error:
        raise BundleInvalid(f"{where}.name", str(error)) from None
    if format_model_name(name) != text:
        raise BundleInvalid(f"{where}.name", "not the canonical spelling")
    manifest = _digest(f"{where}.manifest", document["manifest"])
    return BundledModel(name, manifest, _digests(f"{where}.provenance", document["provenance"], MAX_PROVENANCE))


def _parts(value: object) -> tuple[BundledPart, ...]:
    parts = tuple(_part(f"parts[{at}]", item) for at, item in enumerate(_list("parts", value, MAX_BLOBS)))
    blobs = [part.blob for part in parts]
    if blobs != sorted(set(blobs)):
        raise BundleInvalid("parts", "two for one blob, or not in blob order")
    return parts


def _part(where: str, value: object) -> BundledPart:
    document = _object(where, value, frozenset({"blob", "how", "base", "file"}))
    if document["how"] not in tuple(How):
        raise BundleInvalid(f"{where}.how", f"{str(document['how'])[:20]!r}, patch and delta are known")
    blob, base, file = (_digest(f"{where}.{key}", document[key]) for key in ("blob", "base", "file"))
    return BundledPart(blob, How(str(document["how"])), base, file)


def _files(where: str, value: object, limit: int) -> tuple[BundledFile, ...]:
    files = tuple(_file(f"{where}[{at}]", item) for at, item in enumerate(_list(where, value, limit)))
    digests = [file.digest for file in files]
    if digests != sorted(set(digests)):
        raise BundleInvalid(where, "a file twice, or not in digest order")
    return files


def _file(where: str, value: object) -> BundledFile:
    document = _object(where, value, frozenset({"digest", "size"}))
    return BundledFile(
        _digest(f"{where}.digest", document["digest"]), _number(f"{where}.size", document["size"], MAX_BLOB_BYTES)
    )


def _digests(where: str, value: object, limit: int) -> tuple[Digest, ...]:
    digests = tuple(_digest(f"{where}[{at}]", item) for at, item in enumerate(_list(where, value, limit)))
    if list(digests) != sorted(set(digests)):
        raise BundleInvalid(where, "one twice, or not in order")
    return digests


def _digest(where: str, value: object) -> Digest:
    if not isinstance(value, str) or not value.startswith("sha256:"):
        raise BundleInvalid(where, f"expected sha256:<64 hex>, found {str(value)[:80]!r}")
    try:
        return parse_digest(value)
    except DigestInvalid as error:
        raise BundleInvalid(where, str(error)) from None


def _did(value: object) -> DeviceId:
    try:
        return parse_did(value[:_MAX_DID_BYTES] if isinstance(value, str) else "")
    except DidInvalid as error:
        raise BundleInvalid("exporter", str(error)) from None


def _number(where: str, value: object, limit: int) -> int:
    if type(value) is not int or not 0 <= value <= limit:
        raise BundleInvalid(where, f"expected 0 to {limit}, found {str(value)[:40]}")
    return value


def _list(where: str, value: object, limit: int) -> list[object]:
    if not isinstance(value, list) or len(value) > limit:
        raise BundleInvalid(where, f"expected a list of at most {limit}")
    return value


def _object(where: str, value: object, keys: frozenset[str]) -> dict[str, object]:
    if not isinstance(value, dict) or value.keys() != keys:
        found = sorted(value.keys() ^ keys)[:3] if isinstance(value, dict) else type(value).__name__
        raise BundleInvalid(where, f"expected an object of {len(keys)} known fields, differs in {str(found)[:80]}")
    return value
