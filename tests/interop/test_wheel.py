"""The wheel: built by the stock back end, complete, and alone in its top-level names."""

import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from node.models.demo import WEIGHT_FILES, demo_directory

ROOT = Path(__file__).parents[2]
PACKAGES = ("node", "protocol", "identity", "store")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this working tree, built with nothing downloaded."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (path,) = out.glob("tilenode-*.whl")
    return zipfile.ZipFile(path)


def test_the_demo_model_is_in_it_byte_for_byte(wheel: zipfile.ZipFile) -> None:
    for name in WEIGHT_FILES:
        assert wheel.read(f"node/models/demo/weights/{name}") == (demo_directory() / name).read_bytes()


def test_the_unpacked_wheel_finds_its_demo_model(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    program = "from node.models.demo import demo_directory; print(demo_directory())"
    environment = {"PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == tmp_path / "node" / "models" / "demo" / "weights"


def test_every_package_says_that_it_is_typed(wheel: zipfile.ZipFile) -> None:
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(wheel.namelist())


def test_every_module_is_in_it_and_no_test_is(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if not name.startswith("tilenode-")}
    modules = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert modules <= names
    assert {name.split("/")[0] for name in names} == set(PACKAGES)


def test_the_program_and_both_licences_are_in_it(wheel: zipfile.ZipFile) -> None:
    metadata = {name.partition(".dist-info/")[2]: name for name in wheel.namelist() if ".dist-info/" in name}
    assert "tilenode = node.cli.main:run" in wheel.read(metadata["entry_points.txt"]).decode()
    assert {"licenses/LICENSE-MIT.txt", "licenses/LICENSE-APACHE.txt"} <= metadata.keys()


def test_no_compiled_or_secret_file_slipped_in(wheel: zipfile.ZipFile) -> None:
    expected = {".py", ".typed", ".json", ".safetensors", ".jinja", ".md", ".html", ".css", ".js", ".svg"}
    odd = [
        n
        for n in wheel.namelist()
        if ".dist-info/" not in n and Path(n).suffix not in expected and not n.endswith("py.typed")
    ]
    assert odd == []


@pytest.mark.parametrize("package", PACKAGES)
def test_the_top_level_name_belongs_to_this_distribution_alone(
    package: str, wheel: zipfile.ZipFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other distributions have packages named `identity` and so on; together in one environment they would mix.

    An editable installation lists no modules, so the unpacked wheel stands beside everything that is installed here.
    """
    wheel.extractall(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert set(packages_distributions()[package]) == {"tilenode"}
