"""Safetensors: the header read under caps and checked before anything is loaded, and one canonical way to write."""

import math
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.canonical_json import Json, decode_json, encode_json
from protocol.errors import JsonInvalid
from store.disk import Temporary, disk_errors
from store.errors import SafetensorsInvalid

MAX_HEADER_BYTES: Final = 16 << 20
MAX_TENSORS: Final = 32_768
MAX_DIMENSIONS: Final = 16
MAX_DIMENSION: Final = 1 << 48
MAX_NAME_BYTES: Final = 1024
MAX_COMMAS: Final = 8 * MAX_TENSORS  # bounds what the JSON reader can be made to allocate
LENGTH_BYTES: Final = 8
ALIGNMENT: Final = 4096
METADATA: Final = "__metadata__"
PLAIN: Final = 0o644

# A tensor's type and shape.
TensorType = tuple[str, tuple[int, ...]]

DTYPE_BITS: Final[Mapping[str, int]] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """A tensor: its type, shape, and place in the file in bytes (from the file's beginning)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int

    @property
    def element_count(self) -> int:
        """The product of the dimensions."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class SafetensorsHeader:
    """A file's tensors in file order, without a gap from `data_start` to the file's end, and its metadata."""

    tensors: tuple[Tensor, ...]
    metadata: Mapping[str, str]
    data_start: int

    @property
    def element_count(self) -> int:
        """Elements of all tensors together; packed quantised weights count as the integers that hold them."""
        return sum(tensor.element_count for tensor in self.tensors)


def header_bytes(file: str, prefix: bytes, file_bytes: int) -> int:
    """Return the header's length with its 8 length bytes, from the first 8 bytes of a file of `file_bytes`.

    Raises:
        SafetensorsInvalid: over 16 MiB, or the file ends before.
    """
    if len(prefix) < LENGTH_BYTES:
        raise SafetensorsInvalid(file, f"{file_bytes} bytes are no safetensors file")
    (length,) = struct.unpack_from("<Q", prefix)
    if length > MAX_HEADER_BYTES:
        raise SafetensorsInvalid(file, f"a header of {length} bytes, at most {MAX_HEADER_BYTES} are allowed")
    if LENGTH_BYTES + length > file_bytes:
        raise SafetensorsInvalid(
            file, f"cut off: the header ends at byte {LENGTH_BYTES + length}, the file at {file_bytes}"
        )
    return LENGTH_BYTES + int(length)


def parse_header(file: str, data: bytes, file_bytes: int) -> SafetensorsHeader:
    """Return the header in `data`, the first `header_bytes` of a file; `file` names it in errors.

    Checked: every type and shape gives exactly the tensor's bytes, and the tensors cover the rest of the file without
    gap or overlap, so that a file that lost its end, or hides something, is refused before a byte of it is used.

    Raises:
        SafetensorsInvalid: anything else.
    """
    data_start = header_bytes(file, data, file_bytes)
    document = _document(file, data[LENGTH_BYTES:data_start])
    metadata = _metadata(file, document.pop(METADATA, {}))
    if len(document) > MAX_TENSORS:
        raise SafetensorsInvalid(file, f"{len(document)} tensors, at most {MAX_TENSORS} are allowed")
    tensors = [_tensor(file, name, value, data_start) for name, value in document.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.length, tensor.name))
    _check_coverage(file, tensors, data_start, file_bytes)
    return SafetensorsHeader(tuple(tensors), metadata, data_start)


def read_header(path: Path) -> SafetensorsHeader:
    """Return the checked header of the file at `path`.

    Raises:
        SafetensorsInvalid: see `parse_header`.
        DiskFailed: the file cannot be read.
    """
    with disk_errors(path), path.open("rb") as file:
        file_bytes = path.stat().st_size
        prefix = file.read(LENGTH_BYTES)
        return parse_header(
            path.name, prefix + file.read(header_bytes(path.name, prefix, file_bytes) - LENGTH_BYTES), file_bytes
        )


def canonical_order(tensors: Mapping[str, TensorType]) -> list[str]:
    """Return the tensors' names in the order in which their bytes lie in a canonical file.

    The data begins on a 4 KiB boundary and the format permits no gap, so tensors of whole 4 KiB pages come first: each
    of them is aligned to 4 KiB. The others follow, those with the widest numbers first: each is aligned to its numbers.
    Within each group they are in name order.
    """

    def place(name: str) -> tuple[bool, int, str]:
        dtype, shape = tensors[name]
        size = _size_bytes(dtype, shape)
        return (True, -DTYPE_BITS[dtype], name) if size % ALIGNMENT else (False, 0, name)

    return sorted(tensors, key=place)


def encode_header(tensors: Mapping[str, TensorType], metadata: Mapping[str, str]) -> bytes:
    """Return the one canonical header for tensors given as name → (dtype, shape), data following in canonical order.

    Names and metadata are sorted, and the header is padded with spaces so that the data begins on a 4 KiB boundary.
    """
    document: dict[str, Json] = {METADATA: dict(metadata)} if metadata else {}
    position = 0
    for name in canonical_order(tensors):
        dtype, shape = tensors[name]
        end = position + _size_bytes(dtype, shape)
        document[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = encode_json(document)
    padded = -(-(LENGTH_BYTES + len(text)) // ALIGNMENT) * ALIGNMENT - LENGTH_BYTES
    return struct.pack("<Q", padded) + text.ljust(padded)


def write_tensors(
    path: Path,
    tensors: Mapping[str, TensorType],
    read: Callable[[str], Iterable[bytes | memoryview]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write name → (dtype, shape) in canonical form, atomically; the same tensors are always the same bytes.

    `read(name)` is asked for each tensor's bytes once, in the file's order, and may give them in pieces: no more than
    one piece is ever in memory here.

    Raises:
        SafetensorsInvalid: a header that `parse_header` refuses, or more or fewer bytes than a shape takes.
        DiskFull, DiskFailed: there is no file, or still the old one.
    """
    header = encode_header(tensors, metadata or {})
    total = len(header) + sum(_size_bytes(dtype, shape) for dtype, shape in tensors.values())
    parse_header(path.name, header, total)
    with disk_errors(path, total), Temporary(path.parent) as temporary:
        temporary.write(header)
        for name in canonical_order(tensors):
            expected, written = _size_bytes(*tensors[name]), 0
            for piece in read(name):
                temporary.write(piece)
                written += memoryview(piece).nbytes
            if written != expected:
                raise SafetensorsInvalid(path.name, f"tensor {name[:80]!r}: {written} bytes, not {expected}")
        temporary.rename(path, PLAIN)


def write_safetensors(
    path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write name → (dtype, shape, bytes) as `write_tensors` does, for tensors that are in memory anyhow."""
    types = {name: (dtype, shape) for name, (dtype, shape, _) in tensors.items()}
    write_tensors(path, types, lambda name: (tensors[name][2],), metadata)


def _size_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * DTYPE_BITS[dtype] // 8


def _document(file: str, text: bytes) -> dict[str, object]:
    if not text.startswith(b"{"):
        raise SafetensorsInvalid(file, "the header does not begin with '{'")
    if text.count(b",") > MAX_COMMAS or text.count(b"[") > 4 * MAX_TENSORS or text.count(b"{") > 2 * MAX_TENSORS:
        raise SafetensorsInvalid(file, "more entries in the header than any model has")
    try:
        document = decode_json(text, MAX_HEADER_BYTES, "header")
    except JsonInvalid as error:
        raise SafetensorsInvalid(file, str(error)) from None
    if not isinstance(document, dict):
        raise SafetensorsInvalid(file, "the header is no object")
    return document


def _metadata(file: str, value: object) -> dict[str, str]:
    if value is None:  # what mlx writes where it was given none
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise SafetensorsInvalid(file, f"{METADATA} is not text by text")
    return value


def _tensor(file: str, name: str, value: object, data_start: int) -> Tensor:
    where = f"tensor {name[:80]!r}"
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise SafetensorsInvalid(file, f"{where}: expected dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise SafetensorsInvalid(file, f"{where}: unknown type {str(dtype)[:20]!r}")
    if not _sizes(shape, MAX_DIMENSIONS) or not _sizes(offsets, 2) or len(offsets) != 2:
        raise SafetensorsInvalid(file, f"{where}: shape or data_offsets are no sizes")
    start, end = offsets
    expected = _size_bytes(dtype, tuple(shape))
    if end - start != expected:
        raise SafetensorsInvalid(file, f"{where}: {dtype} of shape {shape} is {expected} bytes, not {end - start}")
    if not 0 < len(name.encode(errors="replace")) <= MAX_NAME_BYTES or not name.isprintable():
        raise SafetensorsInvalid(file, f"{where}: not a tensor's name")
    return Tensor(name, dtype, tuple(shape), data_start + start, end - start)


def _sizes(value: object, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= count
        and all(type(size) is int and 0 <= size <= MAX_DIMENSION for size in value)
    )


def _check_coverage(file: str, tensors: list[Tensor], data_start: int, file_bytes: int) -> None:
    position = data_start
    for tensor in tensors:
        if tensor.offset != position:
            fault = "overlaps the one before" if tensor.offset < position else f"leaves a gap after byte {position}"
            raise SafetensorsInvalid(file, f"tensor {tensor.name[:80]!r} {fault}")
        position += tensor.length
    if position != file_bytes:
        cut = "cut off" if position > file_bytes else "too long"
        raise SafetensorsInvalid(file, f"{cut}: the tensors end at byte {position}, the file at {file_bytes}")
