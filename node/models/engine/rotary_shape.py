"""Encoders that turn queries and keys by their places: which config words say the shape, and which tensors there are.

Two families: nomic_bert, which normalises after each half of a layer, and modernbert, which does before and looks only
at neighbours in most layers. Source: the models' own code in Hugging Face's library, and the names in their files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from node.models.engine.encoder_shape import (
    ACTIVATIONS,
    MAX_LAYERS,
    Shape,
    read_epsilon,
    read_size,
    require_encoder,
    with_bias,
)
from node.models.errors import ModelRefused

ROTARY_FAMILIES: Final = frozenset({"modernbert", "nomic_bert"})
# Words of nomic_bert's config that its code knows and this does not: the only value that is done here.
_ONLY: Final[Mapping[str, object]] = {
    "activation_function": "swiglu",
    "causal": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "parallel_block": False,
    "prenorm": False,
    "qkv_proj_bias": False,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "use_rms_norm": False,
}
_MODERN_ONLY: Final[Mapping[str, object]] = {"attention_bias": False, "mlp_bias": False}


@dataclass(frozen=True)
class RotaryShape:
    """The sizes of one encoder. Of each layer: the base of its angles, and how far it looks (None: everywhere)."""

    prefix: str
    unused: tuple[str, ...]
    names: Mapping[str, str]
    layer_names: Mapping[str, str]
    hidden: int
    heads: int
    inner: int
    vocabulary: int
    types: int
    max_tokens: int
    epsilon: float
    activation: str
    normalises_first: bool
    norm_bias: bool
    bases: tuple[float, ...]
    reaches: tuple[int | None, ...]

    def tensors(self) -> dict[str, tuple[str, Shape]]:
        """Return the name in the checkpoint and the shape of each tensor, by the name that the code uses."""
        hidden, inner = self.hidden, self.inner
        sizes: dict[str, Shape] = {
            "word": (self.vocabulary, hidden),
            "type": (self.types, hidden),
            "turned": (3 * hidden, hidden),
            "out": (hidden, hidden),
            "gates": (2 * inner, hidden),
            "gate": (inner, hidden),
            "up": (inner, hidden),
            "down": (hidden, inner),
        }
        places = {part: name for part, name in self.names.items() if part != "layer"}
        for number in range(len(self.bases)):
            first = f"{self.names['layer']}{number}."
            places |= {f"{number}.{part}": first + name for part, name in self.layer_names.items()}
        if self.normalises_first:
            del places["0.norm1"]  # what comes from the embeddings is normalised already
        found: dict[str, tuple[str, Shape]] = {}
        for part, name in places.items():
            size = sizes.get(part.rpartition(".")[2])
            if size is not None:
                found[f"{part}.weight"] = (f"{name}.weight", size)
            elif self.norm_bias:
                found.update(with_bias(part, name, (hidden,)))
            else:
                found[f"{part}.weight"] = (f"{name}.weight", (hidden,))
        return found


def read_rotary_shape(model_type: str, config: Mapping[str, Any]) -> RotaryShape:
    """Return the sizes that `config` gives an encoder of the family `model_type`.

    Raises:
        ModelRefused: a size is missing or cannot be, or the config asks for what is not done here.
    """
    require_encoder(model_type, config)
    shape = _nomic(config) if model_type == "nomic_bert" else _modern(config)
    if shape.hidden % shape.heads or shape.hidden // shape.heads % 2 or shape.max_tokens < 1:
        raise ModelRefused("config.json: its sizes do not fit each other")
    return shape


def _nomic(config: Mapping[str, Any]) -> RotaryShape:
    _require(config, _ONLY)
    layers = read_size(config, "n_layer", MAX_LAYERS)
    places = read_size(config, "n_positions")
    # Longer texts need other angles than it was trained with.
    trained = read_size(config, "max_trained_positions", default=places)
    return RotaryShape(
        prefix="bert.",
        unused=("pooler.", "cls."),
        names={
            "word": "embeddings.word_embeddings",
            "type": "embeddings.token_type_embeddings",
            "norm": "emb_ln",
            "layer": "encoder.layers.",
        },
        layer_names={
            "turned": "attn.Wqkv",
            "out": "attn.out_proj",
            "norm1": "norm1",
            "up": "mlp.fc11",
            "gate": "mlp.fc12",
            "down": "mlp.fc2",
            "norm2": "norm2",
        },
        hidden=read_size(config, "n_embd"),
        heads=read_size(config, "n_head"),
        inner=read_size(config, "n_inner"),
        vocabulary=read_size(config, "vocab_size"),
        types=read_size(config, "type_vocab_size"),
        max_tokens=min(places, trained),
        epsilon=read_epsilon(config, "layer_norm_epsilon", 1e-12),
        activation="silu",
        normalises_first=False,
        norm_bias=True,
        bases=(_base(config, "rotary_emb_base", 10_000.0),) * layers,
        reaches=(None,) * layers,
    )


def _modern(config: Mapping[str, Any]) -> RotaryShape:
    _require(config, _MODERN_ONLY)
    activation = config.get("hidden_activation", "gelu")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ModelRefused(f"config.json: hidden_activation {str(activation)[:40]!r} is not known here")
    if config.get("rope_parameters") is not None or config.get("layer_types") is not None:
        raise ModelRefused("config.json: a modernbert with layer_types or rope_parameters is not known here")
    layers = read_size(config, "num_hidden_layers", MAX_LAYERS)
    every = read_size(config, "global_attn_every_n_layers", default=3)
    far, near = _base(config, "global_rope_theta", 160_000.0), _base(config, "local_rope_theta", 10_000.0)
    reach = read_size(config, "local_attention", default=128) // 2
    is_far = [number % every == 0 for number in range(layers)]
    return RotaryShape(
        prefix="model.",
        unused=("head.", "decoder."),
        names={
            "word": "embeddings.tok_embeddings",
            "norm": "embeddings.norm",
            "layer": "layers.",
            "last": "final_norm",
        },
        layer_names={
            "norm1": "attn_norm",
            "turned": "attn.Wqkv",
            "out": "attn.Wo",
            "norm2": "mlp_norm",
            "gates": "mlp.Wi",
            "down": "mlp.Wo",
        },
        hidden=read_size(config, "hidden_size"),
        heads=read_size(config, "num_attention_heads"),
        inner=read_size(config, "intermediate_size"),
        vocabulary=read_size(config, "vocab_size"),
        types=0,
        max_tokens=read_size(config, "max_position_embeddings"),
        epsilon=read_epsilon(config, "norm_eps", 1e-5),
        activation=activation,
        normalises_first=True,
        norm_bias=config.get("norm_bias") is True,
        bases=tuple(far if each else near for each in is_far),
        reaches=tuple(None if each else reach for each in is_far),
    )


def _require(config: Mapping[str, Any], only: Mapping[str, object]) -> None:
    for word, value in only.items():
        if config.get(word, value) != value:
            raise ModelRefused(f"config.json: {word} {str(config[word])[:40]!r} is not known here")


def _base(config: Mapping[str, Any], word: str, default: float) -> float:
    base = read_epsilon(config, word, default)
    if base <= 0:
        raise ModelRefused(f"config.json: {word} is not above 0")
    return base
