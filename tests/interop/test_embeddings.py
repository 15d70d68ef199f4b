"""Models of embeddings on a real node, built with `tilenode create`, asked by the clients that people have."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import ollama
import openai
import pytest
from tokenizers import Tokenizer

from tests.end_to_end.nodes import NodeProcess, started
from tests.node.models.engine import embedding_reference as reference
from tests.node.models.engine.embedding_models import HIDDEN, Weights, write_decoder, write_encoder

pytestmark = [pytest.mark.processes, pytest.mark.model, pytest.mark.timeout(300)]

SUITE = Path(__file__).with_name("langchain_embeddings.py")
TEXTS = ["the cat sat on the mat", "Paris is the capital of France."]
MODELS = ("words", "meanings")


class Served:
    """A node with a model of each kind."""

    def __init__(self, node: NodeProcess, directory: Path) -> None:
        self.node = node
        self.api: str = node.ready["api"]
        self.weights: dict[str, Weights] = {
            "words": write_encoder(directory / "words", pooling="cls"),
            "meanings": write_decoder(directory / "meanings"),
        }
        self.directory = directory

    def expected(self, model: str, text: str) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
        """Return the vector by 64-bit numpy."""
        directory = self.directory / model
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokens = tokenizer.encode(text).ids
        if model == "words":
            return reference.pooled(reference.encoder_states("bert", self.weights[model], tokens), "cls")
        config = json.loads((directory / "config.json").read_text())
        return reference.pooled(reference.decoder_states(config, self.weights[model], tokens), "lasttoken")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("embeddings")
    with started(directory, "ann") as (ann,):
        served = Served(ann, directory)
        for name in MODELS:
            (directory / f"{name}.modelfile").write_text(f"FROM ./{name}\n")
            ann.command("create", name, "-f", str(directory / f"{name}.modelfile"))
        yield served


@pytest.mark.parametrize("model", MODELS)
def test_stock_clients_get_the_vectors_of_numpy(served: Served, model: str) -> None:
    with (
        ollama.Client(served.api) as native,
        openai.OpenAI(base_url=f"{served.api}/v1", api_key="none", max_retries=0) as compatible,
    ):
        natively = native.embed(model, TEXTS).embeddings
        packed = compatible.embeddings.create(model=model, input=TEXTS).data
        numbers = compatible.embeddings.create(model=model, input=TEXTS, encoding_format="float").data
        shown = native.show(model)
        assert shown.capabilities == ["embedding"]
        listed = {each.model: each for each in native.list().models}
        assert f"{model}:latest" in listed
        assert model in native.ps().models[0].model or model in native.ps().models[1].model
        for place, text in enumerate(TEXTS):
            expected = served.expected(model, text)
            for vector in (natively[place], packed[place].embedding, numbers[place].embedding):
                assert np.abs(np.array(vector) - expected).max() < 5e-6
        with pytest.raises(ollama.ResponseError, match=f'"{model}" does not support') as refused:
            native.chat(model, [{"role": "user", "content": "Hello!"}])
        assert refused.value.status_code == 400
        with pytest.raises(ollama.ResponseError, match='"demo" does not support embedding'):
            native.embed("demo", "a")


@pytest.mark.parametrize("model", MODELS)
def test_langchains_suite(served: Served, model: str, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(tmp_path / "pytest.ini"), str(SUITE)]
    command += ["-p", "no:trio", "-p", "no:cacheprovider", "--import-mode=importlib"]
    environment = {**os.environ, "TILENODE_API": served.api, "TILENODE_EMBEDDINGS": model}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "10 passed" in done.stdout
    assert "skipped" not in done.stdout


def test_llm_embeds_through_its_plugin(served: Served, tmp_path: Path) -> None:
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path), "OLLAMA_HOST": served.api}

    def llm(*words: str) -> str:
        command = [sys.executable, "-W", "ignore", "-m", "llm", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "words" in llm("embed-models", "list")
    for model in MODELS:
        vector = np.array(json.loads(llm("embed", "-m", f"ollama/{model}", "-c", TEXTS[0], "-f", "json")))
        assert vector.shape == (HIDDEN,)
        assert np.abs(vector - served.expected(model, TEXTS[0])).max() < 5e-6


def test_a_model_that_cannot_be_served_is_refused_with_what_is_wrong(served: Served, tmp_path: Path) -> None:
    directory = tmp_path / "broken"
    write_encoder(directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "position_embedding_type": "relative_key"}))
    (tmp_path / "Modelfile").write_text("FROM ./broken\n")
    served.node.command("create", "broken", "-f", str(tmp_path / "Modelfile"))
    answer = httpx.post(f"{served.api}/api/embed", json={"model": "broken", "input": "a"}, timeout=60)
    assert answer.status_code == 500
    assert "position_embedding_type 'relative_key' is not known here" in answer.json()["error"]
