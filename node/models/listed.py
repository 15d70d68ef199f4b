"""The models of the store as the models service sees them: in lists, and when a question is asked of one."""

from pathlib import Path

from node.models.demo import DEMO_NAME, demo_directory
from node.models.library import ListedModel, ServedModel
from node.models.requests import ModelDetails
from protocol.digest import Digest
from protocol.manifest import MIR
from protocol.mir import read_mir
from protocol.model_name import format_model_name, parse_model_name
from store import listing
from store.capabilities import capabilities
from store.facts import ModelFacts
from store.models import StoredModel
from store.served import adapter_key, weights_key


def served_model(model: StoredModel, capabilities: tuple[str, ...]) -> ServedModel:
    """Return a stored model as a question is asked of it."""
    return ServedModel(
        name=format_model_name(model.name),
        digest=model.digest,
        modelfile=model.modelfile,
        size_bytes=model.size_bytes,
        modified_s=model.modified_s,
        details=ModelDetails(
            format=model.config.format,
            family=model.config.family,
            parameter_size=model.config.parameter_size,
            quantization_level=model.config.precision,
            capabilities=capabilities,
        ),
        mir=read_mir(model.manifest.annotations.get(MIR)),
        weights=weights_key(model.layers),
        adapter=adapter_key(model.layers),
    )


def listed_model(model: listing.ListedModel, facts: ModelFacts) -> ListedModel:
    """Return how a stored model with these facts is listed."""
    return ListedModel(
        name=format_model_name(model.name),
        digest=model.digest,
        size_bytes=facts.size_bytes,
        modified_s=model.modified_s,
        details=ModelDetails(
            format=facts.format,
            family=facts.family,
            parameter_size=facts.parameter_size,
            quantization_level=facts.precision,
            capabilities=tuple(facts.capabilities.split()),
        ),
        mir=read_mir(facts.mir or None),
        publisher=model.publisher,
    )


def _small_files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.glob("*.json")}


def embedded_model() -> ListedModel:
    """Return how the embedded model is listed before its first use: it has no digest yet."""
    sizes = [path.stat() for path in demo_directory().iterdir()]
    return ListedModel(
        name=format_model_name(parse_model_name(DEMO_NAME)),
        digest=Digest(""),
        size_bytes=sum(status.st_size for status in sizes),
        modified_s=int(max(status.st_mtime for status in sizes)),
        details=ModelDetails(family="qwen3", capabilities=capabilities(_small_files(demo_directory()))),
    )
