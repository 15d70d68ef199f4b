"""The package: its files are there, small to import, and the trainer stays out of the running node."""

import json
import re
import subprocess
import sys
from pathlib import Path

import node
from node.models.demo import WEIGHT_FILES, demo_directory


def test_every_file_of_the_model_is_there() -> None:
    directory = demo_directory()
    assert {path.name for path in directory.iterdir()} == set(WEIGHT_FILES)
    assert all((directory / name).stat().st_size > 0 for name in WEIGHT_FILES)


def test_the_weights_are_the_tensors_of_the_shape() -> None:
    directory = demo_directory()
    with (directory / "model.safetensors").open("rb") as weights:
        header = json.loads(weights.read(int.from_bytes(weights.read(8), "little")))
    layers = json.loads((directory / "config.json").read_text())["num_hidden_layers"]
    header.pop("__metadata__")
    assert {entry["dtype"] for entry in header.values()} == {"F16"}
    assert {name.split(".")[2] for name in header if ".layers." in name} == {str(number) for number in range(layers)}


def test_importing_the_package_imports_no_mlx() -> None:
    program = "import sys, node.models.demo; print(sorted({name.split('.')[0] for name in sys.modules}))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert not {"mlx", "mlx_lm", "transformers", "tokenizers", "numpy"} & set(found.split("'"))


def test_the_running_node_imports_none_of_the_trainer() -> None:
    root = Path(next(iter(node.__path__)))
    trainer = "|".join(path.stem for path in (root / "models" / "demo").glob("*.py") if path.stem != "__init__")
    imported = re.compile(rf"node\.models\.demo(\.| import .*\b({trainer})\b)")
    outside = [path for path in root.rglob("*.py") if path.parent != root / "models" / "demo"]
    assert imported.search("from node.models.demo import demo_directory, train")
    assert outside
    assert [path for path in outside if imported.search(path.read_text())] == []
