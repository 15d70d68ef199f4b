"""What a model of embeddings says about itself: the vectors of specs/0029-embeddings."""

import json
from pathlib import Path
from typing import Any

import pytest

from node.models.engine.sentences import MAX_FILE_BYTES, is_embedding_model, read_sentences
from node.models.errors import ModelRefused
from store.embedding_files import is_embedding_file

VECTORS = Path(__file__).parents[4] / "specs" / "vectors" / "0029-embeddings"


def cases(name: str) -> Any:
    return [pytest.param(case, id=case["comment"]) for case in json.loads((VECTORS / name).read_text())]


@pytest.mark.parametrize("case", cases("files.json"))
def test_which_files_are_kept(case: dict[str, Any]) -> None:
    assert is_embedding_file(case["input"]["path"]) is case["output"]["kept"]


@pytest.mark.parametrize("case", cases("sentences.json"))
def test_what_the_files_say(tmp_path: Path, case: dict[str, Any]) -> None:
    for name, content in case["input"]["files"].items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    if case["expect"] == "ok":
        found = vars(read_sentences(tmp_path))
        assert {name: found[name] for name in case["output"]} == case["output"]
    else:
        with pytest.raises(ModelRefused) as caught:
            read_sentences(tmp_path)
        assert case["says"] in str(caught.value)


def test_a_file_larger_than_any_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[" + " " * MAX_FILE_BYTES + "]")
    with pytest.raises(ModelRefused, match="more than"):
        read_sentences(tmp_path)


def test_which_models_embed(tmp_path: Path) -> None:
    assert is_embedding_model(tmp_path, "xlm-roberta")
    assert not is_embedding_model(tmp_path, "qwen3")
    (tmp_path / "modules.json").write_text("[]")
    assert is_embedding_model(tmp_path, "qwen3")
