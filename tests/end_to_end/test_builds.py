"""Builds on a real node: packed, run, built again, stopped half-way, and killed (the hub is simulated)."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from node.cli.demo_node import running
from node.cli.exit_codes import ExitCode
from node.models.demo import WEIGHT_FILES, demo_directory
from tests.end_to_end.nodes import Facts, NodeProcess, started, write_bulk_model
from tests.store.simulated_hub import REPO, SimulatedHub

pytestmark = [pytest.mark.processes, pytest.mark.model, pytest.mark.timeout(300)]

SPEC = """\
name: tiny
version: 1.0.0
base:
  path: ./model
quantization: int4
defaults:
  temperature: 0
license: MIT
"""
QUESTION = "What is the capital of France?"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    with started(tmp_path, "kitchen") as nodes:
        yield nodes[0]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    directory = tmp_path / "work"
    (directory / "model").mkdir(parents=True)
    for name in WEIGHT_FILES:
        shutil.copy(demo_directory() / name, directory / "model" / name)
    (directory / "ModelSpec.yaml").write_text(SPEC)
    (directory / "Modelfile").write_text("FROM ./model\n")
    return directory


def fails_in(node: NodeProcess, *words: str) -> tuple[int, str, list[Facts]]:
    """Return exit code, standard error and the lines of a command that must fail."""
    done = subprocess.run(
        node._command_line(words), env=node._environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr, [json.loads(line) for line in done.stdout.splitlines()]


def leftovers(node: NodeProcess) -> set[str]:
    """Return the names of all blobs and temporary files."""
    store = node.home / "store"
    return {path.name for place in ("blobs/sha256", "cache/tmp") for path in (store / place).iterdir()}


def converters(home: Path) -> list[psutil.Process]:
    """Return the processes that convert for this home."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "node.models.convert" in words and any(str(home) in word for word in words):
            found.append(process)
    return found


def test_a_packed_model_answers_and_is_built_again(node: NodeProcess, work: Path) -> None:
    spec = str(work / "ModelSpec.yaml")
    made = node.command("build", "-f", spec)
    assert made["name"] == "tiny:latest@1.0.0"
    assert made["size_bytes"] < 2_000_000
    assert node.command("run", "tiny", QUESTION)["answer"].strip() == "Paris."
    shown = node.command("show", "tiny@1.0.0")["build"]
    assert shown["quantization"] == "int4"
    assert shown["sources"][0]["name"] == "./model"
    assert {"mlx", "mlx-lm", "tilenode", "chunkmap"} <= shown["tools"].keys()
    checked = node.command("build", "--check", "tiny@1.0.0")
    assert (checked["same"], checked["manifest"], checked["rebuilt"]) == (True, made["manifest"], made["manifest"])
    assert node.command("build", "-f", spec)["manifest"] == made["manifest"]

    weights = work / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[3_000_001] ^= 0x40  # a high bit of one number
    weights.write_bytes(content)
    before = leftovers(node)
    code, stderr, lines = fails_in(node, "build", "--check", "tiny@1.0.0")
    assert code == ExitCode.BUILD_DIFFERS
    assert "hint:" in stderr
    named = [found["where"] for line in lines for found in line.get("differences", [])]
    assert named[:2] == ["source ./model, model.safetensors", "content of all tensors"]
    assert any(where.startswith("tensor model.layers.") for where in named)
    code, stderr, _ = fails_in(node, "build", "-f", spec)
    assert "release tiny:latest@1.0.0" in stderr
    assert leftovers(node) == before


def test_the_time_is_the_one_that_the_environment_names(
    node: NodeProcess, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(node._environment, "SOURCE_DATE_EPOCH", "1700000000")
    node.command("create", "timed", "-f", str(work / "Modelfile"))
    monkeypatch.delitem(node._environment, "SOURCE_DATE_EPOCH")
    assert node.command("show", "timed")["build"]["created"] == "2023-11-14T22:13:20Z"
    assert node.command("build", "--check", "timed")["same"]
    monkeypatch.setitem(node._environment, "SOURCE_DATE_EPOCH", "yesterday")
    code, stderr, _ = fails_in(node, "create", "timed", "-f", str(work / "Modelfile"))
    assert (code, "SOURCE_DATE_EPOCH" in stderr) == (ExitCode.USAGE, True)


def test_a_build_that_is_interrupted_leaves_nothing(node: NodeProcess, work: Path) -> None:
    write_bulk_model(work / "bulk", 512 << 20)
    (work / "Modelfile").write_text("FROM ./bulk\n")
    before = leftovers(node)
    process = node._start(("create", "bulk", "-f", str(work / "Modelfile")))
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    assert (first["status"], first["total"] > 512 << 20) == ("storing", True)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == ExitCode.INTERRUPTED
    node.command("create", "after", "-f", str(_little(work)))  # the node works on, and is done with the other one
    names = {model["name"] for model in node.command("list")["models"]}
    assert names == {"after:latest", "demo:latest"}
    node.command("rm", "after")
    assert leftovers(node) == before


def _little(work: Path) -> Path:
    recipe = work / "Little"
    recipe.write_text("FROM ./model\n")
    return recipe


def test_a_node_that_is_killed_while_it_converts_leaves_nothing_behind(node: NodeProcess, work: Path) -> None:
    process = node._start(("create", "packed", "-f", str(work / "Modelfile"), "--quantize", "int8"))
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("status", "").startswith("converting"):
            break
    busy = converters(node.home)
    node.kill()
    assert process.wait(timeout=30) != 0
    psutil.wait_procs(busy, timeout=30)
    assert not converters(node.home)
    node.start()
    assert list((node.home / "store" / "cache" / "tmp").iterdir()) == []
    assert "packed:latest" not in {model["name"] for model in node.command("list")["models"]}
    assert node.command("create", "packed", "-f", str(work / "Modelfile"), "--quantize", "int8")["name"]
    assert node.command("build", "--check", "packed")["same"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("create", "x", "-f", "Nowhere"), ExitCode.USAGE, "recipe Nowhere"),
        (("build", "-f", "Modelfile"), ExitCode.USAGE, "names no model"),
        (("create", "x", "--quantize", "int3"), ExitCode.USAGE, "'int3' is none of none, int8, int4, fp16"),
        (("build", "--check"), ExitCode.USAGE, "needs the NAME"),
        (("build", "--check", "x", "--quantize", "int4"), ExitCode.USAGE, "takes the recipe that the model records"),
        (("build", "x", "--source", "model"), ExitCode.USAGE, "--source goes with --check"),
        (("build", "--check", "nobody"), ExitCode.MODEL_NOT_FOUND, "nobody"),
        (("create", "demo", "-f", "Modelfile"), ExitCode.USAGE, "embedded model"),
    ],
)
def test_what_a_person_may_mistype(shared: NodeProcess, words: tuple[str, ...], code: ExitCode, says: str) -> None:
    found, stderr, _ = fails_in(shared, *words)
    assert (found, says in stderr, "hint:" in stderr) == (code, True, True), stderr


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    directory = tmp_path_factory.mktemp("shared")
    (directory / "Modelfile").write_text("FROM ./model\n")
    here = Path.cwd()
    with started(directory, "kitchen") as nodes:
        os.chdir(directory)
        try:
            yield nodes[0]
        finally:
            os.chdir(here)


def test_a_release_of_a_hubs_commit_is_packed_and_built_again(tmp_path: Path, work: Path) -> None:
    simulated = SimulatedHub(tmp_path / "hub", work / "model")
    node = NodeProcess(tmp_path, "kitchen")
    node._environment = {**node._environment, "HF_ENDPOINT": simulated.url, "HF_HOME": str(tmp_path / "hf")}
    try:
        with running([node]):
            node.start()
            (work / "Modelfile").write_text(f"FROM {REPO}\n")
            node.command("create", "newest", "-f", str(work / "Modelfile"))
            commit = node.command("show", "newest")["build"]["sources"][0]["revision"]
            node.command("rm", "newest")
            spec = work / "ModelSpec.yaml"
            base = f"base:\n  hf_repo: {REPO}\n  revision: {commit}\n"
            spec.write_text(SPEC.replace("base:\n  path: ./model\n", base))
            made = node.command("build", "-f", str(spec))
            assert made["name"] == "tiny:latest@1.0.0"
            (source,) = node.command("show", "tiny")["build"]["sources"]
            assert (source["kind"], source["revision"]) == ("hub", commit)
            weights = next(file["digest"] for file in source["files"] if file["file"] == "model.safetensors")
            simulated.forget()
            assert node.command("build", "--check", "tiny")["sources"] == ["the stored layers"]
            (node.home / "store" / "blobs" / "sha256" / weights).unlink()  # as `gc` does when it is old enough
            checked = node.command("build", "--check", "tiny")
            assert checked["same"]
            assert checked["sources"] == [f"hf:{REPO}@{commit}"]
            simulated.stop()
            (node.home / "store" / "blobs" / "sha256" / weights).unlink(missing_ok=True)
            code, stderr, _ = fails_in(node, "build", "--check", "tiny")
            assert (code, "hint:" in stderr) == (ExitCode.PEER_UNREACHABLE, True), stderr
    finally:
        simulated.stop()
