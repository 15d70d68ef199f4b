"""A library of plain directories, for tests and for trying a model that is in no store."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from node.models.anatomy import Anatomy, read_directory
from node.models.errors import ModelNotFound
from node.models.library import ServedModel
from node.models.requests import ModelDetails
from protocol.digest import Digest, digest_of
from protocol.model_name import format_model_name, parse_model_name
from protocol.modelfile import Modelfile
from store.embedding_files import embeds
from store.lora import FOLDER, WEIGHTS


class DirectoryLibrary:
    """Serves the directories that were added, each under a name."""

    def __init__(self) -> None:
        self._models: dict[str, tuple[ServedModel, Path]] = {}

    def add(self, name: str, directory: Path, modelfile: Modelfile | None = None, modified_s: int = 0) -> ServedModel:
        """Serve `directory` as `name`, with the parameters, prompts and template of `modelfile`."""
        full_name = format_model_name(parse_model_name(name))
        model = ServedModel(
            name=full_name,
            digest=digest_of(f"{full_name} {directory}".encode()),
            modelfile=modelfile or Modelfile("."),
            size_bytes=sum(path.stat().st_size for path in directory.iterdir() if path.is_file()),
            modified_s=modified_s,
            details=_details(directory),
            adapter=_adapter(directory),
        )
        self._models[full_name] = (model, directory)
        return model

    async def list(self) -> Sequence[ServedModel]:
        """Return every model, newest first."""
        return sorted((model for model, _ in self._models.values()), key=lambda model: -model.modified_s)

    async def find(self, name: str) -> ServedModel:
        """Return the model that `name` means."""
        found = self._models.get(format_model_name(parse_model_name(name)))
        if found is None:
            raise ModelNotFound(name)
        return found[0]

    async def directory(self, digest: Digest) -> Path:
        """Return the directory behind `digest`."""
        return next(path for model, path in self._models.values() if model.digest == digest)

    async def anatomy(self, digest: Digest) -> Anatomy:
        """Return how the model behind `digest` is made."""
        return read_directory(await self.directory(digest))


def _adapter(directory: Path) -> str:
    weights = directory / FOLDER / WEIGHTS
    return digest_of(weights.read_bytes()) if weights.is_file() else ""


def _details(directory: Path) -> ModelDetails:
    family = ""
    with suppress(OSError, ValueError, AttributeError):  # tests serve broken models, too
        family = str(json.loads((directory / "config.json").read_bytes()).get("model_type", ""))
    if embeds(family, [path.name for path in directory.iterdir()]):
        return ModelDetails(family=family, capabilities=("embedding",))
    return ModelDetails(family="test")
