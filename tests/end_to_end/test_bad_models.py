"""Models and recipes that cannot be built or used: refused with the fault's place, nothing signed, nothing named."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from node.cli.exit_codes import ExitCode
from node.models.demo import demo_directory
from tests.end_to_end.nodes import NodeProcess, started
from tests.end_to_end.refusals import Refusal, check_logs, refused

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

CANARY = "zebra-4711"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with started(tmp_path_factory.mktemp("models"), "builder") as (node,):
        node.command("show", "demo")
        yield node
        check_logs(node, CANARY)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the demo model, to be damaged."""
    directory = tmp_path / "model"
    shutil.copytree(demo_directory(), directory, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    return directory


def refused_build(
    node: NodeProcess, directory: Path, code: ExitCode, recipe: str = "FROM ./model\n", name: str = "broken"
) -> Refusal:
    """Create a model from `recipe`, which must be refused; nothing may be named, signed or logged by it."""
    before = kept(node)
    (directory / "Modelfile").write_text(recipe)
    said = refused(node, code, "create", name, "-f", str(directory / "Modelfile"))
    assert kept(node) == before
    return said


def kept(node: NodeProcess) -> dict[str, bytes]:
    """Return what the node has signed and named: the log's checkpoint and the names in the store."""
    names = [path for path in (node.home / "store" / "manifests").rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in (*names, node.home / "log" / "checkpoint")}


def test_a_truncated_safetensors_is_named(node: NodeProcess, model: Path, tmp_path: Path) -> None:
    weights = model / "model.safetensors"
    whole = weights.read_bytes()
    for length in (len(whole) - 1, 1000, 4, 0):
        weights.write_bytes(whole[:length])
        said = refused_build(node, tmp_path, ExitCode.MODEL_FILES_INVALID)
        assert "model.safetensors" in said.message
    weights.write_bytes(whole)
    assert node.command("create", "whole", "-f", str(tmp_path / "Modelfile"))["name"] == "whole:latest"
    assert node.command("run", "whole", "What is the capital of France?")["answer"].strip() == "Paris."
    node.command("rm", "whole")


def test_a_tensor_that_is_not_finite_is_named(node: NodeProcess, model: Path, tmp_path: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.dtype in (np.float16, np.float32))
    tensors[name] = np.full_like(tensors[name], np.nan)
    save_file(tensors, model / "model.safetensors", metadata={"format": "mlx"})
    said = refused_build(node, tmp_path, ExitCode.MODEL_FILES_INVALID)
    assert name in said.message


def test_a_missing_tensor_is_named_at_the_latest_when_the_model_is_run(
    node: NodeProcess, model: Path, tmp_path: Path
) -> None:
    tensors = load_file(model / "model.safetensors")
    missing = next(name for name in tensors if "layers.1." in name)
    del tensors[missing]
    save_file(tensors, model / "model.safetensors", metadata={"format": "mlx"})
    (tmp_path / "Modelfile").write_text("FROM ./model\n")
    node.command("create", "partial", "-f", str(tmp_path / "Modelfile"))
    said = refused(node, ExitCode.MODEL_FILES_INVALID, "run", "partial", f"{CANARY}?")
    assert missing in said.message
    assert "partial" in said.message
    node.command("rm", "partial")
    assert node.command("run", "demo", "What is the capital of France?")["answer"].strip() == "Paris."


def test_an_index_that_promises_more_than_there_is_names_the_file_or_tensor(
    node: NodeProcess, model: Path, tmp_path: Path
) -> None:
    tensors = load_file(model / "model.safetensors")
    promised = dict.fromkeys((*tensors, "model.layers.99.weight"), "model.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": promised}))
    said = refused_build(node, tmp_path, ExitCode.MODEL_FILES_INVALID)
    assert "model.layers.99.weight" in said.message


@pytest.mark.parametrize(
    ("recipe", "line", "column"),
    [
        ("FROM demo\nPARAMTER temperature 0\n", 2, 1),
        ("FROM demo\nPARAMETER temprature 0\n", 2, 11),
        ("FROM demo\nPARAMETER temperature warm\n", 2, 23),
        (f'FROM demo\nSYSTEM """{CANARY}\n', 2, 8),
        ("SYSTEM hello\n", None, None),
    ],
)
def test_a_typo_in_a_modelfile_is_told_by_line_and_column(
    node: NodeProcess, tmp_path: Path, recipe: str, line: int | None, column: int | None
) -> None:
    said = refused_build(node, tmp_path, ExitCode.MODELFILE_INVALID, recipe)
    if line is None:
        assert "FROM" in said.message
    else:
        assert f"line {line}, column {column}" in said.message
    assert str(tmp_path / "Modelfile") in said.message or "Modelfile" in said.message


def test_bases_that_are_nowhere_escape_or_are_not_safetensors_are_named(
    node: NodeProcess, model: Path, tmp_path: Path
) -> None:
    assert "nowhere" in refused_build(node, tmp_path, ExitCode.MODEL_FILES_INVALID, "FROM ./nowhere\n").message
    (tmp_path / "weights.gguf").write_bytes(b"GGUF" + bytes(100))
    said = refused_build(node, tmp_path, ExitCode.MODEL_FILES_INVALID, "FROM ./weights.gguf\n")
    assert "gguf" in said.message.lower()
    (model / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    (model / "model.safetensors").unlink()
    assert refused_build(node, tmp_path, ExitCode.MODEL_FILES_INVALID).message


def test_a_layer_changed_on_the_disk_is_not_run_and_can_be_made_again(node: NodeProcess, tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_text(f"FROM demo\nSYSTEM {CANARY}\n")
    created = node.command("create", "spoilt", "-f", str(tmp_path / "Modelfile"))
    layer = next(layer for layer in created["layers"] if layer["file"] == "Modelfile")
    blob = node.home / "store" / "blobs" / "sha256" / layer["digest"]
    blob.chmod(0o600)
    blob.write_bytes(blob.read_bytes().replace(CANARY.encode(), CANARY.upper().encode()))
    for words in (("verify", "spoilt"), ("run", "spoilt", "Hello!"), ("show", "spoilt")):
        said = refused(node, ExitCode.LAYER_CORRUPT, *words)
        assert layer["digest"][:12] in said.message
    again = node.command("create", "spoilt", "-f", str(tmp_path / "Modelfile"))
    assert next(layer for layer in again["layers"] if layer["file"] == "Modelfile")["digest"] == layer["digest"]
    node.command("verify", "spoilt")
    node.command("rm", "spoilt")
