"""Adapters and drafts in a real worker: several adapters in one process, and guesses that change no answer."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from node.models.anatomy import Anatomy, read_directory
from node.models.blas import preload_blas
from node.models.demo import demo_directory
from node.models.errors import ModelRefused
from node.models.library import ServedModel
from node.models.listed import served_model
from node.models.requests import GenerateRequest
from node.models.service import Models
from node.ports import SystemClock, SystemEntropy
from protocol.digest import Digest
from protocol.model_name import parse_model_name
from store.models import ModelStore
from store.testing import add_model

pytestmark = [pytest.mark.model, pytest.mark.timeout(400)]

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
QUESTIONS = ("Tell me a story about a fox.", "Hello there.", "What is the capital of France?")


class StoreLibrary:
    """The models of a store, as the node serves them."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store

    async def list(self) -> Sequence[ServedModel]:
        return [served_model(model, ("completion",)) for model in self._store.list()]

    async def find(self, name: str) -> ServedModel:
        return served_model(self._store.resolve(parse_model_name(name)), ("completion",))

    async def directory(self, digest: Digest) -> Path:
        return self._store.materialize(digest)

    async def anatomy(self, digest: Digest) -> Anatomy:
        return read_directory(self._store.materialize(digest))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ModelStore]:
    store = ModelStore(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A LoRA and a DoRA, trained here until the demo model says something else."""
    directory = tmp_path_factory.mktemp("trained")
    for kind in ("lora", "dora"):
        subprocess.run(
            [sys.executable, HERE / "lora_training.py", demo_directory(), directory / kind, kind],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
        )
    return {kind: directory / kind for kind in ("lora", "dora")}


@asynccontextmanager
async def serving(store: ModelStore) -> AsyncIterator[Models]:
    service = Models(StoreLibrary(store), SystemClock(), SystemEntropy())
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        yield service
        nursery.cancel_scope.cancel()


async def ask(service: Models, model: str, question: str, **options: Any) -> str:
    request = GenerateRequest(
        model, messages=[{"role": "user", "content": question}], options={"temperature": 0, **options}
    )
    async with service.generate(request) as answer:
        return "".join([piece.text async for piece in answer])


def mlx_lm_says(adapter: Path | None) -> list[str]:
    """Return mlx-lm's own greedy answers, with its own loading of adapters."""
    asked = json.dumps([[{"role": "user", "content": question}] for question in QUESTIONS])
    words: list[str | Path] = [sys.executable, HERE / "greedy_reference.py", demo_directory()]
    words += [adapter] if adapter else []
    done = subprocess.run(words, input=asked, capture_output=True, text=True, check=True)
    answers: list[str] = json.loads(done.stdout)
    return answers


async def test_models_over_one_base_answer_at_once_from_one_worker(store: ModelStore, trained: dict[str, Path]) -> None:
    add_model(store, "plain", demo_directory())
    add_model(store, "tuned", demo_directory(), f"FROM .\nADAPTER {trained['lora']}")
    add_model(store, "again", demo_directory(), f"FROM .\nADAPTER {trained['lora']}\nPARAMETER num_predict 3")
    add_model(store, "other", demo_directory(), f"FROM .\nADAPTER {trained['dora']}")
    expected = {
        "plain": mlx_lm_says(None),
        "tuned": mlx_lm_says(trained["lora"]),
        "other": mlx_lm_says(trained["dora"]),
    }
    assert expected["plain"] != expected["tuned"]
    said: dict[tuple[str, int], str] = {}

    async def take(service: Models, model: str, number: int) -> None:
        said[model, number] = await ask(service, model, QUESTIONS[number])

    async with serving(store) as service:
        async with trio.open_nursery() as nursery:
            for model in expected:
                for number in range(len(QUESTIONS)):
                    nursery.start_soon(take, service, model, number)
        assert {model: [said[model, number] for number in range(len(QUESTIONS))] for model in expected} == expected
        assert expected["tuned"][0].startswith(await ask(service, "again", QUESTIONS[0]))
        assert len(service.worker_pids()) == 1
        assert {model.name for model in service.loaded()} == {
            "plain:latest",
            "tuned:latest",
            "again:latest",
            "other:latest",
        }
        # One of them is let go: the worker and the others stay, and it comes back when it is asked again.
        pids = service.worker_pids()
        assert await service.stop("other")
        assert await ask(service, "tuned", QUESTIONS[0]) == expected["tuned"][0]
        assert await ask(service, "other", QUESTIONS[0]) == expected["other"][0]
        assert service.worker_pids() == pids


async def test_an_adapter_that_does_not_fit_costs_its_own_model_only(
    store: ModelStore, trained: dict[str, Path], tmp_path: Path
) -> None:
    config = json.loads((trained["lora"] / "adapter_config.json").read_text())
    config["lora_parameters"]["keys"].append("self_attn.o_proj")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text(json.dumps(config))
    (broken / "adapters.safetensors").write_bytes((trained["lora"] / "adapters.safetensors").read_bytes())
    add_model(store, "plain", demo_directory())
    add_model(store, "broken", demo_directory(), f"FROM .\nADAPTER {broken}")
    async with serving(store) as service:
        before = await ask(service, "plain", QUESTIONS[0])
        pids = service.worker_pids()
        for _ in range(2):
            with pytest.raises(ModelRefused, match="o_proj"):
                await ask(service, "broken", QUESTIONS[0])
        assert await ask(service, "plain", QUESTIONS[0]) == before
        assert service.worker_pids() == pids


async def test_the_adapter_that_was_not_asked_for_longest_makes_room(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.node.models.engine.test_lora import load_base, make_adapter

    monkeypatch.setattr("node.models.service.MAX_ADAPTERS", 2)
    base = load_base()
    said: dict[str, set[str]] = {}
    for seed, name in enumerate(("one", "two", "three")):
        adapter = make_adapter(base, tmp_path / name, seed, num_layers=4)
        add_model(store, name, demo_directory(), f"FROM .\nADAPTER {adapter}\nPARAMETER num_predict 8")

    async def take(service: Models, model: str) -> None:
        said.setdefault(model, set()).add(await ask(service, model, QUESTIONS[0]))

    async with serving(store) as service:
        for model in ("one", "two", "three", "one"):
            await take(service, model)
        ((_, worker),) = service.scheduler.loaded()
        three, one = [(await StoreLibrary(store).find(name)).adapter for name in ("three", "one")]
        assert worker.adapters == {three: 0, one: 0}
        async with trio.open_nursery() as nursery:  # all at once: nobody's adapter is taken away while it is needed
            for model in ("one", "two", "three") * 3:
                nursery.start_soon(take, service, model)
        assert len(set.union(*said.values())) == 3
        assert all(len(answers) == 1 for answers in said.values())


async def test_a_model_with_a_draft_says_what_it_says_without(store: ModelStore, tmp_path: Path) -> None:
    preload_blas()
    from tests.node.models.engine.drafting_loop import shorten

    add_model(store, "plain", demo_directory())
    add_model(store, "quick", demo_directory(), f"FROM .\nDRAFT {shorten(tmp_path / 'small', 3)}")
    async with serving(store) as service:
        assert service.metrics.drafted_tokens == 0
        for options in ({}, {"temperature": 0.8, "seed": 5}, {"temperature": 1.2, "seed": 6, "repeat_penalty": 1.3}):
            for question in QUESTIONS[:2]:
                asked = {"num_predict": 100, **options}
                assert await ask(service, "quick", question, **asked) == await ask(service, "plain", question, **asked)
        assert service.metrics.drafted_tokens > 0
        assert len(service.worker_pids()) == 2, "a draft is loaded only where a recipe names it"


async def test_recipe_and_files_must_agree_about_a_draft(store: ModelStore, tmp_path: Path) -> None:
    preload_blas()
    from tests.node.models.engine.drafting_loop import shorten

    add_model(store, "quick", demo_directory(), f"FROM .\nDRAFT {shorten(tmp_path / 'small', 1)}")
    quick = await StoreLibrary(store).find("quick")
    assert quick.modelfile.draft == "./draft"

    class Forgetful(StoreLibrary):
        async def directory(self, digest: Digest) -> Path:
            return demo_directory()

    service = Models(Forgetful(store), SystemClock(), SystemEntropy())
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        with pytest.raises(ModelRefused, match="a draft that is not among its files"):
            await ask(service, "quick", QUESTIONS[0])
        nursery.cancel_scope.cancel()


async def test_an_adapter_that_nobody_waited_for_in_the_end_is_known_and_can_go(
    store: ModelStore, tmp_path: Path
) -> None:
    from tests.node.models.engine.test_lora import load_base, make_adapter

    add_model(store, "plain", demo_directory())
    adapter = make_adapter(load_base(), tmp_path / "one", 1, num_layers=4)
    add_model(store, "one", demo_directory(), f"FROM .\nADAPTER {adapter}")
    async with serving(store) as service:
        await service.load("plain", None)
        ((_, worker),) = service.scheduler.loaded()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.load, "one", None)
            while not worker._outstanding:
                await trio.sleep(0)
            nursery.cancel_scope.cancel()
        with trio.fail_after(20):
            while worker._outstanding:
                await trio.sleep(0.01)
        assert worker.adapters == {(await StoreLibrary(store).find("one")).adapter: 0}
