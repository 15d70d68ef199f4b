"""A worker that does not keep to its protocol: it ends, and the node goes on."""

import socket
from contextlib import suppress
from typing import cast

import pytest
import trio

from node.models import answers
from node.models.errors import WorkerStalled
from node.models.process import WorkerProcess
from node.models.supervisor import Patience, Worker
from protocol.wire import FrameReader, encode_frame
from protocol.worker.codec import decode_to_worker, encode_from_worker
from protocol.worker.messages import (
    MAX_FRAME_BYTES,
    Cancel,
    Failed,
    FromWorker,
    Generate,
    Load,
    LoadFailed,
    Ready,
    Sampling,
    Status,
    Text,
    ToWorker,
)

READY = Ready("x", 4096, 1, False, False, True, ())


class Puppet:
    """A worker process whose words are the test's."""

    pid = 2**31 - 2  # of no process

    def __init__(self) -> None:
        self.connection, self._theirs = socket.socketpair()

    def say(self, message: FromWorker) -> None:
        self._theirs.sendall(encode_frame(encode_from_worker(message), MAX_FRAME_BYTES))

    def heard(self, count: int) -> list[ToWorker]:
        """Return the next `count` messages that the node sent."""
        frames, messages = FrameReader(MAX_FRAME_BYTES), list[ToWorker]()
        while len(messages) < count:
            frames.receive_data(self._theirs.recv(65_536))
            while (frame := frames.next_frame()) is not None:
                messages.append(decode_to_worker(frame))
        return messages

    def bury(self, *, leaving: bool) -> int:
        self._theirs.close()
        return 0


def question(number: int) -> Generate:
    return Generate(number, "Hello!", None, "[]", None, False, (), 4096, -1, (), Sampling())


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


async def test_a_worker_that_does_not_end_what_was_taken_back_is_ended_whatever_else_it_says() -> None:
    puppet = Puppet()
    worker = Worker(cast(WorkerProcess, puppet), Load("/nowhere"), Patience(answer_s=0.3))
    async with trio.open_nursery() as nursery:
        puppet.say(READY)
        await nursery.start(worker.run)
        async with worker.request(question(1), lambda done: None):
            pass
        with trio.fail_after(10):
            while not worker.ended.is_set():
                with suppress(OSError):
                    puppet.say(Status(1, 0, 1, 0, 0, 0))
                await trio.sleep(0.02)
    assert isinstance(worker.failure(), WorkerStalled)


async def test_what_nobody_reads_is_not_held_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_HELD_BYTES", 10_000)
    puppet = Puppet()
    worker = Worker(cast(WorkerProcess, puppet), Load("/nowhere"), Patience())
    async with trio.open_nursery() as nursery:
        puppet.say(READY)
        await nursery.start(worker.run)
        async with worker.request(question(1), lambda done: None) as unread:
            for count in range(20):
                puppet.say(Text(1, "x" * 1_000, False, count))
            puppet.say(Status(7, 0, 1, 0, 0, 0))
            while worker.status.memory_bytes != 7:
                await trio.sleep(0.01)
            *words, last = [answer async for answer in unread]
        assert len(words) == 10
        assert isinstance(last, Failed)
        assert puppet.heard(3) == [Load("/nowhere"), question(1), Cancel(1)]
        worker.stop()
