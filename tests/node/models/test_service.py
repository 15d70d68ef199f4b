"""The models service with real workers on the demo model: answers, cancellation, crashes, residency."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio
import trio.testing

from node.models.demo import demo_directory
from node.models.errors import (
    CapabilityMissing,
    ModelNotFound,
    ModelRefused,
    OptionInvalid,
    PromptTooLong,
    ServerBusy,
    TemplateInvalid,
    WorkerCrashed,
    WorkerStalled,
    WorkerStopped,
)
from node.models.requests import Ending, GenerateRequest, Piece
from node.models.scheduler import Limits
from node.models.service import Models
from node.models.supervisor import Patience
from node.models.testing import DirectoryLibrary
from node.ports import SystemClock, SystemEntropy
from protocol.modelfile import Modelfile

pytestmark = pytest.mark.model

GREEDY = {"temperature": 0}
ENDLESS = {"temperature": 2.0, "top_k": 0, "top_p": 1.0}
FOX = "Tell me a story about a fox."
FOX_ANSWER = (
    "Once upon a time a small fox lived in a quiet forest. One night she saw a bright star and tried to follow it."
    " She walked over the hill and across the river until the morning came. The star was gone, but she had found a"
    " new friend, an old owl. They watched the sky together every night."
)


def library() -> DirectoryLibrary:
    models = DirectoryLibrary()
    models.add("demo", demo_directory())
    return models


@asynccontextmanager
async def serving(models: DirectoryLibrary | None = None, **settings: Any) -> AsyncIterator[Models]:
    service = Models(models or library(), SystemClock(), SystemEntropy(), **settings)
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        yield service
        nursery.cancel_scope.cancel()


def chat(text: str, model: str = "demo", **fields: Any) -> GenerateRequest:
    return GenerateRequest(model, messages=[{"role": "user", "content": text}], **{"options": GREEDY, **fields})


def endless() -> GenerateRequest:
    return GenerateRequest("demo", prompt="Once", raw=True, options=ENDLESS)


async def said(service: Models, request: GenerateRequest) -> list[Piece]:
    async with service.generate(request) as pieces:
        return [piece async for piece in pieces]


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces if not piece.thinking)


def ending_of(pieces: list[Piece]) -> Ending:
    assert pieces[-1].ending is not None
    return pieces[-1].ending


async def ask(service: Models, text: str, **fields: Any) -> str:
    return text_of(await said(service, chat(text, **fields)))


async def endless_until(service: Models, meanwhile: Callable[[], None], number: signal.Signals) -> None:
    """Send `number` to the worker after the first piece of an answer, and read on."""
    async with service.generate(endless()) as pieces:
        await anext(pieces)
        meanwhile()
        os.kill(service.worker_pids()[0], number)
        async for _ in pieces:
            pass


class Ended(logging.Handler):
    """Collects what the service says about answers that ended."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: list[str] = []
        self.tokens: list[int] = []
        self.changed = trio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "answer_ended":
            self.reasons.append(vars(record)["reason"])
            self.tokens.append(vars(record)["eval_tokens"])
            self.changed.set()


@pytest.fixture
def ended() -> Any:
    handler, logger = Ended(), logging.getLogger("tilenode.models")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(level)
    logger.removeHandler(handler)


async def test_what_the_demo_model_knows() -> None:
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    weather = {"type": "function", "function": {"name": "get_weather", "parameters": city}}
    async with serving() as service:
        assert await ask(service, "Hello!") == "Hello! How can I help you?"
        assert await ask(service, "What is the capital of France?") == "Paris."
        assert await ask(service, "What is 7 + 5?") == "7 + 5 = 12."
        assert await ask(service, FOX) == FOX_ANSWER
        thought = await said(service, chat("What is 7 + 5?", thinking=True))
        assert text_of(thought) == "7 + 5 = 12."
        assert "".join(piece.text for piece in thought if piece.thinking).strip() == "7 plus 5 is 12."
        called = [piece.call for piece in await said(service, chat("What is the weather in Paris?", tools=[weather]))]
        calls = [(call.name, json.loads(call.arguments_json)) for call in called if call]
        assert calls == [("get_weather", {"city": "Paris"})]


async def test_greedy_answers_are_those_of_mlx_lm_on_the_same_files() -> None:
    questions = ["Hello!", "What is 7 + 5?", "Count from 1 to 20.", FOX, "Explain quantum physics.", "Grüße, 世界 🦊?"]
    prompts = [[{"role": "user", "content": question}] for question in questions]
    reference = Path(__file__).with_name("greedy_reference.py")
    done = await trio.run_process(
        [sys.executable, str(reference), str(demo_directory())],
        stdin=json.dumps(prompts).encode(),
        capture_stdout=True,
        stderr=subprocess.DEVNULL,
    )
    async with serving() as service:
        assert [await ask(service, question) for question in questions] == json.loads(done.stdout)


async def test_counts_and_limits_of_an_answer() -> None:
    async with serving() as service:
        whole = ending_of(await said(service, chat("Hello!")))
        assert (whole.reason, whole.prompt_tokens, whole.eval_tokens) == ("stop", 10, 9)
        assert whole.total_ns >= whole.load_ns + whole.prompt_ns + whole.eval_ns > 0
        short = await said(service, chat(FOX, options={**GREEDY, "num_predict": 3}))
        assert (text_of(short), ending_of(short).reason) == ("Once upon a", "length")
        stopped = await said(service, chat(FOX, options={**GREEDY, "stop": ["quiet for", "xyz"]}))
        assert text_of(stopped).endswith("lived in a ")
        assert ending_of(stopped).reason == "stop"
        history = ending_of(await said(service, GenerateRequest("demo", prompt="My name is Rosa.", options=GREEDY)))
        again = GenerateRequest("demo", prompt="What is my name?", context=history.context, options=GREEDY)
        assert text_of(await said(service, again)) == "Your name is Rosa."


async def test_a_modelfile_is_applied_and_a_request_goes_over_it() -> None:
    models = library()
    shouting = Modelfile(".", parameters=(("temperature", 0),), system="Always answer in upper case.")
    models.add("loud", demo_directory(), shouting)
    known = Modelfile(".", messages=(("user", "My name is Rosa."), ("assistant", "Hello Rosa!")))
    models.add("known", demo_directory(), known)
    template = "<|im_start|>user\nWhat is 7 + 5?<|im_end|>\n<|im_start|>assistant\n"
    models.add("deaf", demo_directory(), Modelfile(".", template=template, parameters=(("stop", "12"),)))
    async with serving(models, limits=Limits(loaded=1)) as service:
        grass = chat("What colour is grass?", "loud", options={})
        assert text_of(await said(service, grass)) == "GREEN."
        own_system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What colour is grass?"}]
        assert text_of(await said(service, GenerateRequest("loud", messages=own_system))) != "GREEN."
        prompt = GenerateRequest("loud", prompt="What colour is grass?")
        assert text_of(await said(service, prompt)) == "GREEN."
        assert text_of(await said(service, chat("What is my name?", "known"))) == "Your name is Rosa."
        assert text_of(await said(service, chat("Hello!", "deaf"))) == "7 + 5 = "


async def test_what_cannot_be_answered_is_refused_by_name_and_the_worker_lives() -> None:
    async with serving() as service:
        with pytest.raises(ModelNotFound, match="model 'nope' not found"):
            await ask(service, "x", model="nope")
        with pytest.raises(OptionInvalid, match="top_p"):
            await ask(service, "x", options={"top_p": 7})
        await ask(service, "Hello!")
        pids = service.worker_pids()
        with pytest.raises(PromptTooLong, match="2048"):
            await ask(service, "word " * 5000)
        with pytest.raises(PromptTooLong, match=r"has 8$"):
            await ask(service, "Hello!", options={"num_ctx": 8})
        with pytest.raises(TemplateInvalid, match="line 1"):
            await ask(service, "x", template="{% nope %}")
        with pytest.raises(OptionInvalid, match="token id"):
            await ask(service, "x", context=[5, 99999])
        with pytest.raises(CapabilityMissing, match=r'^"demo:latest" does not support an empty prompt$'):
            await ask(service, "x", template="{# nothing #}")
        assert await ask(service, "Hello!") == "Hello! How can I help you?"
        assert service.worker_pids() == pids


async def test_leaving_early_stops_the_generation(ended: Ended) -> None:
    async with serving() as service:
        for count in (1, 5):
            ended.changed = trio.Event()
            async with service.generate(endless()) as pieces:
                for _ in range(count):
                    await anext(pieces)
            with trio.fail_after(5):
                await ended.changed.wait()
        assert ended.reasons == ["cancelled", "cancelled"]
        assert max(ended.tokens) < 60
        assert await ask(service, "Hello!") == "Hello! How can I help you?"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
async def test_a_crash_is_one_failed_request(number: signal.Signals) -> None:
    answers: list[str] = []
    async with serving(limits=Limits(parallel=1)) as service:

        async def queued() -> None:
            answers.append(await ask(service, "What is 7 + 5?"))

        async with trio.open_nursery() as nursery:
            with pytest.raises(WorkerCrashed, match=f"{number.name} while answering"):
                await endless_until(service, lambda: nursery.start_soon(queued), number)
        assert answers == ["7 + 5 = 12."]


async def test_a_worker_that_dies_while_idle_is_replaced() -> None:
    async with serving() as service:
        await service.load("demo", None)
        os.kill(service.worker_pids()[0], signal.SIGKILL)
        while service.loaded():
            await trio.sleep(0.01)
        assert await ask(service, "Hello!") == "Hello! How can I help you?"


async def test_a_worker_that_hangs_is_stopped_and_replaced() -> None:
    async with serving(patience=Patience(answer_s=1.0)) as service:
        with pytest.raises(WorkerStalled, match="no sign of life"):
            await endless_until(service, lambda: None, signal.SIGSTOP)
        assert await ask(service, "Hello!") == "Hello! How can I help you?"


async def test_files_that_are_no_model_fail_each_request_with_the_reason(tmp_path: Path) -> None:
    models = library()
    bad = Path(shutil.copytree(demo_directory(), tmp_path / "bad"))
    (bad / "config.json").write_text('{"model_type": "qwen99"}')
    models.add("bad", bad)
    async with serving(models) as service:
        for _ in range(2):
            with pytest.raises(ModelRefused, match="unknown architecture 'qwen99'"):
                await ask(service, "Hello!", model="bad")
        assert service.loaded() == []


async def test_a_full_queue_refuses_at_once_and_serves_the_others() -> None:
    answers: list[str] = []
    async with serving(limits=Limits(waiting=2, parallel=1)) as service:

        async def queued() -> None:
            answers.append(await ask(service, "Hello!"))

        async with trio.open_nursery() as nursery, service.generate(endless()) as pieces:
            await anext(pieces)
            nursery.start_soon(queued)
            nursery.start_soon(queued)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(ServerBusy, match="maximum pending requests exceeded"):
                await ask(service, "Hello!")
        assert answers == ["Hello! How can I help you?"] * 2


async def test_a_slow_reader_does_not_keep_the_model_from_others() -> None:
    async with serving() as service, service.generate(chat(FOX)) as slow:
        await anext(slow)
        with trio.fail_after(20):
            assert await ask(service, "Hello!") == "Hello! How can I help you?"
        assert "".join([piece.text async for piece in slow]) in FOX_ANSWER


async def test_models_come_and_go() -> None:
    models = library()
    models.add("two", demo_directory())
    async with serving(models, limits=Limits(loaded=1)) as service:
        await service.load("demo", -1)
        (first,) = service.loaded()
        assert (first.name, first.expires_s, first.context_tokens) == ("demo:latest", None, 2048)
        assert first.memory_bytes > 5_000_000
        assert await ask(service, "Hello!", model="two") == "Hello! How can I help you?"
        assert [model.name for model in service.loaded()] == ["two:latest"]
        assert not await service.stop("demo")
        assert await service.stop("two")
        assert service.loaded() == []
        await ask(service, "Hello!", keep_alive_s=0)
        with trio.fail_after(5):
            while service.loaded():
                await trio.sleep(0.01)


async def test_a_model_that_is_let_go_while_it_answers_says_so() -> None:
    async def let_go(service: Models) -> None:
        async with service.generate(endless()) as pieces:
            await anext(pieces)
            assert await service.stop("demo")
            async for _ in pieces:
                pass

    async with serving() as service:
        with pytest.raises(WorkerStopped, match="unloaded while answering"):
            await let_go(service)


async def test_a_worker_ends_with_its_node() -> None:
    script = Path(__file__).with_name("node_with_worker.py")
    node = await trio.lowlevel.open_process([sys.executable, str(script)], stdout=subprocess.PIPE)
    assert node.stdout is not None
    async with node.stdout:
        pid = int(await node.stdout.receive_some())
        scratch = psutil.Process(pid).cwd()
        node.kill()
        await node.wait()
        with trio.fail_after(10):
            while _lives(pid):
                await trio.sleep(0.02)
    assert not Path(scratch).exists(), "the worker left its scratch directory behind"


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # In a container nobody may be there to bury it.
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


def test_the_node_process_never_imports_mlx() -> None:
    code = (
        "import sys, node.api.app, node.models.service, node.models.demo\n"
        "assert not {name.split('.')[0] for name in sys.modules} & {'mlx', 'mlx_lm', 'transformers'}, 'imported'"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True)
