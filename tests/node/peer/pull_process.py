"""A node in a process of its own that serves a model or pulls one, for tests that kill it; one JSON line an event."""

import json
import sys
from pathlib import Path

import trio

from identity.testing import key_from_number
from node.net.access import Access
from node.net.streams import PeerStream
from node.peer.testing import ModelNode
from protocol.blob import BLOB_PROTOCOL, MAX_REQUEST_BYTES, decode_read, encode_data_header
from protocol.scope import Scope
from store.peers import LinkedPeer

SOURCE, PULLER = 1, 2
PIECE_BYTES = 64 * 1024
PAUSE_S = 0.02


def tell(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


async def serve(home: Path, port: int, model: str, slow: bool) -> None:
    node = ModelNode(home, SOURCE, port=port)
    if model:
        node.publish("demo", Path(model))
    puller = key_from_number(PULLER).did
    node.peers.add(LinkedPeer(puller, "puller", Scope.MODELS, (), 1))
    node.links.set(puller, Scope.MODELS)
    if slow:
        node.transport.handle(BLOB_PROTOCOL, lambda stream: serve_slowly(node, stream), access=Access.LINKED)
    async with node.running():
        tell(address=node.transport.addresses[0], port=node.port)
        await trio.sleep_forever()


async def serve_slowly(node: ModelNode, stream: PeerStream) -> None:
    """Serve the right bytes at about 3 MB/s, so that a kill comes in the middle."""
    while True:
        request = decode_read(await stream.receive(MAX_REQUEST_BYTES))
        with node.store.blobs.open(request.blob) as file:
            file.seek(request.offset)
            data = file.read(request.length)
        await stream.send(encode_data_header(len(data)))
        for start in range(0, len(data), PIECE_BYTES):
            await stream.send_raw(data[start : start + PIECE_BYTES])
            await trio.sleep(PAUSE_S)


async def pull(home: Path, address: str) -> None:
    node = ModelNode(home, PULLER)
    source = LinkedPeer(key_from_number(SOURCE).did, "source", Scope.MODELS, (address,), 1)
    node.peers.add(source)
    node.links.set(source.did, Scope.MODELS)
    async with node.running(), node.fetch.pull("demo", source) as events:
        async for event in events:
            tell(**event)


if __name__ == "__main__":
    verb, home, *rest = sys.argv[1:]
    if verb == "serve":
        trio.run(serve, Path(home), int(rest[0]), rest[1], rest[2] == "slow")
    else:
        trio.run(pull, Path(home), rest[0])
