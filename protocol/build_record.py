"""What a model's `build.json` says: the recipe, what it was resolved to, and what did the work (specs/0021).

Nothing in it depends on the machine, the day or the place of a directory: it is part of the manifest, and the same
build has the same manifest everywhere. Where and when a build ran is in the attestation.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from protocol.canonical_json import Json, decode_json, encode_json
from protocol.digest import Digest, digest_of, format_oci_digest, parse_digest
from protocol.errors import BuildRecordInvalid, DigestInvalid, JsonInvalid, LayerPathInvalid
from protocol.layer_path import check_layer_paths
from protocol.manifest import MAX_BLOB_BYTES, MAX_LAYERS, format_time
from protocol.modelfile import MAX_MODELFILE_CHARS
from protocol.quantization import Quantization

BUILD_RECORD: Final = "build.json"
VERSION: Final = 1
MAX_BUILD_RECORD_BYTES: Final = 4 << 20
MAX_SOURCES: Final = 16
MAX_TOOLS: Final = 64
MAX_WORD_CHARS: Final = 512
MAX_TIME_S: Final = 1 << 33
_KEYS: Final = {"content", "created", "quantization", "recipe", "sources", "tokenizer", "tools", "version"}


class SourceKind(StrEnum):
    """Where files came from: a directory, a hub at a commit, another program's cache, a stored model, the program."""

    DIRECTORY = "directory"
    HUB = "hub"
    CACHE = "cache"
    MODEL = "model"
    EMBEDDED = "embedded"


@dataclass(frozen=True)
class SourceDigest:
    """A file as it was when the build read it."""

    path: str
    digest: Digest
    size: int


@dataclass(frozen=True)
class ResolvedSource:
    """What FROM (or another instruction with files) was resolved to.

    `revision` is the 40-hex commit of a hub, the manifest digest of a stored model, and "" for a directory.
    """

    kind: SourceKind
    name: str
    revision: str
    files: tuple[SourceDigest, ...]


@dataclass(frozen=True)
class BuildRecord:
    """All that a build depends on; `content` is the digest of the tensors, whatever files they lie in.

    `recipe` is the Modelfile in its canonical spelling; of a path outside its directory only the last part is kept.
    """

    recipe: str
    sources: tuple[ResolvedSource, ...]
    quantization: Quantization
    tokenizer: str
    tools: Mapping[str, str]
    created_s: int
    content: Digest


def content_digest(tensors: Iterable[tuple[str, str, tuple[int, ...], bytes]]) -> Digest:
    """Return the digest of tensors given as (name, dtype, shape, tensor hash of specs/0008), in any order.

    It is the SHA-256 of the canonical JSON list of `[name, dtype, shape, hash]`, sorted: the same for the same tensors
    however they are ordered or divided into files.
    """
    rows: list[Json] = [[name, dtype, list(shape), digest.hex()] for name, dtype, shape, digest in sorted(tensors)]
    return digest_of(encode_json(rows))


def encode_build_record(record: BuildRecord) -> bytes:
    """Return the canonical bytes of `record`.

    Raises:
        BuildRecordInvalid: a record that `parse_build_record` would refuse.
    """
    document: dict[str, Json] = {
        "version": VERSION,
        "recipe": record.recipe,
        "sources": [_source_document(source) for source in record.sources],
        "quantization": str(record.quantization),
        "tokenizer": record.tokenizer,
        "tools": dict(record.tools),
        "created": format_time(record.created_s),
        "content": format_oci_digest(record.content),
    }
    data = encode_json(document)
    parse_build_record(data)
    return data


def parse_build_record(data: bytes) -> BuildRecord:
    """Return the record in `data`.

    Raises:
        BuildRecordInvalid: over 4 MiB, not canonical, of another version, with an unknown key or a value out of range.
    """
    try:
        document = decode_json(data, MAX_BUILD_RECORD_BYTES, BUILD_RECORD)
    except JsonInvalid as error:
        raise BuildRecordInvalid("document", error.reason) from None
    fields = _object("document", document)
    if fields.get("version") != VERSION or type(fields.get("version")) is not int:
        raise BuildRecordInvalid("version", f"expected {VERSION}, found {str(fields.get('version'))[:20]}")
    _require_keys("document", fields, _KEYS)
    record = BuildRecord(
        recipe=_text("recipe", fields["recipe"], MAX_MODELFILE_CHARS),
        sources=tuple(
            _source(f"sources[{index}]", item)
            for index, item in enumerate(_list("sources", fields["sources"], MAX_SOURCES))
        ),
        quantization=_quantization(fields["quantization"]),
        tokenizer=_word("tokenizer", fields["tokenizer"]),
        tools=_tools(fields["tools"]),
        created_s=_time(fields["created"]),
        content=_digest("content", fields["content"]),
    )
    _require_canonical(document, data)
    return record


def _source_document(source: ResolvedSource) -> dict[str, Json]:
    files: list[Json] = [
        {"path": file.path, "digest": format_oci_digest(file.digest), "size": file.size} for file in source.files
    ]
    return {"kind": str(source.kind), "name": source.name, "revision": source.revision, "files": files}


def _source(where: str, value: object) -> ResolvedSource:
    fields = _object(where, value)
    _require_keys(where, fields, {"kind", "name", "revision", "files"})
    files = tuple(
        _file(f"{where}.files[{index}]", item)
        for index, item in enumerate(_list(f"{where}.files", fields["files"], MAX_LAYERS))
    )
    try:
        check_layer_paths(file.path for file in files)
    except LayerPathInvalid as error:
        raise BuildRecordInvalid(f"{where}.files", str(error)) from None
    kind = _word(f"{where}.kind", fields["kind"])
    if kind not in set(SourceKind):
        raise BuildRecordInvalid(f"{where}.kind", f"{kind[:40]!r} is unknown")
    name, revision = _word(f"{where}.name", fields["name"]), _word(f"{where}.revision", fields["revision"])
    return ResolvedSource(SourceKind(kind), name, revision, files)


def _file(where: str, value: object) -> SourceDigest:
    fields = _object(where, value)
    _require_keys(where, fields, {"path", "digest", "size"})
    size = fields["size"]
    if type(size) is not int or not 0 <= size <= MAX_BLOB_BYTES:
        raise BuildRecordInvalid(f"{where}.size", f"expected 0 to {MAX_BLOB_BYTES} bytes, found {str(size)[:40]}")
    return SourceDigest(_word(f"{where}.path", fields["path"]), _digest(f"{where}.digest", fields["digest"]), size)


def _quantization(value: object) -> Quantization:
    text = _word("quantization", value)
    if text not in set(Quantization):
        raise BuildRecordInvalid("quantization", f"{text[:40]!r} is unknown")
    return Quantization(text)


def _tools(value: object) -> dict[str, str]:
    fields = _object("tools", value)
    if len(fields) > MAX_TOOLS:
        raise BuildRecordInvalid("tools", f"{len(fields)} tools, at most {MAX_TOOLS} are allowed")
    return {_word("tools", name): _word(f"tools[{name[:40]}]", version) for name, version in fields.items()}


def _time(value: object) -> int:
    text = _word("created", value)
    try:
        # Nothing but the canonical spelling passes: the whole document is encoded again below.
        seconds = int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise BuildRecordInvalid("created", f"{text[:40]!r} is no time in UTC") from None
    if not 0 <= seconds <= MAX_TIME_S or format_time(seconds) != text:
        raise BuildRecordInvalid("created", f"{text[:40]!r} is out of range or not canonical")
    return seconds


def _digest(where: str, value: object) -> Digest:
    text = _word(where, value)
    try:
        digest = parse_digest(text)
    except DigestInvalid as error:
        raise BuildRecordInvalid(where, str(error)) from None
    if format_oci_digest(digest) != text:
        raise BuildRecordInvalid(where, "expected sha256:<64 hex>")
    return digest


def _word(where: str, value: object) -> str:
    text = _text(where, value, MAX_WORD_CHARS)
    if not text.isprintable():
        raise BuildRecordInvalid(where, "holds characters that cannot be shown")
    return text


def _text(where: str, value: object, max_chars: int) -> str:
    if not isinstance(value, str) or len(value) > max_chars:
        raise BuildRecordInvalid(where, f"expected text of at most {max_chars} characters")
    return value


def _list(where: str, value: object, max_items: int) -> list[object]:
    if not isinstance(value, list) or len(value) > max_items:
        raise BuildRecordInvalid(where, f"expected a list of at most {max_items}")
    return value


def _object(where: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise BuildRecordInvalid(where, "expected an object")
    return value


def _require_keys(where: str, fields: Mapping[str, object], expected: set[str]) -> None:
    if fields.keys() != expected:
        odd = min(fields.keys() ^ expected)
        raise BuildRecordInvalid(where, f"key {odd[:40]!r} is {'unknown' if odd in fields else 'missing'}")


def _require_canonical(document: object, data: bytes) -> None:
    try:
        canonical = encode_json(document)  # type: ignore[arg-type]  # it came out of JSON, so it is Json
    except (ValueError, RecursionError):
        raise BuildRecordInvalid("document", "cannot be encoded again") from None
    if canonical != data:
        raise BuildRecordInvalid("document", "not in its canonical form")
