"""What is to be built, from a recipe and the command line's words beside it."""

from pathlib import Path

import pytest

from node.errors import RecipeNameMissing
from node.recipes import Order, RecipeKind, read_order
from protocol.errors import ModelfileInvalid, ModelNameInvalid, ModelSpecInvalid
from protocol.model_name import parse_model_name
from protocol.quantization import Quantization

HERE = Path("/work")
SPEC = "name: tiny\nversion: 1.0.0\nbase:\n  path: model\nquantization: int4\ntokenizer: ./words\nlicense: MIT\n"


def test_a_modelfile_needs_a_name_from_the_command_line() -> None:
    request = read_order(Order(RecipeKind.MODELFILE, "FROM ./model\nSYSTEM hi", HERE, "pocket", 7))
    assert (request.name, request.base_dir, request.created_s) == (parse_model_name("pocket"), HERE, 7)
    assert (request.quantization, request.tokenizer) == (Quantization.NONE, None)
    assert request.modelfile.system == "hi"
    with pytest.raises(RecipeNameMissing) as caught:
        read_order(Order(RecipeKind.MODELFILE, "FROM ./model", HERE))
    assert "tilenode create NAME" in caught.value.hint


def test_a_modelspec_says_all_of_it_and_the_command_line_comes_first() -> None:
    request = read_order(Order(RecipeKind.MODELSPEC, SPEC, HERE))
    assert request.name == parse_model_name("tiny@1.0.0")
    assert request.modelfile.base == "./model"
    assert (request.quantization, request.tokenizer, request.created_s) == (Quantization.INT4, "./words", None)
    other = read_order(Order(RecipeKind.MODELSPEC, SPEC, HERE, "mine", quantization=Quantization.NONE))
    assert (other.name, other.quantization) == (parse_model_name("mine"), Quantization.NONE)


@pytest.mark.parametrize(
    ("order", "error"),
    [
        (Order(RecipeKind.MODELFILE, "FORM x", HERE, "a"), ModelfileInvalid),
        (Order(RecipeKind.MODELSPEC, "FROM x", HERE, "a"), ModelSpecInvalid),
        (Order(RecipeKind.MODELFILE, "FROM x", HERE, "../a"), ModelNameInvalid),
    ],
)
def test_mistakes_are_named_before_anything_is_built(order: Order, error: type[Exception]) -> None:
    with pytest.raises(error):
        read_order(order)
