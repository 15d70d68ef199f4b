"""Models of a model hub on a real node: created, run, killed half-way, created again (the hub is simulated)."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from node.cli.demo_node import running
from node.cli.exit_codes import ExitCode
from node.models.demo import WEIGHT_FILES, demo_directory
from tests.end_to_end.nodes import NodeProcess, write_bulk_model
from tests.store.simulated_hub import REPO, SimulatedHub

pytestmark = [pytest.mark.processes, pytest.mark.model, pytest.mark.timeout(300)]

TOKEN = "hf_canary_0123456789"
BULK_BYTES = 64 << 20


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    directory = tmp_path / "upstream"
    directory.mkdir()
    for name in WEIGHT_FILES:
        shutil.copy(demo_directory() / name, directory / name)
    return directory


def recipe(directory: Path, base: str) -> str:
    path = directory / "Modelfile"
    path.write_text(f"FROM {base}\nPARAMETER temperature 0\n")
    return str(path)


def node_at(directory: Path, simulated: SimulatedHub) -> NodeProcess:
    node = NodeProcess(directory, "kitchen")
    caches = {"HF_HOME": str(directory / "hf"), "OLLAMA_MODELS": str(directory / "ollama")}
    node._environment = {**node._environment, **caches, "HF_ENDPOINT": simulated.url, "HF_TOKEN": TOKEN}
    return node


StartHub = Callable[..., SimulatedHub]


@pytest.fixture
def start_hub(tmp_path: Path) -> Iterator[StartHub]:
    hubs: list[SimulatedHub] = []

    def start(directory: Path, **settings: Any) -> SimulatedHub:
        hubs.append(SimulatedHub(tmp_path / f"hub-{len(hubs)}", directory, **settings))
        return hubs[-1]

    yield start
    for simulated in hubs:
        simulated.stop()


def test_a_repository_becomes_a_model_that_answers(tmp_path: Path, upstream: Path, start_hub: StartHub) -> None:
    private_hub = start_hub(upstream, private=TOKEN)
    node = node_at(tmp_path, private_hub)
    with running([node]):
        node.start()
        created = node.command("create", "tiny", "-f", recipe(tmp_path, REPO))
        asked = node.command("run", "tiny", "What is the capital of France?")
        assert "Paris" in str(asked)
        private_hub.forget()
        again = node.command("create", "again", "-f", recipe(tmp_path, f"hf:{REPO}"))
        assert private_hub.requests("resolve") == []
        checked = node.command("build", "--check", "tiny")
        assert checked["same"] is True
        closed = node.fails("create", "none", "-f", recipe(tmp_path, "hf:Acme/Nothing"))
    weights = [
        {layer["digest"] for layer in facts["layers"] if "weight" in layer["media_type"]} for facts in (created, again)
    ]
    assert weights[0] == weights[1]
    assert closed["code"] == ExitCode.MODEL_NOT_FOUND
    assert "HF_TOKEN" in closed["stderr"]
    written = [path for path in node.home.rglob("*") if path.is_file()]
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()], "the token was written down"
    assert not (tmp_path / "hf").exists(), "the hub's library wrote into the person's cache"


def test_a_node_that_is_killed_while_it_downloads_goes_on(tmp_path: Path, start_hub: StartHub) -> None:
    write_bulk_model(tmp_path / "bulk", BULK_BYTES)
    weights = (tmp_path / "bulk" / "model.safetensors").stat().st_size
    simulated = start_hub(tmp_path / "bulk", stop_after=weights // 2)
    node = node_at(tmp_path, simulated)
    with running([node]):
        node.start()
        creating = node.follow("create", "bulk", "-f", recipe(tmp_path, REPO))
        assert any(event.get("completed", 0) > weights // 4 for event in creating)
        node.kill()
        assert creating.finish() != 0
        simulated.stop()
        (partial,) = (node.home / "store" / "cache" / "downloads").glob("*.download")
        had = partial.stat().st_size
        again = start_hub(tmp_path / "bulk", port=simulated.port)
        node.start()
        node.command("create", "bulk", "-f", recipe(tmp_path, REPO))
        assert [row["range"] for row in again.requests("cdn", "GET") if row["range"]] == [f"bytes={had}-"]
        assert node.command("verify", "bulk")["size_bytes"] > weights


def test_a_cache_of_the_hubs_library_is_linked(tmp_path: Path, upstream: Path, start_hub: StartHub) -> None:
    simulated = start_hub(upstream)
    node = node_at(tmp_path, simulated)
    script = f"from huggingface_hub import snapshot_download; snapshot_download({REPO!r})"
    subprocess.run([sys.executable, "-c", script], env=node._environment, check=True, capture_output=True)
    simulated.forget()
    with running([node]):
        node.start()
        done = subprocess.run(
            [word for word in node._command_line(("create", "tiny", "-f", recipe(tmp_path, REPO))) if word != "--json"],
            env=node._environment,
            capture_output=True,
            text=True,
            check=True,
        )
    assert re.search(r"already in the Hugging Face cache: 5\.\d MB linked, [\d.]+ k?B copied", done.stdout), done.stdout
    assert simulated.requests("resolve") == []
