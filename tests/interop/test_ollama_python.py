"""PyPI's `ollama` makes models on a real node: from another one, from files that it sends, packed and adapted."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

from node.models.demo import WEIGHT_FILES, demo_directory
from tests.end_to_end.nodes import NodeProcess, started

pytestmark = [pytest.mark.processes, pytest.mark.model, pytest.mark.timeout(300)]

GREEDY = {"temperature": 0}
SUM = "What is 7 + 5?"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with started(tmp_path_factory.mktemp("native"), "ann") as (ann,):
        yield ann


@pytest.fixture(scope="module")
def client(node: NodeProcess) -> Iterator[ollama.Client]:
    with ollama.Client(node.ready["api"]) as client:
        yield client


@pytest.fixture(scope="module")
def files(client: ollama.Client) -> dict[str, str]:
    """The embedded model's files, sent as blobs."""
    return {name: client.create_blob(demo_directory() / name) for name in WEIGHT_FILES}


def test_a_model_from_another_one(client: ollama.Client, node: NodeProcess) -> None:
    told = client.create(
        "Loud:v1",
        from_="demo",
        system="Always answer in upper case.",
        parameters={"temperature": 0.0, "num_ctx": 1024, "stop": ["END", "FIN"]},
        license=["MIT", "Apache-2.0"],
        messages=[{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "HELLO!"}],
        stream=True,
    )
    said = [each.status for each in told]
    assert said[-2:] == ["writing manifest", "success"]
    shown = client.show("loud:v1")
    assert (shown.license, (shown.parameters or "").splitlines()) == (
        "MIT\n\nApache-2.0",
        ["temperature 0.0", "num_ctx 1024", "stop END", "stop FIN"],
    )
    assert "MESSAGE assistant HELLO!" in (shown.modelfile or "")
    assert client.chat("loud:v1", [{"role": "user", "content": "What colour is grass?"}]).message.content == "GREEN."
    facts = node.command("show", "loud:v1")
    assert facts["provenance"]["publisher"] == node.ready["did"]


def test_a_model_from_files_that_were_sent(client: ollama.Client, files: dict[str, str], node: NodeProcess) -> None:
    assert client.create("sent", files=files, parameters=GREEDY, stream=False).status == "success"
    assert client.generate("sent", SUM).response == "7 + 5 = 12."
    layers = {layer["file"]: layer["digest"] for layer in node.command("show", "sent")["layers"]}
    assert layers["model.safetensors"] == files["model.safetensors"].removeprefix("sha256:")
    assert node.command("verify", "sent")["name"] == "sent:latest"
    assert client.show("sent").capabilities == ["completion", "tools", "thinking"]


def test_packed_weights(client: ollama.Client, files: dict[str, str]) -> None:
    told = list(client.create("small", files=files, parameters=GREEDY, quantize="q8_0", stream=True))
    assert "quantizing to int8" in [each.status for each in told]
    assert client.show("small").details is not None
    assert client.show("small").details.quantization_level == "8-bit"  # type: ignore[union-attr]  # asserted above
    assert client.generate("small", SUM).response == "7 + 5 = 12."


def test_a_copy_and_its_end(client: ollama.Client) -> None:
    client.create("first", from_="demo", stream=False)
    assert client.copy("first", "second").status == "success"
    assert {"first:latest", "second:latest"} <= {model.model for model in client.list().models}
    assert client.delete("second").status == "success"
    assert "second:latest" not in {model.model for model in client.list().models}
    with pytest.raises(ollama.ResponseError, match="not in the store") as caught:
        client.delete("second")
    assert caught.value.status_code == 404


def test_blobs(node: NodeProcess) -> None:
    url = f"{node.ready['api']}/api/blobs"
    content = b"x" * 5_000_000
    digest = hashlib.sha256(content).hexdigest()
    assert httpx.head(f"{url}/sha256:{digest}").status_code == 404
    wrong = httpx.post(f"{url}/sha256:{digest}", content=content[1:])
    assert (wrong.status_code, "digest mismatch" in wrong.json()["error"]) == (400, True)
    assert httpx.head(f"{url}/sha256:{digest}").status_code == 404
    assert httpx.post(f"{url}/sha256:{digest}", content=iter([content[:9], content[9:]])).status_code == 201
    assert httpx.post(f"{url}/sha256-{digest}", content=content).status_code == 200
    assert httpx.head(f"{url}/sha256-{digest}").status_code == 200
    for path in ("sha256:00", "md5:00", digest.upper(), f"sha256:{digest}0", "..%2f..%2fetc%2fpasswd"):
        refused = httpx.post(f"{url}/{path}", content=b"x")
        assert refused.status_code in (400, 404), path
    assert httpx.get(f"{url}/sha256:{digest}").status_code == 405
    page = httpx.post(f"{url}/sha256:{digest}", content=content, headers={"origin": "http://example.invalid"})
    assert page.status_code == 403


def test_a_client_that_leaves_while_it_sends_leaves_nothing(node: NodeProcess) -> None:
    store = Path(node.home) / "store"
    before = sorted(store.rglob("*"))

    def broken() -> Iterator[bytes]:
        yield b"x" * 9_000_000
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        httpx.post(f"{node.ready['api']}/api/blobs/sha256:{'0' * 64}", content=broken())
    # The next request is answered after the first one was taken down, or beside it: the end is what counts.
    for _ in range(200):
        httpx.head(f"{node.ready['api']}/api/blobs/sha256:{'0' * 64}")
        if sorted(store.rglob("*")) == before:
            return
    assert sorted(store.rglob("*")) == before


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({}, 400, "model is required"),
        ({"model": "x"}, 400, "neither 'from' or 'files'"),
        ({"model": "x", "from": "nope"}, 404, "model 'nope' not found"),
        ({"model": "x", "from": "/etc"}, 400, "expected the name of a model"),
        ({"model": "x", "from": "../demo"}, 400, "expected the name of a model"),
        ({"model": "x", "from": "demo", "files": {"a": "sha256:" + "0" * 64}}, 400, "give from or files"),
        ({"model": "../x", "from": "demo"}, 400, "model name"),
        ({"model": "demo", "from": "demo"}, 400, "embedded"),
        ({"model": "x", "files": {"config.json": "sha256:" + "0" * 64}}, 400, "is not here"),
        ({"model": "x", "files": {"../config.json": "sha256:" + "0" * 64}}, 400, "config.json"),
        ({"model": "x", "files": {"config.json": "x"}}, 400, "invalid digest"),
        ({"model": "x", "files": {"config.json": 5}}, 400, "files.config.json"),
        ({"model": "x", "from": "demo", "parameters": {"temperature": "hot"}}, 400, "parameters.temperature"),
        ({"model": "x", "from": "demo", "parameters": {"temperature": True}}, 400, "parameters.temperature"),
        ({"model": "x", "from": "demo", "parameters": {"nonsense": 1}}, 400, "parameters.nonsense"),
        ({"model": "x", "from": "demo", "parameters": {"stop": ["a"] * 99}}, 400, "parameters.stop"),
        ({"model": "x", "from": "demo", "parameters": {"num_ctx": 1.5}}, 400, "parameters.num_ctx"),
        ({"model": "x", "from": "demo", "messages": [{"role": "king", "content": "x"}]}, 400, "messages.0.role"),
        ({"model": "x", "from": "demo", "template": "{{ .Prompt }}"}, 400, "Go's template language"),
        ({"model": "x", "from": "demo", "system": "a\u0001b\u0000"}, 200, ""),
        ({"model": "x", "from": "demo", "quantize": "q3_K"}, 400, "quantize"),
        (
            {"model": "x", "from": "demo", "adapters": {"adapter_model.safetensors": "sha256:" + "0" * 64}},
            400,
            "not here",
        ),
    ],
)
def test_bad_creations(node: NodeProcess, body: dict[str, Any], status: int, error: str) -> None:
    answer = httpx.post(f"{node.ready['api']}/api/create", json={**body, "stream": False}, timeout=60)
    assert (answer.status_code, error in answer.json().get("error", "")) == (status, True), answer.text


def test_files_that_are_no_model(client: ollama.Client, files: dict[str, str], tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    pickled.write_bytes(b"\x80\x04 a pickle")
    digest = client.create_blob(pickled)
    without_weights = {name: files[name] for name in files if name != "model.safetensors"}
    for wrong, error in (
        (without_weights, "model.safetensors"),
        ({"config.json": files["config.json"]}, "tokenizer"),
        ({**without_weights, "model.safetensors": digest}, "pickled weights"),
        ({**without_weights, "model.gguf": digest}, "GGUF"),
        ({**files, "config.json": digest}, "config.json"),
    ):
        with pytest.raises(ollama.ResponseError, match=error) as caught:
            client.create("x", files=wrong, stream=False)
        assert caught.value.status_code == 400
    assert client.create("right", files=files, stream=False).status == "success"  # what was sent is still here


def test_lines_of_a_stream_end_with_the_error(node: NodeProcess) -> None:
    body = {"model": "x", "from": "demo", "quantize": "int4", "adapters": {}}
    with httpx.stream("POST", f"{node.ready['api']}/api/create", json=body, timeout=60) as answer:
        lines = [json.loads(line) for line in answer.iter_lines()]
    assert lines[-1] == {"status": "success"} or "error" in lines[-1]
