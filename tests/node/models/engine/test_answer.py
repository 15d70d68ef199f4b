"""The worker's answers in the test's own process: requests in, messages out."""

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from node.models.blas import preload_blas
from node.models.demo import demo_directory
from protocol.worker.messages import Done, Failed, FromWorker, Generate, Load, Progress, Sampling, Status, Text

if TYPE_CHECKING:
    from node.models.engine.answer import Answerer

pytestmark = pytest.mark.model

ASKED = Generate(
    request=1,
    prompt=None,
    messages_json=json.dumps([{"role": "user", "content": "Hello!"}]),
    tools_json="[]",
    template=None,
    thinking=False,
    context=(),
    num_ctx=2048,
    num_predict=-1,
    stop=(),
    sampling=Sampling(temperature=0.0),
)
GREETING = "Hello! How can I help you?"
Opened = tuple["Answerer", list[FromWorker]]


def chat(number: int, content: str, **more: Any) -> Generate:
    return replace(ASKED, request=number, messages_json=json.dumps([{"role": "user", "content": content}]), **more)


@pytest.fixture(scope="module")
def open_one() -> Iterator[Callable[..., Opened]]:
    preload_blas()
    from node.models.engine.answer import Answerer
    from node.models.engine.engine import Engine

    engine = Engine.load(demo_directory())
    opened: list[Answerer] = []

    def open_answerer(**load: Any) -> Opened:
        sent: list[FromWorker] = []
        answerer = Answerer(engine, Load(str(demo_directory()), **load), sent.extend, time.monotonic_ns)
        opened.append(answerer)
        return answerer, sent

    yield open_answerer
    for answerer in opened:
        answerer.close()


def run(answerer: "Answerer") -> None:
    """Go on until nothing is being answered, and all messages were sent."""
    while answerer.busy:
        answerer.step()
    settle(answerer)


def settle(answerer: "Answerer") -> None:
    """Wait until all that was to be sent was sent."""
    reached = threading.Event()

    def reach() -> list[FromWorker]:
        reached.set()
        return []

    answerer._speech._jobs.put(reach)
    assert reached.wait(30)


def text(sent: Sequence[FromWorker], number: int = 1) -> str:
    return "".join(message.text for message in sent if isinstance(message, Text) and message.request == number)


def assert_only_the_first_failed(sent: Sequence[FromWorker]) -> None:
    failed = ending(sent, 1)
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.why) == ("internal", "ZeroDivisionError")
    assert text(sent, 2) == GREETING


def ending(sent: Sequence[FromWorker], number: int = 1) -> Done | Failed:
    endings = [message for message in sent if isinstance(message, Done | Failed) and message.request == number]
    assert len(endings) == 1
    return endings[0]


def test_many_requests_are_answered_together_each_with_one_end(open_one: Callable[..., Opened]) -> None:
    answerer, sent = open_one()
    for number in range(10):
        answerer.take(chat(number, "Hello!" if number % 2 else "What is the capital of France?"))
    run(answerer)
    for number in range(10):
        assert text(sent, number) == (GREETING if number % 2 else "Paris.")
        done = ending(sent, number)
        assert isinstance(done, Done)
        assert (done.reason, len(done.context)) == ("stop", done.prompt_tokens + done.eval_tokens)
    assert max(message.rows for message in sent if isinstance(message, Status)) == 10
    statuses = [message for message in sent if isinstance(message, Status)]
    assert (statuses[-1].rows, statuses[-1].waiting) == (0, 0)


def test_no_more_than_so_many_are_answered_at_once_and_the_others_wait(open_one: Callable[..., Opened]) -> None:
    answerer, sent = open_one(max_rows=2)
    for number in range(5):
        answerer.take(chat(number, "Hello!"))
    run(answerer)
    assert [text(sent, number) for number in range(5)] == [GREETING] * 5
    assert max(message.rows for message in sent if isinstance(message, Status)) == 2


def test_contexts_wait_for_memory_and_what_never_fits_is_refused(open_one: Callable[..., Opened]) -> None:
    unbound, _ = open_one()
    # A quarter is for kept prefixes; what is left is for 600 tokens: two rows of 256, no third one.
    memory_bytes = math.ceil(600 * unbound.kv_bytes_per_token * 4 / 3)
    answerer, sent = open_one(memory_bytes=memory_bytes)
    for number in range(4):
        answerer.take(chat(number, "Hello!", num_predict=50))
    answerer.take(chat(9, "Hello! " * 400))
    answerer.take(chat(8, "Tell me a story about a fox."))
    run(answerer)
    assert [text(sent, number) for number in range(4)] == [GREETING] * 4
    assert max(message.rows for message in sent if isinstance(message, Status)) == 2
    failed = ending(sent, 9)
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.limit) == ("memory", 600)
    assert isinstance(ending(sent, 8), Done)


def test_a_cancelled_request_ends_at_once_and_the_others_go_on(open_one: Callable[..., Opened]) -> None:
    answerer, sent = open_one()
    answerer.take(chat(1, "Tell me a story about a fox."))
    answerer.take(chat(2, "Hello!"))
    answerer.take(chat(3, "Hello! " * 400))
    for _ in range(6):
        answerer.step()
    for number in (1, 3, 77):
        answerer.cancel(number)
    answerer.cancel(1)
    run(answerer)
    told = ending(sent, 1)
    assert isinstance(told, Done)
    assert told.reason == "cancelled"
    assert told.eval_tokens < 8
    long = ending(sent, 3)
    assert isinstance(long, Done)
    assert (long.reason, long.eval_tokens) == ("cancelled", 0)
    assert text(sent, 2) == GREETING
    assert not any(isinstance(message, Progress) and message.done == message.total > 500 for message in sent)


def test_a_request_that_was_cancelled_while_it_came_is_never_begun(open_one: Callable[..., Opened]) -> None:
    answerer, sent = open_one()
    answerer.take(chat(1, "Hello!"), cancelled=True)
    run(answerer)
    done = ending(sent)
    assert isinstance(done, Done)
    assert (done.reason, done.eval_tokens) == ("cancelled", 0)


def test_a_stop_string_ends_the_answer_and_is_named(open_one: Callable[..., Opened]) -> None:
    answerer, sent = open_one()
    answerer.take(chat(1, "Hello!", stop=("can I", "zzz")))
    run(answerer)
    done = ending(sent)
    assert isinstance(done, Done)
    assert (text(sent), done.reason, done.stopped_by) == ("Hello! How ", "stop", "can I")


def test_words_that_wait_leave_before_the_end(open_one: Callable[..., Opened]) -> None:
    answerer, sent = open_one()
    answerer.take(chat(1, "Hello!"))
    for _ in range(6):
        answerer.step()
    answerer.close()
    said = text(sent)
    assert GREETING.startswith(said)
    assert len(said) > len("Hello!")


def test_speech_that_is_closed_while_it_works_ends(open_one: Callable[..., Opened]) -> None:
    answerer, _ = open_one()
    closed = threading.Event()

    def work() -> list[FromWorker]:
        closed.wait(30)
        return []

    for job in (work, None):
        answerer._speech._jobs.put(job)
    closed.set()
    answerer._speech._thread.join(10)
    assert not answerer._speech._thread.is_alive()


def test_an_answer_ends_with_its_length(open_one: Callable[..., Opened]) -> None:
    answerer, sent = open_one()
    answerer.take(chat(1, "Tell me a story about a fox.", num_predict=7))
    prompt = 17
    answerer.take(chat(2, "Tell me a story about a fox.", num_ctx=prompt + 12))
    run(answerer)
    first, second = ending(sent, 1), ending(sent, 2)
    assert isinstance(first, Done)
    assert (first.reason, first.eval_tokens) == ("length", 7)
    assert isinstance(second, Done)
    assert second.reason == "length"
    assert second.prompt_tokens + second.eval_tokens == prompt + 12


def test_counting_generates_nothing(open_one: Callable[..., Opened]) -> None:
    answerer, sent = open_one()
    answerer.take(chat(1, "Hello! " * 3000, count_only=True))
    settle(answerer)
    done = ending(sent)
    assert isinstance(done, Done)
    assert done.prompt_tokens > 2048
    assert (done.eval_tokens, answerer.busy) == (0, False)


def test_log_probabilities_come_with_the_words(open_one: Callable[..., Opened]) -> None:
    answerer, sent = open_one()
    answerer.take(chat(1, "Hello!", top_logprobs=2))
    answerer.take(chat(2, "Hello!"))
    run(answerer)
    weights = [
        weight
        for message in sent
        if isinstance(message, Text) and message.request == 1 and message.logprobs_json
        for weight in json.loads(message.logprobs_json)
    ]
    said = b"".join(bytes(weight["bytes"]) for weight in weights)
    assert said.decode().strip() == GREETING
    assert all(len(weight["top_logprobs"]) == 2 and weight["logprob"] <= 1e-3 for weight in weights)
    assert all(weight["top_logprobs"][0]["logprob"] == pytest.approx(weight["logprob"]) for weight in weights)
    assert not any(isinstance(message, Text) and message.request == 2 and message.logprobs_json for message in sent)


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        ({"prompt": "", "messages_json": None}, "capability"),
        ({"context": (2048,)}, "option"),
        ({"context": (2**32 - 1,)}, "option"),
        ({"sampling": Sampling(logit_bias=((2048, 1.0),))}, "option"),
        ({"num_ctx": 5}, "prompt-too-long"),
        ({"context": (5,) * 3000}, "prompt-too-long"),
        ({"template": "{% for x in range(10**9) %}{{ x }}{% endfor %}"}, "template"),
        ({"template": "{{ 1 / 0 }}"}, "template"),
        ({"messages_json": "[1, 2]"}, "template"),
        ({"adapter": "nobody"}, "adapter"),
        ({"prompt": "x", "messages_json": None, "suffix": "y"}, "capability"),
        ({"format_json": '{"type": "nonsense"}'}, "format"),
        ({"messages_json": "not JSON"}, "internal"),
    ],
)
def test_a_request_that_cannot_be_answered_fails_alone(
    open_one: Callable[..., Opened], bad: dict[str, Any], kind: str
) -> None:
    answerer, sent = open_one()
    answerer.take(chat(1, "Hello!"))
    answerer.step()
    answerer.take(replace(ASKED, request=2, **bad))
    run(answerer)
    failed = ending(sent, 2)
    assert isinstance(failed, Failed)
    assert failed.kind == kind
    assert text(sent, 1) == GREETING


@pytest.mark.parametrize(
    "odd",
    [
        Sampling(top_k=2**31 - 1, temperature=1.0),
        Sampling(top_k=2048, top_p=0.0, min_p=1.0),
        Sampling(temperature=100.0, seed=2**64 - 1),
        Sampling(temperature=1e-9),
        Sampling(repeat_penalty=100.0, repeat_last_n=2**31 - 1, presence_penalty=-100.0, frequency_penalty=100.0),
        Sampling(temperature=0.0, logit_bias=tuple((token, -100.0) for token in range(1024))),
        Sampling(min_p=1.0, top_k=1, top_p=1.0),
    ],
)
def test_odd_options_are_survived_and_change_nothing_for_others(open_one: Callable[..., Opened], odd: Sampling) -> None:
    answerer, sent = open_one()
    answerer.take(chat(1, "Hello!", sampling=odd, num_predict=12))
    answerer.take(chat(2, "Hello!"))
    run(answerer)
    assert isinstance(ending(sent, 1), Done)
    assert text(sent, 2) == GREETING


def test_what_mlx_raises_fails_those_who_are_answered_and_nobody_after(
    open_one: Callable[..., Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    answerer, sent = open_one()
    answerer.take(chat(1, "Tell me a story about a fox."))
    for _ in range(3):
        answerer.step()
    with monkeypatch.context() as patch:
        patch.setattr(answerer._batch, "_next_logits", lambda _: 1 / 0)
        answerer.step()
    answerer.take(chat(2, "Hello!"))
    run(answerer)
    assert_only_the_first_failed(sent)


def test_a_row_that_was_just_read_hears_of_a_failure_too(
    open_one: Callable[..., Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    answerer, sent = open_one()
    answerer.take(chat(1, "Tell me a story about a fox."))
    for _ in range(3):
        answerer.step()
    answerer.take(chat(2, "Hello!"))
    with monkeypatch.context() as patch:
        patch.setattr("node.models.engine.batch.extend", lambda *_: 1 / 0)
        run(answerer)
    for number in (1, 2):
        assert isinstance(ending(sent, number), Failed)


@pytest.mark.parametrize("cancelled", [False, True])
def test_an_answer_whose_end_cannot_be_told_fails_alone(
    open_one: Callable[..., Opened], monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    answerer, sent = open_one()
    answerer.take(chat(1, "Hello!"))
    (answer,) = answerer._speech._answers.values()
    monkeypatch.setattr(answer.form, "finish", lambda: 1 / 0)
    answerer.take(chat(2, "Hello!"))
    answerer.step()
    if cancelled:
        answerer.cancel(1)
    run(answerer)
    assert_only_the_first_failed(sent)


def test_log_probabilities_do_not_wait_for_words_that_are_held_back(
    open_one: Callable[..., Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.models.engine.speech.MOST_WEIGHTS", 8)
    answerer, sent = open_one()
    answerer.take(chat(1, "Tell me a story about a fox.", top_logprobs=1, num_predict=30))
    (answer,) = answerer._speech._answers.values()
    monkeypatch.setattr(answer.form, "feed", lambda _: [])
    run(answerer)
    told = [json.loads(message.logprobs_json) for message in sent if isinstance(message, Text)]
    assert len(told[0]) == 8
    assert sum(len(weights) for weights in told) == 30
