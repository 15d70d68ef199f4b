"""Missing chunks of a layer from a registry: by Range in runs, on a few connections, each chunk verified first."""

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Final

from protocol.range_plan import Run, plan_runs
from store.errors import ChunkCorrupt
from store.partial import PartialLayer
from store.registry.client import RegistryClient
from store.registry.errors import AnswerMismatch, RegistryUnreachable
from store.registry.network import LOOK_UP_S
from store.registry.session import Received

CONNECTIONS: Final = 4
MAX_ROUNDS: Final = 3
SYNC_BYTES: Final = 16 << 20

Progress = Callable[[int], None]


class _RangesIgnored(Exception):
    """The registry sends whole blobs whatever is asked for: our own signal, it never leaves this module."""


def fetch_missing(client: RegistryClient, partial: PartialLayer, progress: Progress = lambda _: None) -> int:
    """Fetch every chunk that `partial` lacks; return how many bytes came. `progress` is told that number as it grows.

    What arrived is on the disk every 16 MiB and when this ends, however it ends. Raises:
        ChunkCorrupt: the registry sent a chunk wrong again and again.
        RegistryError, RegistryAnswerInvalid: as the client says; what arrived is kept.
        DiskFull, DiskFailed: as the store says.
    """
    received = Received()
    fetch = _Fetch(client, partial, received, progress)
    try:
        for _ in range(MAX_ROUNDS):
            runs = plan_runs(partial.chunk_map.edges, partial.missing())
            if not runs:
                return received.count
            fetch.run(runs)
    finally:
        partial.sync()
    missing = partial.missing()
    if missing:
        raise ChunkCorrupt(partial.digest, missing[0], partial.chunk_map.edges[missing[0]])
    return received.count


class _Fetch:
    """One round after another over the runs that are missing."""

    def __init__(self, client: RegistryClient, partial: PartialLayer, received: Received, progress: Progress) -> None:
        self._client = client
        self._partial = partial
        self._received = received
        self._progress = progress
        self._ranges: bool | None = None
        self._synced = 0

    def run(self, runs: list[Run]) -> None:
        """Fetch `runs`; chunks that came wrong are still missing afterwards."""
        try:
            if self._ranges is None and len(runs) > 1:
                # The first one alone: a registry that ignores ranges shall not send everything four times.
                self._spread(runs[:1])
                runs = runs[1:]
            if self._ranges is False:
                raise _RangesIgnored
            self._spread(runs)
            self._ranges = True
        except _RangesIgnored:
            self._ranges = False
            self._take_all()

    def _spread(self, runs: list[Run]) -> None:
        """Fetch runs in helping threads, while this one looks after progress, the disk and the caller."""
        caller = self._client.caller
        with ThreadPoolExecutor(min(CONNECTIONS, len(runs)), "registry") as threads:
            waiting = [threads.submit(self._take_run, run) for run in runs]
            try:
                self._watch(waiting)
            except BaseException:
                caller.leave()
                for future in waiting:
                    future.cancel()
                raise
            finally:
                wait(waiting)
                caller.stay()

    def _watch(self, waiting: list[Future[None]]) -> None:
        left = set(waiting)
        while left:
            done, left = wait(left, LOOK_UP_S)
            self._client.caller.still_wanted()
            for future in done:
                future.result()
            self._tell()

    def _tell(self) -> None:
        if self._received.count - self._synced >= SYNC_BYTES:
            self._synced = self._received.count
            self._partial.sync()
        self._progress(self._received.count)

    def _take_run(self, run: Run) -> None:
        """Fetch one run, going on where a lost connection broke off as long as something comes."""
        index = run.first
        while index < run.last:
            before = index
            try:
                for reached in self._chunks_from(index, run.last):
                    index = reached
            except RegistryUnreachable:
                if index == before:
                    raise
                self._client.caller.pause(self._client.session.pace.first_pause_s)
            if index == before:
                raise AnswerMismatch(self._client.reference.host, f"blob {self._partial.digest[:12]}", "it ends early")

    def _chunks_from(self, index: int, last: int) -> Iterator[int]:
        """Write the chunks from `index` on, yielding the number of the next one after each."""
        partial, edges = self._partial, self._partial.chunk_map.edges
        start, end = edges[index], edges[last]
        with self._client.blob(partial.digest, start, end, partial.size) as (begin, answer):
            if (begin, answer.status) != (start, 206) and (start, end) != (0, partial.size):
                raise _RangesIgnored
            yield from self._keep(answer.stream(), range(index, last), None)

    def _take_all(self) -> None:
        """Take the missing chunks out of the whole blob, from a registry that ignores ranges."""
        partial = self._partial
        missing = frozenset(partial.missing())
        with self._client.blob(partial.digest, 0, partial.size, partial.size) as (_, answer):
            for _ in self._keep(answer.stream(), range(len(partial.chunk_map)), missing):
                self._tell()

    def _keep(self, pieces: Iterator[bytes], chunks: range, wanted: Collection[int] | None) -> Iterator[int]:
        """Cut a stream into `chunks`; those of `wanted` (None: all) that hash right are written."""
        edges = self._partial.chunk_map.edges
        buffer = bytearray()
        index = chunks.start
        for piece in pieces:
            self._received.add(len(piece))
            buffer += piece
            used = 0
            while index < chunks.stop and len(buffer) - used >= (length := edges[index + 1] - edges[index]):
                if wanted is None or index in wanted:
                    self._write(index, bytes(buffer[used : used + length]))
                used += length
                index += 1
                yield index
            del buffer[:used]
            if index == chunks.stop:
                return  # whatever comes after this was not asked for

    def _write(self, index: int, data: bytes) -> None:
        with suppress(ChunkCorrupt):  # it is still missing then, and the next round asks for it again
            self._partial.write_chunk(index, data)
