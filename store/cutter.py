"""The cutter: where a stream of bytes is cut into chunks, the same for the same bytes wherever it runs."""

from collections.abc import Generator, Iterable, Iterator

from pyfastcdc import FastCDC

from protocol.chunkmap import (
    AVERAGE_CHUNK_BYTES,
    MAX_CHUNK_BYTES,
    MAX_ROWS_BYTES,
    MIN_CHUNK_BYTES,
    NORMALIZATION,
)
from store.safetensors import DTYPE_BITS, SafetensorsHeader, Tensor


def cutter_of(header: SafetensorsHeader | None, size: int) -> "TensorCutter":
    """Return the cutter of a file of `size` bytes; `header` is set for weights."""
    if header is None:
        return TensorCutter([], size)
    edges = [header.data_start, *(tensor.offset for tensor in header.tensors)]
    return TensorCutter(edges, size, [end for tensor in header.tensors for end in _row_ends(tensor)])


def _row_ends(tensor: Tensor) -> Iterable[int]:
    """Yield where the rows of a tensor end that are one chunk together; nothing where it is cut by its content.

    A row is as many of the last dimensions as fit into 96 KiB, never the first; a chunk is 2^n rows.
    """
    row = DTYPE_BITS[tensor.dtype] // 8
    if len(tensor.shape) < 2 or row * tensor.shape[-1] > MAX_ROWS_BYTES or not tensor.length:
        return ()
    for count in reversed(tensor.shape[1:]):
        if row * count > MAX_ROWS_BYTES:
            break
        row *= count
    step = row << (MAX_ROWS_BYTES // row).bit_length() - 1
    return (*range(tensor.offset + step, tensor.offset + tensor.length, step), tensor.offset + tensor.length)


class TensorCutter:
    """Cuts a stream at given edges, and by rows or by content between them (algorithm 2 of specs/0008).

    A cut depends on nothing before the chunk's beginning and on at most 128 KiB after it, so a stream in blocks of
    any size gives the cuts of the whole.
    """

    def __init__(self, edges: Iterable[int], size: int, whole: Iterable[int] = ()) -> None:
        """Cut a stream of `size` bytes at each offset in `edges`.

        Each offset in `whole` ends a chunk that began at the edge before it, at most 128 KiB.
        """
        self._whole = frozenset(whole)
        self._edges = sorted({edge for edge in {*edges, *self._whole} if 0 < edge < size} | {size}, reverse=True)
        self._chunker = FastCDC(
            avg_size=AVERAGE_CHUNK_BYTES,
            min_size=MIN_CHUNK_BYTES,
            max_size=MAX_CHUNK_BYTES,
            normalized_chunking=NORMALIZATION,
            seed=0,
        )
        self._rest = b""
        self._position = 0  # of the first byte of the rest

    def cut(self, block: bytes | memoryview) -> Iterator[memoryview]:
        """Yield the chunks that are complete with this block, in order; each is valid until the next call."""
        done = 0
        if self._rest:
            # Only what the rest's own chunk can need is copied beside it, never the whole block.
            kept, joined = len(self._rest), memoryview(self._rest + block[:MAX_CHUNK_BYTES])
            done = yield from self._cut_data(joined, kept)
            if done < kept:
                self._rest = bytes(joined[done:])
                return
            done -= kept
        data = memoryview(block)[done:]
        done = yield from self._cut_data(data, len(data))
        self._rest = bytes(data[done:])

    def _cut_data(self, data: memoryview, until: int) -> Generator[memoryview, None, int]:
        """Yield chunks of `data` until one ends at or after `until`; return where the last one ends."""
        done = 0
        for length in self._lengths(data):
            yield data[done : done + length]
            done += length
            if done >= until:
                break
        return done

    def _lengths(self, data: memoryview) -> Iterator[int]:
        start = self._position
        while self._edges:
            segment = data[self._position - start :]
            span = self._edges[-1] - self._position
            ends_here = len(segment) >= span
            if self._edges[-1] not in self._whole:
                lengths = self._cut_segment(segment[:span], ends_here)
            else:
                lengths = iter([span] if ends_here and span else [])  # 0 where the last call ended on this edge
            for length in lengths:
                self._position += length
                yield length
            if not ends_here:
                return
            self._edges.pop()

    def _cut_segment(self, segment: memoryview, ends_here: bool) -> Iterator[int]:
        taken = 0
        for chunk in self._chunker.cut_buf(segment) if segment else ():
            if not ends_here and taken + MAX_CHUNK_BYTES > len(segment):
                return  # more bytes could move this cut
            taken += chunk.length
            yield chunk.length
