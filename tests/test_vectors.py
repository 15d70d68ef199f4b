"""Every spec vector is consumed: a test names each folder under specs/vectors, and each file has one form."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
VECTORS = ROOT / "specs" / "vectors"
FOLDERS = sorted(path for path in VECTORS.iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_a_test_reads_the_folder(folder: Path) -> None:
    tests = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    assert any(folder.name in path.read_text() for path in tests), f"no test names specs/vectors/{folder.name}"
    assert any(folder.rglob("*")), f"specs/vectors/{folder.name} is empty"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_a_spec_stands_behind_the_folder(folder: Path) -> None:
    number = folder.name.split("-")[0]
    assert list((ROOT / "specs").glob(f"{number}-*.md")), f"no specs/{number}-*.md for specs/vectors/{folder.name}"


@pytest.mark.parametrize("path", sorted(VECTORS.glob("*/*.json")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_json_vectors_have_the_common_form(path: Path) -> None:
    content = json.loads(path.read_text())
    cases = content if isinstance(content, list) else [content]
    assert cases
    for case in cases:
        assert {"spec", "comment", "input", "expect"} <= case.keys()
