"""The config blob of a ModelPack manifest: what kind of model it is, and the digests of its files (specs/0007)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from protocol.canonical_json import decode_json, encode_json
from protocol.digest import Digest, format_oci_digest
from protocol.errors import JsonInvalid, ManifestInvalid
from protocol.manifest import MAX_CONFIG_BYTES, format_time

MAX_WORD_CHARS: Final = 64
_UNITS: Final = (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3))


@dataclass(frozen=True)
class ModelConfig:
    """What lists show of a model; "" where its publisher did not say."""

    family: str
    format: str
    parameter_size: str
    precision: str


def encode_config(config: ModelConfig, layers: Sequence[Digest], created_s: int) -> bytes:
    """Return the canonical config blob; raw layers are their own diff ids."""
    return encode_json(
        {
            "descriptor": {"createdAt": format_time(created_s), "family": config.family},
            "config": {
                "architecture": "transformer",
                "format": config.format,
                "paramSize": config.parameter_size,
                "precision": config.precision,
            },
            "modelfs": {"type": "layers", "diffIds": [format_oci_digest(digest) for digest in layers]},
        }
    )


def parse_config(data: bytes) -> ModelConfig:
    """Return what the config blob says.

    Raises:
        ManifestInvalid: no JSON object, or words that are too long to show.
    """
    try:
        document = decode_json(data, MAX_CONFIG_BYTES, "config")
    except JsonInvalid as error:
        raise ManifestInvalid("config", error.reason) from None
    descriptor, config = _object(document, "descriptor"), _object(document, "config")
    return ModelConfig(
        family=_word(descriptor, "family"),
        format=_word(config, "format"),
        parameter_size=_word(config, "paramSize"),
        precision=_word(config, "precision"),
    )


def format_parameter_size(count: int) -> str:
    """Return a number of parameters as people write it: `2.9M`, `7B`."""
    for unit, size in _UNITS:
        if count >= size:
            return f"{count / size:.1f}".removesuffix(".0") + unit
    return str(count)


def _object(document: object, key: str) -> dict[str, object]:
    value = document.get(key) if isinstance(document, dict) else None
    if not isinstance(value, dict):
        raise ManifestInvalid(f"config.{key}", "expected an object")
    return value


def _word(document: dict[str, object], key: str) -> str:
    value = document.get(key, "")
    if not isinstance(value, str) or len(value) > MAX_WORD_CHARS or not (value.isprintable()):
        raise ManifestInvalid(f"config.{key}", f"expected a word of at most {MAX_WORD_CHARS} characters")
    return value
