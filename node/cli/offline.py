"""What can be seen of a home while no node runs on it: neither keys nor passphrase are needed to look."""

from typing import Any

from identity.did import parse_did
from node.catalog import foreign_facts, list_models, model_facts, with_mir
from node.config import Home
from node.settings import Settings
from node.store_place import require_store
from store.foreign import foreign_models
from store.log_files import verify_log
from store.models import ModelStore

Facts = dict[str, Any]


def models_here(home: Home, settings: Settings, mir: str | None = None) -> Facts:
    """Return what `GET /v1/models` answers; other devices' nicknames are in the encrypted database and stay there."""
    require_store(home)
    store = ModelStore(home.store)
    try:
        names = {settings.did: settings.nickname}
        found = with_mir(list_models(store), mir)
        models = [model_facts(model, lambda did: names.get(did, "")) for model in found]
        foreign = [foreign_facts(model) for model in foreign_models(store)]
    finally:
        store.close()
    return {"models": models, "foreign": foreign}


def verified_log(home: Home, settings: Settings) -> Facts:
    """Return what `POST /v1/log/verify` answers.

    Raises:
        LogDamaged: something is missing or does not hash to what this device signed.
    """
    summary = verify_log(home.log, parse_did(settings.did))
    return {"origin": summary.origin, "size": summary.size, "root": summary.root.hex()}
