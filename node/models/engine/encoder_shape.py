"""Encoders as their publishers write them: which config words say the shape, and which tensors there must be.

All these families are one architecture, layers that normalise after each half, under different names: an encoder is
read into one set of names, and computed by one piece of code. Source: the models' own code in Hugging Face's library.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from node.models.errors import ModelRefused

MAX_LAYERS: Final = 512
MAX_SIZE: Final = 1 << 24
LARGEST: Final = 1e9
ACTIVATIONS: Final = frozenset({"gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu"})
Shape = tuple[int, ...]

_BERT_EMBEDDINGS: Final = {
    "word": "embeddings.word_embeddings",
    "position": "embeddings.position_embeddings",
    "type": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
}
_BERT_LAYER: Final = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm2": "output.LayerNorm",
}
_MPNET_LAYER: Final = {
    **_BERT_LAYER,
    "query": "attention.attn.q",
    "key": "attention.attn.k",
    "value": "attention.attn.v",
    "out": "attention.attn.o",
    "norm1": "attention.LayerNorm",
}
_DISTILBERT_LAYER: Final = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "out": "attention.out_lin",
    "norm1": "sa_layer_norm",
    "up": "ffn.lin1",
    "down": "ffn.lin2",
    "norm2": "output_layer_norm",
}
_BERT_WORDS: Final = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "inner": "intermediate_size",
    "activation": "hidden_act",
}
_DISTILBERT_WORDS: Final = {
    "layers": "n_layers",
    "hidden": "dim",
    "heads": "n_heads",
    "inner": "hidden_dim",
    "activation": "activation",
}


@dataclass(frozen=True)
class Family:
    """Names of one family: of its tensors, and of its config's words.

    `prefix` stands before every tensor in checkpoints that have a head as well. `unused` begin the names of heads and
    buffers that embedding does not need. `padded`: positions count from behind the padding token's number.
    """

    prefix: str
    embeddings: Mapping[str, str]
    layer: Mapping[str, str]
    words: Mapping[str, str]
    layers: str = "encoder.layer."
    unused: tuple[str, ...] = ("pooler.", "cls.", "lm_head.", "embeddings.position_ids")
    padded: bool = False


_ROBERTA: Final = Family("roberta.", _BERT_EMBEDDINGS, _BERT_LAYER, words=_BERT_WORDS, padded=True)
FAMILIES: Final[Mapping[str, Family]] = {
    "bert": Family("bert.", _BERT_EMBEDDINGS, _BERT_LAYER, words=_BERT_WORDS),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "mpnet": Family(
        "mpnet.",
        {
            **{part: name for part, name in _BERT_EMBEDDINGS.items() if part != "type"},
            "bias": "encoder.relative_attention_bias",
        },
        _MPNET_LAYER,
        words=_BERT_WORDS,
        padded=True,
    ),
    "distilbert": Family(
        "distilbert.",
        {part: name for part, name in _BERT_EMBEDDINGS.items() if part != "type"},
        _DISTILBERT_LAYER,
        layers="transformer.layer.",
        words=_DISTILBERT_WORDS,
        unused=("vocab_transform.", "vocab_layer_norm.", "vocab_projector.", "embeddings.position_ids"),
    ),
}


@dataclass(frozen=True)
class EncoderShape:
    """The sizes of one encoder. Positions begin at `first_position`; `buckets` of relative distances, 0 for none."""

    family: Family
    layers: int
    hidden: int
    heads: int
    inner: int
    vocabulary: int
    positions: int
    types: int
    buckets: int
    padding: int
    epsilon: float
    activation: str

    @property
    def prefix(self) -> str:
        """What may stand before every name in the checkpoint."""
        return self.family.prefix

    @property
    def unused(self) -> tuple[str, ...]:
        """How the names of heads and buffers begin."""
        return self.family.unused

    @property
    def first_position(self) -> int:
        """The number of the first token's position."""
        return self.padding + 1 if self.family.padded else 0

    @property
    def max_tokens(self) -> int:
        """How long a text may be at most, in tokens."""
        return self.positions - self.first_position

    def tensors(self) -> dict[str, tuple[str, Shape]]:
        """Return the name in the checkpoint and the shape of each tensor, by the name that the code uses."""
        hidden, inner = self.hidden, self.inner
        tables = {
            "word": (self.vocabulary, hidden),
            "position": (self.positions, hidden),
            "type": (self.types, hidden),
            "bias": (self.buckets, self.heads),
        }
        squares = dict.fromkeys(("query", "key", "value", "out"), (hidden, hidden))
        matrices: dict[str, Shape] = {**squares, "up": (inner, hidden), "down": (hidden, inner)}
        names: dict[str, tuple[str, Shape]] = {}
        for part, name in self.family.embeddings.items():
            if part in tables:
                names[f"{part}.weight"] = (f"{name}.weight", tables[part])
            else:
                names.update(with_bias(part, name, (hidden,)))
        for number in range(self.layers):
            for part, name in self.family.layer.items():
                place = f"{self.family.layers}{number}.{name}"
                names.update(with_bias(f"{number}.{part}", place, matrices.get(part, (hidden,))))
        return names


def read_shape(model_type: str, config: Mapping[str, Any]) -> EncoderShape:
    """Return the sizes that `config` gives an encoder of the family `model_type`.

    Raises:
        ModelRefused: a size is missing or cannot be, or the config asks for what is not done here.
    """
    family = FAMILIES.get(model_type)
    if family is None:
        raise ModelRefused(f"unknown architecture {model_type!r}")
    words = family.words
    require_encoder(model_type, config)
    activation = config.get(words["activation"], "gelu")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ModelRefused(f"config.json: {words['activation']} {str(activation)[:40]!r} is not known here")
    shape = EncoderShape(
        family=family,
        layers=read_size(config, words["layers"], MAX_LAYERS),
        hidden=read_size(config, words["hidden"]),
        heads=read_size(config, words["heads"]),
        inner=read_size(config, words["inner"]),
        vocabulary=read_size(config, "vocab_size"),
        positions=read_size(config, "max_position_embeddings"),
        types=read_size(config, "type_vocab_size") if "type" in family.embeddings else 0,
        buckets=read_size(config, "relative_attention_num_buckets", default=32) if "bias" in family.embeddings else 0,
        # The one family without this word in its config has it in its code.
        padding=read_size(config, "pad_token_id", default=1) if family.padded else 0,
        epsilon=read_epsilon(config, "layer_norm_eps", 1e-12),
        activation=activation,
    )
    if shape.hidden % shape.heads or shape.max_tokens < 1:
        raise ModelRefused("config.json: its sizes do not fit each other")
    return shape


def require_encoder(model_type: str, config: Mapping[str, Any]) -> None:
    """Accept the config of a model that reads and does nothing else.

    Raises:
        ModelRefused: it writes, judges, or places its tokens in a way that is not known here.
    """
    positions = config.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise ModelRefused(f"config.json: position_embedding_type {str(positions)[:40]!r} is not known here")
    if config.get("is_decoder") is True:
        raise ModelRefused(f"config.json: a {model_type} that writes is not known here")
    kinds = config.get("architectures")
    for kind in kinds if isinstance(kinds, list) else ():
        if isinstance(kind, str) and kind.endswith(("Classification", "QuestionAnswering", "MultipleChoice")):
            raise ModelRefused(f"it is a {kind[:60]}, which judges texts and does not embed them")


def read_size(config: Mapping[str, Any], word: str, most: int = MAX_SIZE, default: int | None = None) -> int:
    """Return a whole number of the config, above 0 except for the padding token's.

    Raises:
        ModelRefused: it is none, or above `most`.
    """
    value = config.get(word, default)
    if type(value) is not int or not 0 <= value <= most or (value == 0 and word != "pad_token_id"):
        raise ModelRefused(f"config.json: {word} is {str(value)[:40]!r}, expected a whole number up to {most}")
    return value


def read_epsilon(config: Mapping[str, Any], word: str, default: float) -> float:
    """Return a number of the config that is not negative.

    Raises:
        ModelRefused: it is none.
    """
    value = config.get(word, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST:
        raise ModelRefused(f"config.json: {word} is no number")
    return float(value)


def with_bias(part: str, name: str, shape: Shape) -> dict[str, tuple[str, Shape]]:
    """Return name and shape of a weight and of the bias that goes with it."""
    return {f"{part}.weight": (f"{name}.weight", shape), f"{part}.bias": (f"{name}.bias", shape[:1])}
