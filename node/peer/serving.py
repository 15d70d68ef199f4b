"""Serving blobs to linked peers: what is here of a blob, and ranges of it, verified as they leave (specs/0012).

A blob is served only when it belongs to a model on the shelf or to one that is being pulled right now. Chunks are
hashed as they are read, so a byte that changed on the disk is never passed on.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from node.net.access import Access
from node.net.stream_slots import StreamSlots
from node.net.streams import PeerStream
from node.net.transport import Transport
from node.peer.shelf import ServedBlob, Shelf
from node.threads import Threads
from protocol.blob import BLOB_PROTOCOL, MAX_REQUEST_BYTES, ReadRequest, decode_read, encode_data_header
from protocol.chunkmap import ChunkMap, decode_chunk_map
from protocol.digest import Digest
from protocol.errors import ChunkMapInvalid
from protocol.have import (
    HAVE_PROTOCOL,
    Have,
    HaveComplete,
    HaveNone,
    HaveSome,
    decode_have_request,
    encode_have,
)
from protocol.refusal import RefusalCode, encode_refusal
from store.blobs import Blobs
from store.errors import BlobMissing, BlobTooLarge, ChunkCorrupt, LayerCorrupt
from store.models import ModelStore
from store.partial import PartialLayer

# Each stream may hold one run of 8 MiB in memory.
MAX_STREAMS_PER_PEER: Final = 6
MAX_STREAMS: Final = 24
MAX_WHOLE_BYTES: Final = 64 * 1024 * 1024
IDLE_S: Final = 120.0
WRITE_BYTES: Final = 1024 * 1024

_log = logging.getLogger("tilenode.serving")


class _Source(Protocol):
    """Verified bytes of one blob."""

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` verified bytes from `offset` on.

        Raises:
            BlobMissing, LayerCorrupt, ChunkCorrupt: they are not here, or not as they should be.
        """


@dataclass(frozen=True)
class Arriving:
    """A layer that is being pulled: its verified chunks are served already."""

    partial: PartialLayer
    chunk_map: Digest


class ArrivingLayers:
    """The layers that are being pulled right now."""

    def __init__(self) -> None:
        self._layers: dict[Digest, Arriving] = {}

    def get(self, digest: Digest) -> Arriving | None:
        """Return the layer if it is arriving."""
        return self._layers.get(digest)

    @asynccontextmanager
    async def arriving(self, arriving: Arriving) -> AsyncIterator[None]:
        """Serve the verified chunks of a layer during the block."""
        self._layers[arriving.partial.digest] = arriving
        try:
            yield
        finally:
            del self._layers[arriving.partial.digest]


class Serving:
    """Answers have requests and reads; refuses everything that does not belong to an offered model."""

    def __init__(
        self,
        transport: Transport,
        store: ModelStore,
        shelf: Shelf,
        arriving: ArrivingLayers,
        threads: Threads,
    ) -> None:
        self._blobs: Final[Blobs] = store.blobs
        self._shelf = shelf
        self._arriving = arriving
        self._threads = threads
        self._slots = StreamSlots(MAX_STREAMS_PER_PEER, MAX_STREAMS)
        transport.handle(HAVE_PROTOCOL, self._serve_have, access=Access.LINKED)
        transport.handle(BLOB_PROTOCOL, self._serve_blob, access=Access.LINKED)

    async def _serve_have(self, stream: PeerStream) -> None:
        async with self._slots.one(stream) as admitted:
            while admitted:
                with trio.fail_after(IDLE_S):
                    blob = decode_have_request(await stream.receive(MAX_REQUEST_BYTES))
                    await stream.send(encode_have(await self._have(blob)))

    async def _have(self, blob: Digest) -> Have:
        served = (await self._shelf.view()).blobs.get(blob)
        if served is not None and await self._threads.store(self._blobs.has, blob):
            return HaveComplete(served.size)
        arriving = self._arriving.get(blob)
        if arriving is not None:
            return HaveSome(arriving.chunk_map, arriving.partial.have_bitmap())
        return HaveNone()

    async def _serve_blob(self, stream: PeerStream) -> None:
        sources: dict[Digest, _Source] = {}
        async with self._slots.one(stream) as admitted:
            while admitted:
                with trio.fail_after(IDLE_S):
                    request = decode_read(await stream.receive(MAX_REQUEST_BYTES))
                with trio.fail_after(IDLE_S):
                    await self._answer(stream, request, sources)

    async def _answer(self, stream: PeerStream, request: ReadRequest, sources: dict[Digest, _Source]) -> None:
        try:
            source = sources.get(request.blob) or await self._open(request.blob)
            if source is None:
                await stream.send(encode_refusal(RefusalCode.NOT_FOUND, "not offered here"))
                return
            sources.clear()  # one at a time: a source may hold a whole small blob
            sources[request.blob] = source
            data = await self._threads.store(source.read, request.offset, request.length)
        except (BlobMissing, BlobTooLarge, LayerCorrupt, ChunkCorrupt, ChunkMapInvalid) as error:
            sources.pop(request.blob, None)
            _log.warning(
                "read_refused", extra={"peer": stream.peer, "blob": request.blob, "error": type(error).__name__}
            )
            await stream.send(encode_refusal(RefusalCode.NOT_FOUND, "not here as it should be"))
            return
        await stream.send(encode_data_header(len(data)))
        for start in range(0, len(data), WRITE_BYTES):
            await stream.send_raw(data[start : start + WRITE_BYTES])

    async def _open(self, blob: Digest) -> _Source | None:
        served = (await self._shelf.view()).blobs.get(blob)
        arriving = self._arriving.get(blob)
        if served is not None and (arriving is None or await self._threads.store(self._blobs.has, blob)):
            return await self._threads.store(self._open_complete, blob, served)
        return _ArrivingSource(arriving.partial) if arriving is not None else None

    def _open_complete(self, blob: Digest, served: ServedBlob) -> _Source:
        pin = served.chunk_map
        if pin is None:
            return _WholeSource(blob, self._blobs.read(blob, MAX_WHOLE_BYTES))
        content = self._blobs.read(pin.digest, pin.size)
        return _MappedSource(self._blobs, decode_chunk_map(content, blob, served.size))


@dataclass(frozen=True)
class _WholeSource:
    """A small blob, read and verified once."""

    blob: Digest
    content: bytes

    def read(self, offset: int, length: int) -> bytes:
        if offset + length > len(self.content):
            raise BlobMissing(self.blob)
        return self.content[offset : offset + length]


@dataclass(frozen=True)
class _MappedSource:
    """A large blob, every chunk hashed as it is read."""

    blobs: Blobs
    chunk_map: ChunkMap

    def read(self, offset: int, length: int) -> bytes:
        end = offset + length
        if end > self.chunk_map.size:
            raise BlobMissing(self.chunk_map.blob)
        first, last = self.chunk_map.chunk_at(offset), self.chunk_map.chunk_at(end - 1)
        data = self.blobs.read_chunks(self.chunk_map, first, last - first + 1)
        start = self.chunk_map.edges[first]
        return data if len(data) == length else data[offset - start : end - start]


@dataclass(frozen=True)
class _ArrivingSource:
    """A layer that is still arriving: only chunks that were verified, hashed once more."""

    partial: PartialLayer

    def read(self, offset: int, length: int) -> bytes:
        chunk_map, end = self.partial.chunk_map, offset + length
        if end > chunk_map.size:
            raise BlobMissing(chunk_map.blob)
        first, last = chunk_map.chunk_at(offset), chunk_map.chunk_at(end - 1)
        try:
            data = b"".join(self.partial.read_chunk(index) for index in range(first, last + 1))
        except ValueError:
            raise BlobMissing(chunk_map.blob) from None  # it was finished or given up meanwhile, its file is closed
        start = chunk_map.edges[first]
        return data if len(data) == length else data[offset - start : end - start]
