"""Requests for embeddings inside the worker: batches over several of them, order, cancellation, failures."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from node.models.blas import preload_blas
from protocol.worker.messages import Done, Embed, Failed, FromWorker, Progress, Vectors
from tests.node.models.engine.embedding_models import write_decoder, write_encoder

if TYPE_CHECKING:
    from node.models.engine.embedder import Embedder

pytestmark = pytest.mark.model
Rows = Sequence[npt.NDArray[np.int32]]


class Watched:
    """A real model of embeddings, with the lengths of the rows of each batch."""

    def __init__(self, embedder: "Embedder", pulsed: Callable[[], None] = lambda: None) -> None:
        self._embedder = embedder
        self._pulsed = pulsed
        self.batches: list[list[int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._embedder, name)

    def vectors(self, rows: Rows, pulse: Callable[[], None]) -> npt.NDArray[np.float32]:
        self.batches.append([len(row) for row in rows])

        def watched() -> None:
            self._pulsed()
            pulse()

        return self._embedder.vectors(rows, watched)


class Worker:
    """An answerer with what it sent and whom it should no longer answer."""

    def __init__(self, directory: Path, pulsed: Callable[["Worker"], None] = lambda worker: None) -> None:
        preload_blas()
        from node.models.engine.embedder import Embedder
        from node.models.engine.embedding import EmbeddingAnswerer

        self.model = Watched(Embedder.load(directory), lambda: pulsed(self))
        self.sent: list[FromWorker] = []
        self.left: set[int] = set()
        self.answerer = EmbeddingAnswerer(
            self.model,  # type: ignore[arg-type]  # it has all that the model has
            self.sent.append,
            self.left.__contains__,
            lambda: 0,
        )

    def ask(self, number: int, inputs: Sequence[Any], truncate: bool = True) -> None:
        self.answerer.take(Embed(number, json.dumps(inputs), truncate))

    def run(self) -> list[int]:
        ended: list[int] = []
        while self.answerer.busy:
            ended += self.answerer.step()
        return ended

    def vectors(self, number: int) -> npt.NDArray[np.float32]:
        told = [message for message in self.sent if isinstance(message, Vectors) and message.request == number]
        found = [np.frombuffer(message.data, "<f4").reshape(-1, message.dimensions) for message in told]
        assert [message.first for message in told] == list(np.cumsum([0, *map(len, found)])[:-1])
        return np.concatenate(found)

    def last(self, number: int) -> FromWorker:
        (last,) = [m for m in self.sent if isinstance(m, Done | Failed) and m.request == number]
        return last


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    write_encoder(tmp_path / "bert")
    return tmp_path / "bert"


def words(count: int) -> str:
    return "cat " * count


def test_vectors_come_in_order_whatever_the_batches(bert: Path) -> None:
    worker = Worker(bert)
    inputs = [words(1 + 7 * number % 60) + f"dog {number}" for number in range(600)]
    worker.ask(1, inputs)
    assert worker.run() == [1]
    found = worker.vectors(1)
    assert len(found) == 600
    assert isinstance(worker.last(1), Done)
    alone = Worker(bert)
    for number in (0, 1, 255, 256, 511, 599):
        alone.ask(number, [inputs[number]])
        alone.run()
        assert np.abs(alone.vectors(number)[0] - found[number]).max() < 1e-6
    for batch in worker.model.batches:
        assert len(batch) * max(batch) <= 2048
        assert min(batch) * 2 >= max(batch) or max(batch) <= 16
    assert len(worker.model.batches) < 40
    told = [message.done for message in worker.sent if isinstance(message, Progress)]
    assert told == sorted(told)


def test_several_requests_share_batches_and_each_gets_its_own(bert: Path) -> None:
    worker = Worker(bert)
    for number in range(16):
        worker.ask(number, [words(5) + f"dog {number}"])
    worker.ask(99, [words(40)] * 600)
    worker.run()
    alone = Worker(bert)
    for number in range(16):
        alone.ask(number, [words(5) + f"dog {number}"])
        alone.run()
        assert np.abs(alone.vectors(number) - worker.vectors(number)).max() < 1e-6
    assert len([batch for batch in worker.model.batches if max(batch) < 20]) == 2
    order = [message.request for message in worker.sent if isinstance(message, Done)]
    assert order[-1] == 99


def test_a_long_request_keeps_nobody_waiting(bert: Path) -> None:
    worker = Worker(bert)
    worker.ask(1, [words(60)] * 2000)
    for _ in range(20):
        worker.answerer.step()
    worker.ask(2, ["a"])
    steps = 0
    while 2 not in worker.answerer.step():
        steps += 1
    assert steps <= 4
    assert worker.answerer.busy


def test_a_request_that_nobody_waits_for_ends_between_two_layers(bert: Path) -> None:
    def leave(worker: Worker) -> None:
        worker.left.add(1)

    worker = Worker(bert, leave)
    worker.ask(1, [words(60)] * 2000)
    assert worker.run() == [1]
    last = worker.last(1)
    assert isinstance(last, Done)
    assert last.reason == "cancelled"
    assert len(worker.model.batches) == 1


def test_one_of_two_that_share_a_batch_may_leave(bert: Path) -> None:
    def leave(worker: Worker) -> None:
        worker.left.add(1)

    worker = Worker(bert, leave)
    worker.ask(1, ["the cat"] * 300)
    worker.ask(2, ["the dog"] * 300)
    assert sorted(worker.run()) == [1, 2]
    assert len(worker.vectors(2)) == 300


def test_what_cannot_be_embedded_fails_alone(bert: Path, tmp_path: Path) -> None:
    worker = Worker(bert)
    worker.ask(1, ["the cat", [99_999]])
    worker.ask(2, ["the cat", words(100)], truncate=False)
    worker.ask(3, ["the cat"])
    worker.ask(4, [])
    worker.ask(5, [None])
    worker.answerer.take(Embed(6, "[", True))
    worker.answerer.take(Embed(7, "5", True))
    assert sorted(worker.run()) == [1, 2, 3, 4, 5, 6, 7]
    told = {number: worker.last(number) for number in range(1, 8)}
    kinds = {number: last.kind for number, last in told.items() if isinstance(last, Failed)}
    assert kinds == {1: "option", 2: "prompt-too-long", 5: "option", 6: "internal", 7: "internal"}
    assert len(worker.vectors(3)) == 1
    write_decoder(tmp_path / "decoder")
    decoder = Worker(tmp_path / "decoder")
    decoder.ask(1, [""])
    decoder.run()
    assert isinstance(decoder.last(1), Failed)


def test_vectors_that_are_no_numbers_fail_and_the_worker_lives(bert: Path) -> None:
    worker = Worker(bert)
    broken = worker.model._embedder._reader._encoder._weights  # type: ignore[attr-defined]
    kept = broken["norm.bias"]
    broken["norm.bias"] = kept * float("nan")
    worker.ask(1, ["the cat"])
    worker.run()
    last = worker.last(1)
    assert isinstance(last, Failed)
    assert (last.kind, last.why) == ("model", "it computes values that are no numbers")
    broken["norm.bias"] = kept
    worker.ask(2, ["the cat"])
    worker.run()
    assert len(worker.vectors(2)) == 1
