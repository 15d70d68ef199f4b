"""What a person asks for when a model is to be built: a recipe, and what the command line says beside it."""

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from node.errors import RecipeNameMissing
from protocol.model_name import parse_model_name
from protocol.modelfile import parse_modelfile
from protocol.modelspec import parse_modelspec, spec_modelfile, spec_name
from protocol.quantization import Quantization
from store.build import BuildRequest


class RecipeKind(StrEnum):
    """How a recipe is written."""

    MODELFILE = "modelfile"
    MODELSPEC = "modelspec"


@dataclass(frozen=True)
class Order:
    """What a person asked for: a recipe as text, and what the command line says beside it."""

    kind: RecipeKind
    recipe: str
    directory: Path
    name: str | None = None
    created_s: int | None = None
    quantization: Quantization | None = None


def read_order(order: Order) -> BuildRequest:
    """Return what is to be built; the command line's name and quantization come before the recipe's.

    Raises:
        ModelfileInvalid, ModelSpecInvalid, ModelNameInvalid: with the place of the mistake.
        RecipeNameMissing: neither says how the model is called.
    """
    if order.kind is RecipeKind.MODELFILE:
        recipe = parse_modelfile(order.recipe)
        if order.name is None:
            raise RecipeNameMissing
        request = BuildRequest(recipe, parse_model_name(order.name), order.directory, order.created_s)
    else:
        spec = parse_modelspec(order.recipe)
        request = BuildRequest(
            modelfile=spec_modelfile(spec),
            name=spec_name(spec) if order.name is None else parse_model_name(order.name),
            base_dir=order.directory,
            created_s=order.created_s,
            quantization=spec.quantization,
            tokenizer=spec.tokenizer,
        )
    return request if order.quantization is None else replace(request, quantization=order.quantization)
