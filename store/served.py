"""What of a model a worker holds in memory, as keys: models with the same weights are served by one worker."""

from collections.abc import Iterable

from protocol.build_record import BUILD_RECORD
from protocol.canonical_json import Json, encode_json
from protocol.digest import digest_of
from protocol.manifest import DOC, Layer
from store.adapters import adapter_layers, is_adapter
from store.contents import MODELFILE


def weights_key(layers: Iterable[Layer]) -> str:
    """Return what is the same for all models that differ in their recipes and adapters alone.

    It is the digest of the paths and digests of every file that is loaded: weights, configs, tokenizer, the draft's
    files; recipe, build record and documents do not count.
    """
    own = (MODELFILE, BUILD_RECORD)
    return _key(x for x in layers if not is_adapter(x) and x.media_type != DOC and x.filepath not in own)


def adapter_key(layers: Iterable[Layer]) -> str:
    """Return what is the same for all models with the same adapter; empty for those without one."""
    own = adapter_layers(layers)
    return _key(own) if own else ""


def _key(layers: Iterable[Layer]) -> str:
    rows: list[Json] = [[layer.filepath, layer.digest] for layer in sorted(layers, key=lambda layer: layer.filepath)]
    return digest_of(encode_json(rows))
