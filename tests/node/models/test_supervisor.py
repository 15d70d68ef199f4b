"""A worker that does not keep to its protocol: it ends, and the node goes on."""

import socket
from typing import cast

import pytest
import trio

from node.models.process import WorkerProcess
from node.models.supervisor import Patience, Worker
from protocol.wire import encode_frame
from protocol.worker.codec import encode_from_worker
from protocol.worker.messages import MAX_FRAME_BYTES, FromWorker, Load, LoadFailed, Ready

READY = Ready("x", 4096, 1, False, False, True, ())


class Puppet:
    """A worker process whose words are the test's."""

    pid = 2**31 - 2  # of no process

    def __init__(self) -> None:
        self.connection, self._theirs = socket.socketpair()

    def say(self, message: FromWorker) -> None:
        self._theirs.sendall(encode_frame(encode_from_worker(message), MAX_FRAME_BYTES))

    def bury(self, *, leaving: bool) -> int:
        self._theirs.close()
        return 0


@pytest.mark.parametrize("again", [READY, LoadFailed("no")])
async def test_a_worker_that_says_twice_how_it_loaded_costs_only_itself(again: FromWorker) -> None:
    puppet = Puppet()
    worker = Worker(cast(WorkerProcess, puppet), Load("/nowhere"), Patience())
    async with trio.open_nursery() as nursery:
        puppet.say(READY)
        await nursery.start(worker.run)
        puppet.say(again)
        with trio.fail_after(10):
            await worker.ended.wait()
    assert "it wrote what no worker writes" in str(worker.failure())
