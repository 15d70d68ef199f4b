"""Models of embeddings against 64-bit numpy, and what they refuse to load and to embed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from node.models.blas import preload_blas
from node.models.demo import demo_directory
from node.models.errors import InputInvalid, InputTooLong, ModelRefused
from tests.node.models.engine import embedding_reference as reference
from tests.node.models.engine.embedding_models import (
    HIDDEN,
    PLACES,
    write_decoder,
    write_encoder,
    write_json,
    write_sentences,
)

if TYPE_CHECKING:
    from node.models.engine.embedder import Embedder

pytestmark = pytest.mark.model

ENCODERS = ["bert", "roberta", "xlm-roberta", "mpnet", "distilbert"]
TEXTS = [
    "the cat sat on the mat",
    "paris is the capital of france.",
    "a",
    "hello world! this is a test, and what is this? foo bar",
    "xyzzy 42",
    " ".join(["dog"] * 40),
]


def load(directory: Path, memory_bytes: int = 0) -> "Embedder":
    preload_blas()
    from node.models.engine.embedder import Embedder

    return Embedder.load(directory, memory_bytes)


def embed(embedder: "Embedder", inputs: list[Any], truncate: bool = True) -> Any:
    rows = [embedder.encode(number, given, truncate) for number, given in enumerate(inputs)]
    return embedder.vectors(rows, lambda: None)


def tokens_of(directory: Path, text: str) -> list[int]:
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return list(tokenizer.encode(text).ids)


def change_weights(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, directory / "model.safetensors")


def change_json(path: Path, **values: Any) -> None:
    write_json(path, {**json.loads(path.read_text()), **values})


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    write_encoder(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.mark.parametrize("family", ENCODERS)
def test_encoders_compute_what_numpy_does_alone_and_in_batches(tmp_path: Path, family: str) -> None:
    directory = tmp_path / "model"
    weights = write_encoder(directory, family)
    embedder = load(directory)
    assert (embedder.architecture, embedder.dimensions, embedder.max_tokens) == (family, HIDDEN, PLACES)
    together = embed(embedder, TEXTS)
    for number, text in enumerate(TEXTS):
        states = reference.encoder_states(family, weights, tokens_of(directory, text))
        expected = reference.pooled(states, "mean")
        assert np.abs(together[number] - expected).max() < 2e-6
        assert np.abs(embed(embedder, [text])[0] - expected).max() < 2e-6
    assert np.abs(np.linalg.norm(together, axis=1) - 1).max() < 1e-6


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "lasttoken"])
@pytest.mark.parametrize("kind", ["bert", "qwen3"])
def test_each_way_of_pooling_is_that_of_numpy(tmp_path: Path, kind: str, pooling: str) -> None:
    directory = tmp_path / "model"
    weights = (write_encoder if kind == "bert" else write_decoder)(directory, pooling=pooling)
    config = json.loads((directory / "config.json").read_text())
    found = embed(load(directory), TEXTS)
    for number, text in enumerate(TEXTS):
        tokens = tokens_of(directory, text)
        if kind == "bert":
            states = reference.encoder_states(kind, weights, tokens)
        else:
            states = reference.decoder_states(config, weights, tokens)
        assert np.abs(found[number] - reference.pooled(states, pooling)).max() < 5e-6


@pytest.mark.parametrize("bare", [True, False])
def test_a_decoder_reads_long_texts_in_steps_and_needs_no_head(tmp_path: Path, bare: bool) -> None:
    directory = tmp_path / "model"
    weights = write_decoder(directory, pooling="mean", bare=bare)
    config = json.loads((directory / "config.json").read_text())
    text = "The fox walked over the hill. " * 100
    tokens = tokens_of(directory, text)
    assert 512 < len(tokens) < 2048
    found = embed(load(directory), [text, "short"])
    states = reference.decoder_states(config, weights, tokens)
    assert np.abs(found[0] - reference.pooled(states, "mean")).max() < 1e-5
    with pytest.raises(InputTooLong, match=rf"input 0 has {len(tokens)} tokens, at most 100 are read"):
        load(directory, 100 * load(directory)._token_bytes).encode(0, text, True)


def test_a_long_text_is_attended_to_in_pieces(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = embed(load(bert), TEXTS)
    monkeypatch.setattr("node.models.engine.encoder.SCORE_BYTES", 4096)
    assert np.abs(embed(load(bert), TEXTS) - whole).max() < 1e-6


def test_checkpoints_with_heads_old_names_and_packed_weights_are_read(tmp_path: Path, bert: Path) -> None:
    plain = embed(load(bert), TEXTS)
    with_head = Path(shutil.copytree(bert, tmp_path / "with-head"))

    def publish(weights: dict[str, Any]) -> None:
        for name in list(weights):
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            weights[f"bert.{old}"] = weights.pop(name)
        weights["bert.pooler.dense.weight"] = np.zeros((HIDDEN, HIDDEN), np.float32)
        weights["cls.predictions.bias"] = np.zeros(3, np.float32)
        weights["bert.embeddings.position_ids"] = np.arange(PLACES)[None]

    change_weights(with_head, publish)
    assert np.array_equal(embed(load(with_head), TEXTS), plain)

    import mlx.core as mx

    packed, unpacked = (Path(shutil.copytree(bert, tmp_path / name)) for name in ("packed", "unpacked"))
    weights = {name: mx.array(tensor) for name, tensor in load_file(bert / "model.safetensors").items()}
    rounded = dict(weights)
    for name in [name for name in weights if name.endswith("dense.weight")]:
        part = name.removesuffix(".weight")
        weights[name], weights[f"{part}.scales"], weights[f"{part}.biases"] = mx.quantize(weights[name], 32, 8)
        rounded[name] = mx.dequantize(weights[name], weights[f"{part}.scales"], weights[f"{part}.biases"], 32, 8)
    mx.save_safetensors(str(packed / "model.safetensors"), weights)
    mx.save_safetensors(str(unpacked / "model.safetensors"), rounded)
    change_json(packed / "config.json", quantization={"group_size": 32, "bits": 8})
    assert np.array_equal(embed(load(packed), TEXTS), embed(load(unpacked), TEXTS))


def test_the_tokenizer_may_be_a_list_of_words(bert: Path, tmp_path: Path) -> None:
    plain = embed(load(bert), TEXTS)
    words = Tokenizer.from_file(str(bert / "tokenizer.json")).get_vocab()
    (bert / "tokenizer.json").unlink()
    (bert / "vocab.txt").write_text("\n".join(sorted(words, key=lambda word: words[word])))
    assert np.array_equal(embed(load(bert), TEXTS), plain)


def test_what_the_publisher_says_about_texts_counts(bert: Path) -> None:
    plain = embed(load(bert), ["query: the cat", "the cat sat on"])
    write_json(bert / "sentence_bert_config.json", {"max_seq_length": 6, "do_lower_case": False})
    embedder = load(bert)
    assert embedder.max_tokens == 6
    assert np.array_equal(embed(embedder, ["the cat sat on the mat and the dog"]), plain[1:])
    prompts = {"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": "query"}
    write_json(bert / "config_sentence_transformers.json", prompts)
    assert np.array_equal(embed(load(bert), ["the cat"]), plain[:1])
    change_json(bert / "config_sentence_transformers.json", default_prompt_name=None)
    assert not np.array_equal(embed(load(bert), ["the cat"]), plain[:1])


def test_without_steps_the_mean_is_taken_and_said(bert: Path) -> None:
    plain = embed(load(bert), TEXTS)
    (bert / "modules.json").unlink()
    embedder = load(bert)
    assert np.array_equal(embed(embedder, TEXTS), plain)
    assert "does not say how it embeds" in embedder.notes[0]


def test_token_ids_are_read_as_they_are(bert: Path) -> None:
    embedder = load(bert)
    assert np.array_equal(embed(embedder, [tokens_of(bert, TEXTS[0])]), embed(embedder, TEXTS[:1]))
    assert np.array_equal(embed(embedder, [[5] * 500]), embed(embedder, [[5] * PLACES]))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([5, 99_999], "input 7 has the token id 99999, the model has those below"),
        ([-1], "token id -1"),
        ([2**70], "token id"),
        ([True], "neither a text nor a list of token ids"),
        ([1.0], "neither"),
        (["a"], "neither"),
        (None, "neither"),
        ({}, "neither"),
        ([], "input 7 is empty"),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_its_number(bert: Path, given: Any, says: str) -> None:
    with pytest.raises(InputInvalid, match=says):
        load(bert).encode(7, given, True)


def test_an_empty_text_has_the_marks_around_it_or_nothing_at_all(bert: Path, tmp_path: Path) -> None:
    assert len(load(bert).encode(0, "", True)) == 2
    write_decoder(tmp_path / "decoder")
    with pytest.raises(InputInvalid, match="input 0 is empty"):
        load(tmp_path / "decoder").encode(0, "", True)


def test_a_text_of_ten_megabytes_is_cut_or_refused_quickly(bert: Path) -> None:
    embedder = load(bert)
    for text in ("the cat sat on the mat " * 450_000, "x" * 10_000_000, " " * 9_999_990 + "the cat"):
        cut = embedder.encode(0, text, True)
        assert len(cut) <= PLACES
    assert list(embedder.encode(0, "the cat " * 1_000_000, True)) == tokens_of(bert, "the cat " * 31)
    with pytest.raises(InputTooLong, match="input 3 has more than 128 tokens, at most 64 are read"):
        embedder.encode(3, "the cat " * 1_000_000, False)
    with pytest.raises(InputTooLong, match="input 0 has 65 tokens"):
        embedder.encode(0, "cat " * 63, False)
    assert len(embedder.encode(0, "cat " * 62, False)) == PLACES
    with pytest.raises(InputTooLong, match="input 0 has 10000000 characters"):
        embedder.encode(0, "x" * 10_000_000, False)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("encoder.layer.1.output.dense.bias"), "lacks 1 tensors, encoder.layer.1.output.dense.bias"),
        (lambda w: w.update({"encoder.layer.2.output.dense.bias": np.zeros(3, np.float32)}), "has 1 tensors that its"),
        (lambda w: w.update({"classifier.weight": np.zeros(3, np.float32)}), "classifier.weight among them"),
        (lambda w: w.update({"embeddings.LayerNorm.bias": np.zeros(3, np.float32)}), r"the shape \[3\], expected"),
        (lambda w: w.update({"embeddings.LayerNorm.bias": np.zeros(HIDDEN, np.int32)}), "expected fractions"),
        (lambda w: w.update({"a.scales": np.zeros(3, np.float32)}), "has 1 tensors"),
    ],
)
def test_an_encoder_must_have_exactly_its_tensors(
    bert: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    change_weights(bert, change)
    with pytest.raises(ModelRefused, match=says):
        load(bert)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"model_type": "electra"}, "unknown architecture 'electra'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({"hidden_act": "mish"}, "hidden_act 'mish'"),
        ({"is_decoder": True}, "that writes"),
        ({"architectures": ["BertForSequenceClassification"]}, "judges texts"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers"),
        ({"num_attention_heads": 5}, "do not fit each other"),
        ({"hidden_size": 64}, "the shape"),
        ({"hidden_size": -1}, "hidden_size"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps"),
        ({"model_file": "evil.py"}, "brings code"),
        ({"quantization": {"bits": "4"}}, "packing"),
    ],
)
def test_a_config_that_is_not_known_is_refused_by_its_word(bert: Path, values: dict[str, Any], says: str) -> None:
    change_json(bert / "config.json", **values)
    with pytest.raises(ModelRefused, match=says):
        load(bert)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("modules.json", "{}", "expected a list of steps"),
        ("modules.json", "[1]", "expected a list of steps"),
        ("modules.json", "[]", "no step makes one vector"),
        ("modules.json", "[" * 100_000, "modules.json: RecursionError"),
        ("modules.json", '[{"type":"x.Dense","path":"2_Dense"}]', "the step 'Dense' in '2_Dense' is not known here"),
        ("modules.json", '[{"type":"x.Transformer","path":"0_BERT"}]', "in the folder '0_BERT'"),
        ("modules.json", '[{"type":"x.Pooling","path":"../../etc"}]', "the step 'Pooling' in '../../etc'"),
        ("1_Pooling/config.json", "{}", "pooling none is not known"),
        ("1_Pooling/config.json", "[]", "no JSON object"),
        ("1_Pooling/config.json", '{"pooling_mode_weightedmean_tokens":true}', "pooling weightedmean_tokens"),
        ("1_Pooling/config.json", '{"pooling_mode":["cls","mean"]}', "pooling cls, mean"),
        ("1_Pooling/config.json", '{"pooling_mode":"attention"}', "pooling attention"),
        ("1_Pooling/config.json", '{"pooling_mode":"cls","include_prompt":false}', "without the tokens of a prompt"),
        ("config_sentence_transformers.json", '{"default_prompt_name":"x"}', "names a prompt that it does not have"),
        ("tokenizer.json", "{}", "tokenizer"),
        ("config.json", "{}", "names no model_type"),
    ],
)
def test_files_that_say_what_is_not_known_are_refused(bert: Path, file: str, content: str, says: str) -> None:
    (bert / file).write_text(content)
    with pytest.raises(ModelRefused, match=says):
        load(bert)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json", "modules.json"])
@pytest.mark.parametrize("kept", [0, 7, 0.5, 0.999])
def test_a_file_cut_short_is_refused(bert: Path, file: str, kept: float) -> None:
    content = (bert / file).read_bytes()
    (bert / file).write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    with pytest.raises(ModelRefused):
        load(bert)


def test_newer_words_for_pooling_are_known(bert: Path) -> None:
    plain = embed(load(bert), TEXTS)
    write_json(bert / "1_Pooling" / "config.json", {"embedding_dimension": HIDDEN, "pooling_mode": "mean"})
    assert np.array_equal(embed(load(bert), TEXTS), plain)


def test_values_that_are_no_numbers_are_refused(bert: Path) -> None:
    change_weights(bert, lambda w: w.update({"embeddings.LayerNorm.bias": np.full(HIDDEN, np.nan, np.float32)}))
    with pytest.raises(ModelRefused, match="no numbers"):
        embed(load(bert), TEXTS)


def test_a_tokenizer_with_more_words_than_the_model_is_refused(bert: Path) -> None:
    change_json(bert / "config.json", vocab_size=40)
    change_weights(bert, lambda w: w.update({k: w[k][:40] for k in ["embeddings.word_embeddings.weight"]}))
    with pytest.raises(ModelRefused, match="tokens that the model has not"):
        load(bert).encode(0, "xyz", True)


def test_a_decoder_must_have_exactly_its_tensors_and_look_back_only(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    write_decoder(directory)
    change_weights(directory, lambda w: w.pop("layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelRefused, match="Missing 1 parameters"):
        load(directory)
    shutil.rmtree(directory)
    write_decoder(directory)
    change_weights(directory, lambda w: w.update(surplus=np.zeros(3, np.float32)))
    with pytest.raises(ModelRefused, match="Received 1 parameters not in model"):
        load(directory)
    change_weights(directory, lambda w: w.pop("surplus"))
    change_json(directory / "config.json", use_bidirectional_attention=True)
    with pytest.raises(ModelRefused, match="both directions"):
        load(directory)
    change_json(directory / "config.json", use_bidirectional_attention=False, model_type="electric-sheep")
    with pytest.raises(ModelRefused, match="unknown architecture 'electric-sheep'"):
        load(directory)


def test_a_head_in_the_file_is_left_out(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(demo_directory(), directory)
    write_sentences(directory, "lasttoken")
    embedder = load(directory)
    assert embedder.dimensions == 256
    assert embed(embedder, ["hello"]).shape == (1, 256)
