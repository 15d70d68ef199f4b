"""The places beyond this store that FROM may name, as the environment says where they are."""

from collections.abc import Sequence

from node.config import ModelSources
from store.fetched import Remote
from store.hub import Hub
from store.hub_cache import HubCache
from store.hub_settings import HubSettings
from store.ollama import OllamaCache


def model_sources(sources: ModelSources) -> Sequence[Remote]:
    """Return Ollama's models on this machine, and the model hub with the cache of its own library."""
    settings = HubSettings(endpoint=sources.hub_endpoint, token=sources.hub_token, offline=sources.hub_offline)
    return (OllamaCache(sources.ollama_models), Hub(settings, (HubCache(sources.hub_cache),)))
