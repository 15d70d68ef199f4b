"""Embeddings over HTTP: Ollama's and OpenAI's own clients, and what is refused with 400."""

import base64
import json
import math
import os
import queue
import signal
import struct
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import ollama
import openai
import pytest
import trio
from tokenizers import Tokenizer

from node.api.app import build_api
from node.api.guard import loopback_hosts
from node.control.server import api_url, bind_api_socket, serve_http
from node.models.demo import demo_directory
from node.models.service import Models
from node.models.testing import DirectoryLibrary
from node.ports import SystemClock, SystemEntropy
from tests.node.models.engine import embedding_reference as reference
from tests.node.models.engine.embedding_models import HIDDEN, PLACES, Weights, write_decoder, write_encoder

pytestmark = pytest.mark.model

TEXTS = ["the cat sat on the mat", "paris is the capital of france.", "a", "foo bar"]


class Served:
    """A running API with two models of embeddings, and one that writes."""

    def __init__(
        self, url: str, directory: Path, weights: Weights, models: Models, stop: trio.Event, token: Any
    ) -> None:
        self.url = url
        self.models = models
        self.directory = directory
        self.weights = weights
        self.stop = stop
        self.token = token

    def expected(self, text: str, dimensions: int = HIDDEN) -> Any:
        """Return the vector of a text by 64-bit numpy."""
        tokenizer = Tokenizer.from_file(str(self.directory / "bert" / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokens = tokenizer.encode(text).ids[: PLACES - 1]
        vector = reference.pooled(reference.encoder_states("bert", self.weights, tokens), "mean")[:dimensions]
        return vector / math.sqrt(float((vector**2).sum()))

    def worker_pids(self) -> list[int]:
        """Return the process ids of the model workers."""
        return trio.from_thread.run_sync(self.models.worker_pids, trio_token=self.token)

    def post(self, path: str, body: Any, **fields: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=60, **fields)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("models")
    weights = write_encoder(directory / "bert")
    write_decoder(directory / "decoder")
    started: queue.SimpleQueue[Served] = queue.SimpleQueue()
    thread = threading.Thread(target=lambda: trio.run(_run, directory, weights, started), name="api")
    thread.start()
    served = started.get(timeout=20)
    yield served
    trio.from_thread.run_sync(served.stop.set, trio_token=served.token)
    thread.join()


async def _run(directory: Path, weights: Weights, started: "queue.SimpleQueue[Served]") -> None:
    library = DirectoryLibrary()
    library.add("demo", demo_directory())
    library.add("bert", directory / "bert")
    library.add("decoder", directory / "decoder")
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        models = Models(library, SystemClock(), SystemEntropy())
        await nursery.start(models.run)
        listener = bind_api_socket("127.0.0.1", 0, or_any_port=False)
        hosts = partial(loopback_hosts, listener.getsockname()[1])
        app = build_api(models, SystemClock(), SystemEntropy(), version="9.8.7", hosts=hosts)
        await nursery.start(serve_http, app, listener, 1.0, stop)
        started.put(Served(api_url(listener), directory, weights, models, stop, trio.lowlevel.current_trio_token()))
        await stop.wait()
        nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def _nothing_left_from_before() -> None:
    """Nothing here looks at what was served before."""


@pytest.fixture
def compatible(api: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def native(api: Served) -> Iterator[ollama.Client]:
    with ollama.Client(api.url) as client:
        yield client


def test_ollamas_client_gets_the_vectors_of_numpy(api: Served, native: ollama.Client) -> None:
    found = native.embed("bert", TEXTS)
    for text, vector in zip(TEXTS, found.embeddings, strict=True):
        assert np.abs(np.array(vector) - api.expected(text)).max() < 2e-6
    assert found.model == "bert"
    assert found.prompt_eval_count == 8 + 9 + 3 + 4
    assert (found.total_duration or 0) >= (found.load_duration or 0) > 0
    (one,) = native.embed("bert", TEXTS[0]).embeddings
    assert np.allclose(one, found.embeddings[0], atol=1e-6)
    assert np.allclose(native.embeddings("bert", TEXTS[0]).embedding, one, atol=1e-6)
    (cut,) = native.embed("bert", TEXTS[0], dimensions=8).embeddings
    assert np.abs(np.array(cut) - api.expected(TEXTS[0], 8)).max() < 2e-6
    assert native.embed("bert", []).embeddings == []
    assert native.embed("bert", "").embeddings == []
    assert len(native.embed("bert", ["", "a"]).embeddings) == 2
    assert native.embeddings("bert", "").embedding == []
    assert len(native.embed("decoder", ["Hello!", "What is 7 + 5?"], keep_alive=0).embeddings[1]) == HIDDEN


def test_openais_client_gets_the_same_as_numbers_and_as_bytes(api: Served, compatible: openai.OpenAI) -> None:
    found = compatible.embeddings.create(model="bert", input=TEXTS, encoding_format="float")
    assert [item.index for item in found.data] == [0, 1, 2, 3]
    for text, item in zip(TEXTS, found.data, strict=True):
        assert np.abs(np.array(item.embedding) - api.expected(text)).max() < 2e-6
    assert (found.usage.prompt_tokens, found.usage.total_tokens, found.model, found.object) == (24, 24, "bert", "list")
    # The client asks for base64 by itself and unpacks it.
    packed = compatible.embeddings.create(model="bert", input=TEXTS)
    assert [item.embedding for item in packed.data] == [
        [struct.unpack("f", struct.pack("f", value))[0] for value in item.embedding] for item in found.data
    ]
    raw = api.post("/v1/embeddings", {"model": "bert", "input": TEXTS[0], "encoding_format": "base64"}).json()
    vector = np.frombuffer(base64.b64decode(raw["data"][0]["embedding"]), "<f4")
    assert np.abs(vector - api.expected(TEXTS[0])).max() < 2e-6
    cut = compatible.embeddings.create(model="bert", input=TEXTS[0], dimensions=5).data[0].embedding
    assert np.abs(np.array(cut) - api.expected(TEXTS[0], 5)).max() < 2e-6
    tokens = Tokenizer.from_file(str(api.directory / "bert" / "tokenizer.json")).encode(TEXTS[0]).ids
    for given in (tokens, [tokens], [tokens, [7]]):
        ids = compatible.embeddings.create(model="bert", input=given).data[0].embedding
        assert np.abs(np.array(ids) - api.expected(TEXTS[0])).max() < 2e-6


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"input": []}, "input", "not empty"),
        ({"input": ""}, "input", "not empty"),
        ({"input": ["a", ""]}, "input.1", "not empty"),
        ({"input": [[]]}, "input.0", "not empty"),
        ({"input": ["a"] * 10_000}, "input", "10000 inputs, at most 2048"),
        ({"input": [5, 99_999]}, "input", "token id 99999"),
        ({"input": [5, -1]}, "input", "token id -1"),
        ({"input": [[5], [2**70]]}, "input", "input 1 has the token id"),
        ({"input": [1.5]}, "input", "text or token ids"),
        ({"input": [True]}, "input", "text or token ids"),
        ({"input": {"a": 1}}, "input", "expected a text"),
        ({"input": None}, "input", "expected a text"),
        ({}, "input", "Field required"),
        ({"input": "a", "dimensions": 0}, "dimensions", "greater than or equal to 1"),
        ({"input": "a", "dimensions": 33}, "input", "this model's vectors have 32"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "float"),
        ({"input": "a", "surplus": 1}, "surplus", "Unrecognized request argument supplied: surplus"),
        ({"input": "the cat " * 100}, "input", "the input length exceeds the context length: input 0 has 202 tokens"),
        ({"input": ["a", "the cat " * 1_000_000]}, "input", "input 1 has more than 128 tokens"),
    ],
)
def test_compatible_refusals_name_the_field(api: Served, body: dict[str, Any], param: str, says: str) -> None:
    answer = api.post("/v1/embeddings", {"model": "bert", **body})
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith(param)
    assert says in error["message"]


def test_openais_client_raises_its_own_errors(api: Served, compatible: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        compatible.embeddings.create(model="bert", input="the cat " * 100)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        compatible.embeddings.create(model="nobody", input="a")
    with pytest.raises(openai.BadRequestError, match='"demo" does not support embedding'):
        compatible.embeddings.create(model="demo", input="a")
    whole = compatible.embeddings.create(model="bert", input="the cat " * 100, extra_body={"truncate": True})
    assert whole.usage.prompt_tokens == PLACES


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"input": 5}, "invalid input type"),
        ({"input": [1, 2]}, "invalid input type"),
        ({"input": ["a", None]}, "invalid input type"),
        ({"input": "a", "dimensions": -1}, "dimensions"),
        ({"input": "a", "dimensions": 64}, "this model's vectors have 32"),
        ({"input": ["a", "the cat " * 100], "truncate": False}, "input 1 has 202 tokens, at most 64 are read"),
        ({"input": "the cat " * 1_000_000, "truncate": False}, "input 0 has more than 128 tokens"),
        ({"input": ["a"] * 20_000}, "20000 inputs, at most 16384"),
        ({"input": "a", "keep_alive": "300"}, "300"),
        ({"input": "a", "model": ""}, "model is required"),
        ({"input": "a", "model": "demo"}, '"demo" does not support embedding'),
        ({"input": [""], "model": "decoder"}, "input 0 is empty"),
    ],
)
def test_native_refusals(api: Served, body: dict[str, Any], says: str) -> None:
    answer = api.post("/api/embed", {"model": "bert", **body})
    assert answer.status_code == 400
    assert says in answer.json()["error"]


def test_much_text_is_cut_and_many_texts_are_embedded(api: Served) -> None:
    answer = api.post("/api/embed", {"model": "bert", "input": "the cat " * 1_250_000})
    assert answer.status_code == 200
    assert answer.json()["prompt_eval_count"] == PLACES
    texts = [f"{'cat ' * (number % 7)}dog {number}" for number in range(10_000)]
    answer = api.post("/api/embed", {"model": "bert", "input": texts})
    vectors = answer.json()["embeddings"]
    assert len(vectors) == 10_000
    for number in (0, 1, 255, 256, 9_999):
        assert np.abs(np.array(vectors[number]) - api.expected(texts[number])).max() < 2e-6
    assert api.post("/api/embed", {"model": "bert", "input": "x" * 17_000_000}).status_code == 413
    assert api.post("/api/embed", {"model": "nobody", "input": "a"}).status_code == 404


def test_a_model_of_embeddings_refuses_to_write(api: Served) -> None:
    chat = {"model": "bert", "messages": [{"role": "user", "content": "Hello!"}]}
    for path, body in (("/api/chat", chat), ("/api/generate", {"model": "bert", "prompt": "a"})):
        answer = api.post(path, body)
        assert answer.status_code == 400
        assert '"bert" does not support' in answer.json()["error"]
    answer = api.post("/v1/chat/completions", chat)
    assert answer.status_code == 400


def test_a_short_question_does_not_wait_for_a_long_one(api: Served) -> None:
    long: queue.SimpleQueue[int] = queue.SimpleQueue()
    texts = [f"{'cat ' * 60}{number}" for number in range(4_000)]

    def ask() -> None:
        long.put(api.post("/api/embed", {"model": "bert", "input": texts}).status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    answered = 0
    while asking.is_alive():
        assert api.post("/api/embed", {"model": "bert", "input": "a"}).status_code == 200
        answered += 1
    asking.join()
    assert long.get() == 200
    assert answered > 3


def test_who_leaves_ends_the_work(api: Served) -> None:
    texts = [f"{'cat ' * 60}{number}" for number in range(16_000)]
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{api.url}/api/embed", json={"model": "bert", "input": texts}, timeout=httpx.Timeout(30, read=0.5))
    answer = api.post("/api/embed", {"model": "bert", "input": "a"})
    assert json.loads(answer.content)["total_duration"] < 5e9


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_dies_costs_its_requests_and_no_other(api: Served, number: signal.Signals) -> None:
    said: queue.SimpleQueue[httpx.Response] = queue.SimpleQueue()
    texts = [f"{'cat ' * 60}{number}" for number in range(16_000)]
    for name in ("bert", "decoder"):
        trio.from_thread.run(api.models.stop, name, trio_token=api.token)
    assert api.post("/api/embed", {"model": "bert", "input": "a"}).status_code == 200
    (pid,) = api.worker_pids()
    asking = threading.Thread(target=lambda: said.put(api.post("/api/embed", {"model": "bert", "input": texts})))
    asking.start()
    while not any(
        seat.users for seat, _ in trio.from_thread.run_sync(api.models.scheduler.loaded, trio_token=api.token)
    ):
        asking.join(0.01)
    os.kill(pid, number)
    asking.join()
    answer = said.get()
    assert answer.status_code == 500
    assert "the model worker was ended by" in answer.json()["error"]
    again = api.post("/api/embed", {"model": "bert", "input": TEXTS[0]})
    assert np.abs(np.array(again.json()["embeddings"][0]) - api.expected(TEXTS[0])).max() < 2e-6
