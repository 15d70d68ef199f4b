"""File names inside models: what leads out, hides or exists on no other system is refused."""

import pytest

from protocol.errors import LayerPathInvalid
from protocol.layer_path import check_layer_path, check_layer_paths


@pytest.mark.parametrize(
    "path", ["a", "model-00001-of-00002.safetensors", "a/b/c.json", ".gitattributes", "été.txt", "com0"]
)
def test_names_of_files(path: str) -> None:
    check_layer_path(path)


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/..", "./a", "a\\b", "C:a",
        "a\0", "a\nb", "a\u202eb", "a\u200bb",
        "con", "CON.txt", "a/LPT1", "nul .x", "a.", "a ", " a", "a*", "a?b", "x" * 201,
        "/".join("a" * 9), "a/" * 600 + "b", "\ud800",
    ],
)  # fmt: skip
def test_what_is_no_name_of_a_file(path: str) -> None:
    with pytest.raises(LayerPathInvalid):
        check_layer_path(path)


@pytest.mark.parametrize("paths", [["a", "a"], ["a", "A"], ["ss", "ß"], ["é", "e\u0301"], ["a", "a/b"], ["A/b", "a"]])
def test_names_that_cannot_stand_together(paths: list[str]) -> None:
    for path in paths:
        check_layer_path(path)
    with pytest.raises(LayerPathInvalid):
        check_layer_paths(paths)
    with pytest.raises(LayerPathInvalid):
        check_layer_paths(reversed(paths))


def test_names_that_can() -> None:
    check_layer_paths(["a", "b/a", "b/c", "c/a/b"])
