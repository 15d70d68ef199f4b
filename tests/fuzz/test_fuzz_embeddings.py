"""Hostile files of a model of embeddings, and hostile requests for vectors: only named errors come out."""

import json
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from node.api.body import parse_body
from node.api.embeddings import CompatibleBody, EmbedBody, _texts, _texts_or_ids
from node.api.errors import BodyInvalid
from node.models.engine.encoder_shape import FAMILIES, read_shape
from node.models.engine.rotary_shape import ROTARY_FAMILIES, read_rotary_shape
from node.models.engine.sentences import read_sentences
from node.models.errors import ModelRefused
from store.embedding_files import is_embedding_file

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
STEP = st.fixed_dictionaries(
    {},
    optional={
        "path": st.sampled_from(["", "1_Pooling", "2_Normalize", "../x", "1_Pooling/.."]) | JSON,
        "type": st.sampled_from(["a.Pooling", "a.Transformer", "a.Normalize", "Dense", ""]) | JSON,
    },
)
POOLING = st.dictionaries(
    st.sampled_from(["pooling_mode", "pooling_mode_cls_token", "pooling_mode_mean_tokens", "include_prompt", "x"]),
    st.booleans() | st.sampled_from(["mean", "cls", ["mean"], []]) | JSON,
)
WORDS = ["num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size", "pad_token_id"]
WORDS += ["max_position_embeddings", "type_vocab_size", "layer_norm_eps", "hidden_act", "architectures", "n_layers"]
WORDS += ["n_embd", "n_head", "n_inner", "n_layer", "n_positions", "rotary_emb_base", "local_attention", "prenorm"]
CONFIG = st.dictionaries(st.sampled_from(WORDS), st.integers(-3, 70) | st.sampled_from(["gelu", 1e-5]) | JSON)


@given(st.lists(STEP, max_size=4) | JSON, POOLING | JSON, JSON, JSON)
def test_files_of_any_content_say_something_or_are_refused(
    steps: object, pooling: object, limits: object, prompts: object
) -> None:
    with TemporaryDirectory() as scratch:
        directory = Path(scratch)
        (directory / "1_Pooling").mkdir()
        (directory / "modules.json").write_text(json.dumps(steps))
        (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        (directory / "sentence_bert_config.json").write_text(json.dumps(limits))
        (directory / "config_sentence_transformers.json").write_text(json.dumps(prompts))
        with suppress(ModelRefused):
            found = read_sentences(directory)
            assert found.max_tokens is None or found.max_tokens > 0


@given(st.sampled_from(sorted(FAMILIES.keys() | ROTARY_FAMILIES)), CONFIG)
def test_a_config_of_any_content_has_a_shape_or_is_refused(family: str, config: dict[str, object]) -> None:
    with suppress(ModelRefused):
        shape = (read_rotary_shape if family in ROTARY_FAMILIES else read_shape)(family, config)
        assert shape.max_tokens > 0
        assert all(min(size) > 0 for _, size in shape.tensors().values())


@given(st.text(max_size=40))
def test_any_path_is_one_of_the_files_or_is_not(path: str) -> None:
    if is_embedding_file(path):
        assert ".." not in path
        assert path.count("/") <= 1


@given(JSON | st.lists(st.integers() | st.text(max_size=3), max_size=4))
def test_any_input_is_taken_or_refused(value: object) -> None:
    for schema in (EmbedBody, CompatibleBody):
        with suppress(BodyInvalid):
            parse_body(json.dumps({"model": "a", "input": value}).encode(), schema)
    for read in (_texts, _texts_or_ids):
        with suppress(BodyInvalid):
            assert all(isinstance(each, str | list) for each in read(value))
