"""npm's `ollama` on a real node: what it is answered, and that its abort reaches the model."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.nodes import NodeProcess, started

pytestmark = [pytest.mark.processes, pytest.mark.model, pytest.mark.timeout(300)]

SCRIPT = Path(__file__).with_name("stock_ollama.mjs")
PACKAGES = {
    "ollama": (
        "0.6.4",
        "sha512-KzM6b5Sq0TgipeMTdImuELr/V4eNqrTf37PRzUTHCPPieFmboYw6qPn+pX7+lg0nSP1jsKwy4AFkiQFXhqHeZA==",
        {"whatwg-fetch": "^3.6.20"},
    ),
    "whatwg-fetch": (
        "3.6.20",
        "sha512-EqhiFU6daOA8kpjOWTL0olhVOF3i7OrFzSYiGsEMB8GcXS+RrzauAERX65xMeNWVqxA6HXH2m69Z9LaKKdisfg==",
        {},
    ),
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script beside exactly these packages, each checked against its digest by npm itself."""
    for name in ("npm", "node"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed: apt-get install nodejs npm")
    place = tmp_path_factory.mktemp("js")
    wanted = {"ollama": PACKAGES["ollama"][0]}
    locked = {
        f"node_modules/{name}": {"version": version, "integrity": digest, "dependencies": needs}
        for name, (version, digest, needs) in PACKAGES.items()
    }
    (place / "package.json").write_text(json.dumps({"name": "stock", "private": True, "dependencies": wanted}))
    lock = {
        "name": "stock",
        "lockfileVersion": 3,
        "packages": {"": {"name": "stock", "dependencies": wanted}, **locked},
    }
    (place / "package-lock.json").write_text(json.dumps(lock))
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    if "ENOTFOUND" in done.stderr or "EAI_AGAIN" in done.stderr:
        pytest.skip("no registry of npm can be reached")
    assert done.returncode == 0, done.stderr
    shutil.copyfile(SCRIPT, place / SCRIPT.name)
    return place / SCRIPT.name


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with started(tmp_path_factory.mktemp("js-node"), "ann") as (ann,):
        yield ann


@pytest.fixture(scope="module")
def told(program: Path, node: NodeProcess) -> Any:
    command = ["node", str(program), node.ready["api"]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_answers(told: Any) -> None:
    assert told["whole"] == ["7 + 5 = 12.", "stop", 10]
    assert "".join(told["streamed"]) == "7 + 5 = 12."
    assert len(told["streamed"]) >= 2
    assert told["generated"] == "Paris."
    assert told["thought"] == ["7 plus 5 is 12.", "7 + 5 = 12."]


def test_formats_and_tools(told: Any) -> None:
    assert told["held"] == {"name": "Ann", "age": 30}
    assert told["called"] == [{"index": 0, "name": "get_weather", "arguments": {"city": "Paris"}}]


def test_models(told: Any, node: NodeProcess) -> None:
    assert told["models"] == ["copied:latest", "demo:latest"]
    assert told["shown"] is True
    assert told["running"] == ["demo:latest"]
    assert told["version"] == httpx.get(f"{node.ready['api']}/api/version").json()["version"]
    assert told["missing"] == [404, "model 'nope' not found"]


def test_an_abort_stops_the_model(told: Any, node: NodeProcess) -> None:
    assert told["aborted"] == "AbortError"
    assert told["after"] == "7 + 5 = 12."
    counted = httpx.get(f"{node.ready['api']}/metrics").text
    assert 'tilenode_answers_total{reason="cancelled"} 1\n' in counted
    assert 'tilenode_requests_active{model="demo:latest"} 0\n' in counted
