"""Every instruction of a recipe, built into a real store and answered by a real worker; adapters against mlx-lm."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from node.models.demo import demo_directory
from node.models.errors import ModelRefused
from node.models.questions import _words
from node.models.requests import GenerateRequest, Piece
from node.models.service import Models
from node.models.testing import DirectoryLibrary
from node.ports import SystemClock, SystemEntropy
from protocol.model_name import parse_model_name
from protocol.modelfile import Modelfile
from protocol.worker.messages import Ready
from store.models import ModelStore, StoredModel
from store.safetensors import read_header
from store.testing import add_model

pytestmark = pytest.mark.model

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
FOX = "Tell me a story about a fox."


@pytest.fixture(scope="module", params=["lora", "dora"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A tiny adapter, trained here until the demo model says one sentence; its directory and the sentence."""
    target = tmp_path_factory.mktemp("trained") / request.param
    done = subprocess.run(
        [sys.executable, HERE / "lora_training.py", demo_directory(), target, request.param],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return target, done.stdout.strip()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ModelStore]:
    store = ModelStore(tmp_path / "store")
    yield store
    store.close()


def create(store: ModelStore, name: str, directory: Path, recipe: str) -> StoredModel:
    """Build what `recipe` says; `FROM demo` is the embedded model's directory."""
    add_model(store, name, directory, recipe.replace("FROM demo\n", f"FROM {demo_directory()}\n"))
    return store.resolve(parse_model_name(name))


@asynccontextmanager
async def serving(store: ModelStore) -> AsyncIterator[Models]:
    library = DirectoryLibrary()
    for model in store.list():
        library.add(str(model.name), store.materialize(model.digest), model.modelfile)
    service = Models(library, SystemClock(), SystemEntropy())
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        yield service
        nursery.cancel_scope.cancel()


async def pieces(service: Models, request: GenerateRequest) -> list[Piece]:
    async with service.generate(request) as answer:
        return [piece async for piece in answer]


async def ask(service: Models, model: str, *lines: str, **fields: Any) -> str:
    """Return the answer to a conversation whose first line is the person's, without any option of its own."""
    messages = [{"role": ("user", "assistant")[at % 2], "content": line} for at, line in enumerate(lines)]
    return "".join(piece.text for piece in await pieces(service, GenerateRequest(model, messages=messages, **fields)))


def mlx_lm_says(adapter: Path | None, *questions: str) -> list[str]:
    """Return mlx-lm's own greedy answers."""
    asked = json.dumps([[{"role": "user", "content": question}] for question in questions])
    words: list[str | Path] = [sys.executable, HERE / "greedy_reference.py", demo_directory()]
    words += [adapter] if adapter else []
    done = subprocess.run(words, input=asked, capture_output=True, text=True, check=True)
    answers: list[str] = json.loads(done.stdout)
    return answers


async def test_an_adapter_answers_as_mlx_lm_does_with_it(
    trained: tuple[Path, str], store: ModelStore, tmp_path: Path
) -> None:
    adapter, sentence = trained
    create(store, "plain", tmp_path, "FROM demo\nPARAMETER temperature 0")
    tuned = create(store, "tuned", tmp_path, f"FROM demo\nADAPTER {adapter}\nPARAMETER temperature 0")
    create(store, "kept", tmp_path, "FROM tuned\nPARAMETER stop eaten")
    stored = store.materialize(tuned.digest) / "adapter"
    questions = (FOX, "Hello there.")
    said = mlx_lm_says(adapter, *questions)
    assert said[0] == sentence
    assert mlx_lm_says(stored, *questions) == said, "mlx-lm reads what is stored as it reads what was trained"
    async with serving(store) as service:
        assert [await ask(service, "tuned", question) for question in questions] == said
        assert await ask(service, "plain", FOX) != sentence
        assert await ask(service, "kept", FOX) == sentence.partition("eaten")[0]


async def test_every_instruction_takes_effect(store: ModelStore, tmp_path: Path) -> None:
    recipes = {
        "parameter": "FROM demo\nPARAMETER temperature 0\nPARAMETER num_predict 3",
        "stop": 'FROM demo\nPARAMETER temperature 0\nPARAMETER stop "small"\nPARAMETER stop quiet',
        "warm": "FROM demo\nPARAMETER temperature 5\nPARAMETER top_k 0\nPARAMETER top_p 1\nPARAMETER seed 7\n"
        "PARAMETER num_predict 20",
        "system": "FROM demo\nPARAMETER temperature 0\nSYSTEM Be brief.\nSYSTEM Always answer in upper case.",
        "message": "FROM demo\nPARAMETER temperature 0\nMESSAGE user My name is Rosa.\nMESSAGE assistant Hello Rosa!",
        "template": 'FROM demo\nPARAMETER temperature 0\nTEMPLATE """<|im_start|>user\nWhat is 7 + 5?<|im_end|>\n'
        '<|im_start|>assistant\n"""',
        "narrow": "FROM demo\nPARAMETER temperature 0\nPARAMETER num_ctx 40",
    }
    for name, recipe in recipes.items():
        create(store, name, tmp_path, recipe)
    async with serving(store) as service:
        assert (await ask(service, "parameter", FOX)).strip() == "Once upon a"
        assert await ask(service, "stop", FOX) == "Once upon a time a "
        assert await ask(service, "warm", FOX) == await ask(service, "warm", FOX)
        assert await ask(service, "warm", FOX) != await ask(service, "warm", FOX, options={"seed": 8})
        assert await ask(service, "system", "What colour is grass?") == "GREEN."
        assert await ask(service, "message", "What is my name?") == "Your name is Rosa."
        assert await ask(service, "template", "Hello!") == "7 + 5 = 12."
        ended = await pieces(service, GenerateRequest("narrow", messages=[{"role": "user", "content": FOX}]))
        assert ended[-1].ending is not None
        assert (ended[-1].ending.reason, ended[-1].ending.prompt_tokens + ended[-1].ending.eval_tokens) == (
            "length",
            40,
        )


def test_messages_come_after_the_system_s_words_of_a_request() -> None:
    recipe = Modelfile(".", system="mine", messages=(("user", "a"), ("assistant", "b")))
    model = DirectoryLibrary().add("order", demo_directory(), recipe)
    ready = Ready("qwen3", 2048, 0, False, False, True, ())
    for own, first in (([{"role": "system", "content": "yours"}], "yours"), ([], "mine")):
        asked = GenerateRequest("order", messages=[*own, {"role": "user", "content": "u"}])
        _, messages = _words(asked, model, ready)
        assert [line["content"] for line in messages or ()] == [first, "a", "b", "u"]


@pytest.mark.parametrize("fault", ["missing", "extra"])
async def test_an_adapter_must_have_exactly_what_its_config_says(
    trained: tuple[Path, str], store: ModelStore, tmp_path: Path, fault: str
) -> None:
    adapter, _ = trained
    broken = tmp_path / "broken"
    broken.mkdir()
    config = json.loads((adapter / "adapter_config.json").read_text())
    keys = config["lora_parameters"]["keys"]
    config["lora_parameters"]["keys"] = [*keys, "self_attn.o_proj"] if fault == "missing" else keys[:-1]
    (broken / "adapter_config.json").write_text(json.dumps(config))
    (broken / "adapters.safetensors").write_bytes((adapter / "adapters.safetensors").read_bytes())
    assert len(read_header(broken / "adapters.safetensors").tensors) > 0
    create(store, "broken", tmp_path, "FROM demo\nADAPTER ./broken")
    async with serving(store) as service:
        with pytest.raises(ModelRefused, match=r"o_proj" if fault == "missing" else r"not an adapter parameter"):
            await ask(service, "broken", "Hello!")


@pytest.mark.parametrize(("adapter", "says"), [("./adapter", "not among its files"), (None, "does not name")])
async def test_a_recipe_and_files_that_disagree_about_an_adapter_are_refused(
    tmp_path: Path, adapter: str | None, says: str
) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    for path in demo_directory().iterdir():
        (directory / path.name).symlink_to(path)
    if adapter is None:
        (directory / "adapter").mkdir()
    library = DirectoryLibrary()
    library.add("odd", directory, Modelfile(".", adapter=adapter))
    service = Models(library, SystemClock(), SystemEntropy())
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        with pytest.raises(ModelRefused, match=says):
            await ask(service, "odd", "Hello!")
        nursery.cancel_scope.cancel()
