"""What leaves a worker at once, what waits for company, and that nothing changes its place."""

from collections.abc import Sequence

import pytest

from node.models.engine.outbox import LONGEST_NS, PIECE_NS, SHORTEST_NS, Outbox
from protocol.worker.messages import Done, Failed, FromWorker, Progress, Text, ToolCall


class Way:
    """An outbox by a clock that stands still, and what left it."""

    def __init__(self) -> None:
        self.now_ns = 1_000
        self.departures: list[list[FromWorker]] = []
        self.outbox = Outbox(self._leave, lambda: self.now_ns)

    def put(self, *messages: FromWorker) -> list[list[FromWorker]]:
        """Put messages together; return what left since the last time."""
        self.outbox.put(messages)
        return self.left()

    def left(self) -> list[list[FromWorker]]:
        left, self.departures = self.departures, []
        return left

    def _leave(self, messages: Sequence[FromWorker]) -> None:
        self.departures.append(list(messages))


@pytest.fixture
def way() -> Way:
    return Way()


def words(number: int, text: str, tokens: int, *, thinking: bool = False) -> Text:
    return Text(number, text, thinking, tokens)


def done(number: int) -> Done:
    return Done(number, "stop", 3, 1, 4, 1, ())


def test_the_first_words_leave_at_once_and_the_next_wait(way: Way) -> None:
    assert way.put(words(1, "a", 1)) == [[words(1, "a", 1)]]
    assert way.outbox.patience_s() is None
    assert way.put(words(1, "b", 2)) == []
    assert way.outbox.patience_s() == SHORTEST_NS / 1e9


def test_what_waited_long_enough_leaves_as_one_message(way: Way) -> None:
    way.put(words(1, "a", 1))
    way.put(words(1, "b", 2))
    way.now_ns += SHORTEST_NS - 1
    assert way.put(words(1, "c", 3)) == []
    way.now_ns += 1
    assert way.outbox.patience_s() == 0
    assert way.put(words(1, "d", 4)) == [[words(1, "bcd", 4)]]


def test_words_leave_though_no_more_come(way: Way) -> None:
    way.put(words(1, "a", 1))
    way.put(words(1, "b", 2))
    way.outbox.send_waiting()
    assert way.left() == [[words(1, "b", 2)]]
    way.outbox.send_waiting()
    assert way.left() == []


def test_all_that_waits_leaves_with_what_cannot(way: Way) -> None:
    way.put(words(1, "a", 1))
    way.put(words(1, "b", 2))
    assert way.put(words(2, "x", 1)) == [[words(1, "b", 2), words(2, "x", 1)]]
    way.put(words(1, "c", 3), words(2, "y", 2))
    assert way.put(Progress(3, 10, 20)) == [[words(1, "c", 3), words(2, "y", 2), Progress(3, 10, 20)]]


@pytest.mark.parametrize(
    "message", [done(1), Failed(1, "internal", "why"), ToolCall(1, "add", "{}"), Progress(1, 3, 4)]
)
def test_what_is_not_words_stays_behind_the_words_before_it(way: Way, message: FromWorker) -> None:
    way.put(words(1, "a", 1))
    [left] = way.put(words(1, "b", 2), message, words(1, "c", 3))
    assert left == [words(1, "b", 2), message, words(1, "c", 3)]


def test_thinking_and_answer_are_not_put_together(way: Way) -> None:
    way.put(words(1, "a", 1, thinking=True))
    way.put(words(1, "b", 2, thinking=True), words(1, "c", 3), words(1, "d", 4))
    way.outbox.send_waiting()
    assert way.left() == [[words(1, "b", 2, thinking=True), words(1, "cd", 4)]]


@pytest.mark.parametrize(("many", "gap_ns"), [(1, SHORTEST_NS), (12, 12 * PIECE_NS), (200, LONGEST_NS)])
def test_more_answers_wait_longer_and_no_more_once_they_ended(way: Way, many: int, gap_ns: int) -> None:
    way.put(*(words(number, "a", 1) for number in range(many)))
    way.put(words(0, "b", 2))
    assert way.outbox.patience_s() == gap_ns / 1e9
    way.put(*(done(number) for number in range(1, many)), Progress(0, 1, 2))
    way.put(words(0, "c", 3))
    assert way.outbox.patience_s() == SHORTEST_NS / 1e9


def test_a_number_that_is_used_again_has_first_words_again(way: Way) -> None:
    way.put(words(1, "a", 1))
    way.put(done(1))
    assert way.put(words(1, "z", 1)) == [[words(1, "z", 1)]]
