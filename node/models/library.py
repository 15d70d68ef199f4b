"""The models that can be asked: names to files, straight from the store."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from node.models.anatomy import Anatomy
from node.models.requests import ModelDetails
from protocol.digest import Digest
from protocol.mir import Mir
from protocol.modelfile import Modelfile


@dataclass(frozen=True, kw_only=True)
class ListedModel:
    """A model in the store, as far as a list needs it. `name` carries its tag: `demo:latest`.

    `publisher` is the DID of who signed it, "" for nobody or where that was not looked up.
    """

    name: str
    digest: Digest
    size_bytes: int
    modified_s: int
    details: ModelDetails
    mir: Mir | None = None
    publisher: str = ""


@dataclass(frozen=True, kw_only=True)
class ServedModel(ListedModel):
    """A model in the store, as far as answering needs it.

    Models with the same `weights` differ in their recipes and adapters alone, and share one worker; empty means that
    nobody else has them. `adapter` names the adapter that is laid over them, empty for none.
    """

    modelfile: Modelfile
    weights: str = ""
    adapter: str = ""


class Library(Protocol):
    """Where models come from."""

    async def list(self) -> Sequence[ListedModel]:
        """Return every model, newest first."""

    async def find(self, name: str) -> ServedModel:
        """Return the model that `name` means.

        Raises:
            ModelNotFound: there is none.
        """

    async def directory(self, digest: Digest) -> Path:
        """Return a directory with the model's files, verified, for the worker to read."""

    async def anatomy(self, digest: Digest) -> Anatomy:
        """Return how the model is made, as its files say it."""
