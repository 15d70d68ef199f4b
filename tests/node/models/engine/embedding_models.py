"""Little models of embeddings with seeded random weights and real tokenizers, written as publishers write them."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from node.models.demo import demo_directory

Weights = dict[str, npt.NDArray[np.float32]]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
WORDS = "the a cat dog sat on mat paris is capital of france and what query document hello world test foo bar this is"
HIDDEN, HEADS, LAYERS, INNER, PLACES = 32, 4, 2, 64, 64
SENTENCE_TYPE = "sentence_transformers.models."
BERT_PARTS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm2": "output.LayerNorm",
}
MPNET_PARTS = {
    **BERT_PARTS,
    "query": "attention.attn.q",
    "key": "attention.attn.k",
    "value": "attention.attn.v",
    "out": "attention.attn.o",
    "norm1": "attention.LayerNorm",
}
DISTIL_PARTS = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "out": "attention.out_lin",
    "norm1": "sa_layer_norm",
    "up": "ffn.lin1",
    "down": "ffn.lin2",
    "norm2": "output_layer_norm",
}
PARTS = {"bert": BERT_PARTS, "roberta": BERT_PARTS, "xlm-roberta": BERT_PARTS, "mpnet": MPNET_PARTS}
PARTS |= {"distilbert": DISTIL_PARTS}
LAYER_NAMES = dict.fromkeys(PARTS, "encoder.layer") | {"distilbert": "transformer.layer"}


def write_encoder(directory: Path, family: str = "bert", *, pooling: str = "mean", seed: int = 1) -> Weights:
    """Write a model of `family` and return its weights, by the names in its file."""
    directory.mkdir(parents=True)
    tokenizer = bert_tokenizer() if family in ("bert", "distilbert") else roberta_tokenizer()
    tokenizer.save(str(directory / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    write_json(directory / "config.json", encoder_config(family, size))
    write_sentences(directory, pooling)
    weights = encoder_weights(family, size, seed)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return weights


def write_decoder(directory: Path, *, pooling: str = "lasttoken", bare: bool = True, seed: int = 2) -> Weights:
    """Write a model like Qwen3-Embedding: a decoder without a head, and return its weights.

    `bare`: the tensors' names have no `model.` before them, as that publisher writes them.
    """
    directory.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(demo_directory() / name, directory / name)
    config = json.loads((demo_directory() / "config.json").read_text())
    # Like the 8B model of that family: the head is not tied, and not in the file.
    config |= {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "head_dim": 8}
    config |= {"num_attention_heads": HEADS, "num_key_value_heads": 2, "tie_word_embeddings": False}
    write_json(directory / "config.json", config)
    write_sentences(directory, pooling)
    weights = decoder_weights(config, seed)
    named = weights if bare else {f"model.{name}": tensor for name, tensor in weights.items()}
    save_file(named, directory / "model.safetensors", metadata={"format": "pt"})
    return weights


def write_sentences(directory: Path, pooling: str) -> None:
    """Write the files of the sentence-transformers library that say how the model embeds."""
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    steps = [
        {"idx": number, "name": str(number), "path": path, "type": SENTENCE_TYPE + kind}
        for number, (path, kind) in enumerate(kinds)
    ]
    write_json(directory / "modules.json", steps)
    switches = ("cls_token", "mean_tokens", "max_tokens", "lasttoken", "weightedmean_tokens", "mean_sqrt_len_tokens")
    named = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}.get(pooling, pooling)
    config = {f"pooling_mode_{switch}": switch == named for switch in switches}
    (directory / "1_Pooling").mkdir(exist_ok=True)
    write_json(directory / "1_Pooling" / "config.json", {"word_embedding_dimension": HIDDEN, **config})


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def encoder_config(family: str, vocabulary: int) -> dict[str, Any]:
    padded = family not in ("bert", "distilbert")
    places = PLACES + (2 if padded else 0)
    common = {"model_type": family, "vocab_size": vocabulary, "max_position_embeddings": places}
    if family == "distilbert":
        shape = {"dim": HIDDEN, "n_heads": HEADS, "n_layers": LAYERS, "hidden_dim": INNER, "activation": "gelu"}
        return {**common, **shape, "pad_token_id": 0, "architectures": ["DistilBertModel"]}
    shape = {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS}
    config = {**common, **shape, "intermediate_size": INNER, "hidden_act": "gelu", "layer_norm_eps": 1e-5}
    if family == "mpnet":
        return {**config, "relative_attention_num_buckets": 32}
    return {**config, "type_vocab_size": 1 if padded else 2, "pad_token_id": 1 if padded else 0}


def encoder_weights(family: str, vocabulary: int, seed: int) -> Weights:
    source = np.random.default_rng(seed)
    weights: Weights = {}

    def matrix(name: str, *shape: int) -> None:
        weights[name] = source.normal(0, 0.2, shape).astype(np.float32)

    def linear(name: str, out: int, into: int) -> None:
        matrix(f"{name}.weight", out, into)
        weights[f"{name}.bias"] = source.normal(0, 0.1, out).astype(np.float32)

    def norm(name: str) -> None:
        weights[f"{name}.weight"] = (1 + source.normal(0, 0.1, HIDDEN)).astype(np.float32)
        weights[f"{name}.bias"] = source.normal(0, 0.1, HIDDEN).astype(np.float32)

    padded = family not in ("bert", "distilbert")
    matrix("embeddings.word_embeddings.weight", vocabulary, HIDDEN)
    matrix("embeddings.position_embeddings.weight", PLACES + (2 if padded else 0), HIDDEN)
    if family in ("bert", "roberta", "xlm-roberta"):
        matrix("embeddings.token_type_embeddings.weight", 1 if padded else 2, HIDDEN)
    norm("embeddings.LayerNorm")
    if family == "mpnet":
        matrix("encoder.relative_attention_bias.weight", 32, HEADS)
    for layer in range(LAYERS):
        for part, name in PARTS[family].items():
            place = f"{LAYER_NAMES[family]}.{layer}.{name}"
            if part.startswith("norm"):
                norm(place)
            else:
                linear(place, INNER if part == "up" else HIDDEN, INNER if part == "down" else HIDDEN)
    return weights


def decoder_weights(config: Mapping[str, Any], seed: int) -> Weights:
    source = np.random.default_rng(seed)
    queries, keys = config["num_attention_heads"] * 8, config["num_key_value_heads"] * 8
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens": (config["vocab_size"], HIDDEN), "norm": (HIDDEN,)}
    for layer in range(config["num_hidden_layers"]):
        parts = {
            "input_layernorm": (HIDDEN,),
            "post_attention_layernorm": (HIDDEN,),
            "self_attn.q_proj": (queries, HIDDEN),
            "self_attn.k_proj": (keys, HIDDEN),
            "self_attn.v_proj": (keys, HIDDEN),
            "self_attn.o_proj": (HIDDEN, queries),
            "self_attn.q_norm": (8,),
            "self_attn.k_norm": (8,),
            "mlp.gate_proj": (INNER, HIDDEN),
            "mlp.up_proj": (INNER, HIDDEN),
            "mlp.down_proj": (HIDDEN, INNER),
        }
        shapes |= {f"layers.{layer}.{part}": shape for part, shape in parts.items()}
    weights: Weights = {}
    for name, shape in shapes.items():
        values = source.normal(0, 0.2, shape) if len(shape) == 2 else 1 + source.normal(0, 0.1, shape)
        weights[f"{name}.weight"] = values.astype(np.float32)
    return weights


def bert_tokenizer() -> Tokenizer:
    """WordPiece as BERT's: lower case, words, and letters for what is no word."""
    return _word_pieces(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), "[CLS]", "[SEP]")


def roberta_tokenizer() -> Tokenizer:
    """The same with the marks of the RoBERTa kind, whose padding has the number 1."""
    return _word_pieces(("<s>", "<pad>", "</s>", "<unk>"), "<s>", "</s>")


def _word_pieces(marks: tuple[str, ...], begin: str, end: str) -> Tokenizer:
    words = sorted(set(WORDS.split()) - set(LETTERS))
    names = [*marks, *words, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    vocabulary = {name: number for number, name in enumerate(names)}
    unknown = next(mark for mark in marks if "unk" in mark.lower())
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown, max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing((end, vocabulary[end]), (begin, vocabulary[begin]))
    tokenizer.add_special_tokens(list(marks))
    # Publishers leave limits of their training in the file; they are no limits of the model.
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    return tokenizer
