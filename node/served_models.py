"""What is known of the models that are asked, so that a question does not read and check their files again."""

import threading
from typing import Final

from node.models.library import ServedModel
from node.models.listed import served_model
from protocol.digest import Digest
from protocol.model_name import ModelName
from store.capabilities import read_capabilities
from store.lookup import find_entry
from store.models import ModelStore

MAX_KNOWN: Final = 64
# A name, the manifest that it stands for, and since when.
_Key = tuple[ModelName, Digest, int]


class ServedModels:
    """The models of a store as they are asked; each is read once for as long as its name stands where it stands.

    The name itself is read every time. All calls block, and may come from any thread.
    """

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._known: dict[_Key, ServedModel] = {}
        self._changing = threading.Lock()

    def find(self, name: ModelName) -> ServedModel:
        """Return the model that `name` stands for. Raises as `ModelStore.resolve`."""
        entry = find_entry(self._store.refs, name)
        known = self._known.get((entry.name, entry.digest, entry.modified_s))
        if known is None:
            known = self._read(name)
        return known

    def _read(self, name: ModelName) -> ServedModel:
        stored = self._store.resolve(name)
        model = served_model(stored, read_capabilities(self._store.blobs, stored.manifest, stored.config.family))
        with self._changing:
            if len(self._known) >= MAX_KNOWN:
                self._known.pop(next(iter(self._known)))  # the eldest
            self._known[stored.name, stored.digest, stored.modified_s] = model
        return model
