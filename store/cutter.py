"""The cutter: where a stream of bytes is cut into chunks, the same for the same bytes wherever it runs."""

from collections.abc import Iterator, Sequence

from pyfastcdc import FastCDC

from protocol.chunkmap import AVERAGE_CHUNK_BYTES, MAX_CHUNK_BYTES, MIN_CHUNK_BYTES


class TensorCutter:
    """Cuts a stream at given edges, and by content between them (algorithm 1 of specs/0008).

    A cut depends on nothing before the chunk's beginning and on at most 128 KiB after it, so a stream in blocks of
    any size gives the cuts of the whole.
    """

    def __init__(self, edges: Sequence[int], size: int) -> None:
        """Cut a stream of `size` bytes at each offset in `edges`."""
        self._edges = sorted({edge for edge in edges if 0 < edge < size} | {size}, reverse=True)
        self._chunker = FastCDC(
            avg_size=AVERAGE_CHUNK_BYTES,
            min_size=MIN_CHUNK_BYTES,
            max_size=MAX_CHUNK_BYTES,
            normalized_chunking=1,
            seed=0,
        )
        self._rest = b""
        self._position = 0  # of the first byte of the rest

    def cut(self, block: bytes | memoryview) -> Iterator[memoryview]:
        """Yield the chunks that are complete with this block, in order; each is valid until the next call."""
        data = memoryview(self._rest + block if self._rest else block)
        done = 0
        while self._edges:
            span = self._edges[-1] - self._position
            ends_here = len(data) - done >= span
            segment = data[done : done + span] if ends_here else data[done:]
            for length in self._cut_segment(segment, ends_here):
                yield data[done : done + length]
                done += length
                self._position += length
            if not ends_here:
                break
            self._edges.pop()
        self._rest = bytes(data[done:])

    def _cut_segment(self, segment: memoryview, ends_here: bool) -> Iterator[int]:
        taken = 0
        for chunk in self._chunker.cut_buf(segment) if segment else ():
            if not ends_here and taken + MAX_CHUNK_BYTES > len(segment):
                return  # more bytes could move this cut
            taken += chunk.length
            yield chunk.length
