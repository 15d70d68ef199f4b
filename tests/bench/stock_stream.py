"""A reference: stock py-libp2p moving raw bytes over one stream between two processes.

    python -m tests.bench.stock_stream serve BYTES      prints its address, serves until its input ends
    python -m tests.bench.stock_stream fetch ADDRESS    prints the seconds and bytes of one fetch

Stock in everything but the security option: without it the default host may negotiate plaintext.
"""

import json
import sys
import time
from typing import Any

import multiaddr
import trio
from libp2p import create_yamux_muxer_option, new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID, Transport

PROTOCOL: Any = "/bench/raw/1"
WRITE_BYTES = 1024 * 1024
READ_BYTES = 1024 * 1024


def _host() -> Any:
    key_pair = create_new_key_pair()
    noise = Transport(key_pair, noise_privkey=create_noise_key_pair().private_key)
    return new_host(key_pair, sec_opt={PROTOCOL_ID: noise}, muxer_opt=create_yamux_muxer_option())


async def serve(size_bytes: int) -> None:
    """Write `size_bytes` zeros to every stream until standard input ends."""

    async def send(stream: Any) -> None:
        block = bytes(WRITE_BYTES)
        for start in range(0, size_bytes, WRITE_BYTES):
            await stream.write(block[: min(WRITE_BYTES, size_bytes - start)])
        await stream.close()

    host = _host()
    host.set_stream_handler(PROTOCOL, send)
    async with host.run([multiaddr.Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        sys.stdout.write(f"{host.get_addrs()[0]}\n")
        sys.stdout.flush()
        await trio.to_thread.run_sync(sys.stdin.read)


async def fetch(address: str) -> dict[str, float]:
    """Read one stream to its end: `{"seconds", "bytes"}`."""
    host = _host()
    async with host.run([multiaddr.Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        peer = info_from_p2p_addr(multiaddr.Multiaddr(address))
        await host.connect(peer)
        started_s = time.perf_counter()
        stream = await host.new_stream(peer.peer_id, [PROTOCOL])
        received = 0
        while True:
            try:
                block = await stream.read(READ_BYTES)
            except StreamEOF:
                break
            if not block:
                break
            received += len(block)
        return {"seconds": time.perf_counter() - started_s, "bytes": received}


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        trio.run(serve, int(sys.argv[2]))
    else:
        sys.stdout.write(json.dumps(trio.run(fetch, sys.argv[2])) + "\n")
