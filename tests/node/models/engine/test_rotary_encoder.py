"""nomic_bert and modernbert against 64-bit numpy, and what they refuse to load."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.models.errors import InputTooLong, ModelRefused
from tests.node.models.engine import embedding_reference as reference
from tests.node.models.engine.embedding_models import HIDDEN, PLACES
from tests.node.models.engine.rotary_models import rotary_states, write_rotary
from tests.node.models.engine.test_embedder import TEXTS, change_json, change_weights, embed, load, tokens_of

pytestmark = pytest.mark.model

FAMILIES = ["nomic_bert", "modernbert"]


@pytest.mark.parametrize("family", FAMILIES)
def test_it_computes_what_numpy_does_alone_and_in_batches(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "model"
    weights = write_rotary(directory, family)
    embedder = load(directory)
    assert (embedder.architecture, embedder.dimensions, embedder.max_tokens) == (family, HIDDEN, PLACES)
    together = embed(embedder, TEXTS)
    for number, text in enumerate(TEXTS):
        states = rotary_states(family, directory, weights, tokens_of(directory, text))
        expected = reference.pooled(states, "mean")
        assert np.abs(together[number] - expected).max() < 5e-6
        assert np.abs(embed(embedder, [text])[0] - expected).max() < 5e-6
    monkeypatch.setattr("node.models.engine.encoder.SCORE_BYTES", 4096)
    assert np.abs(embed(embedder, TEXTS) - together).max() < 2e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_it_must_have_exactly_its_tensors(tmp_path: Path, family: str) -> None:
    directory = tmp_path / "model"
    weights = write_rotary(directory, family)
    name = next(name for name in weights if "Wqkv" in name)
    kept = weights[name]
    change_weights(directory, lambda found: found.pop(name))
    with pytest.raises(ModelRefused, match="lacks 1 tensors"):
        load(directory)
    change_weights(directory, lambda found: found.update({name: kept[:-1]}))
    with pytest.raises(ModelRefused, match=r"the shape \[95, 32\], expected \[96, 32\]"):
        load(directory)
    change_weights(directory, lambda found: found.update({name: kept, "surplus": kept}))
    with pytest.raises(ModelRefused, match="surplus among them"):
        load(directory)


@pytest.mark.parametrize(
    ("family", "values", "says"),
    [
        ("nomic_bert", {"prenorm": True}, "prenorm True"),
        ("nomic_bert", {"activation_function": "gelu"}, "activation_function 'gelu'"),
        ("nomic_bert", {"rotary_emb_fraction": 0.5}, "rotary_emb_fraction '0.5'"),
        ("nomic_bert", {"n_layer": -1}, "n_layer"),
        ("nomic_bert", {"rotary_emb_base": 0}, "rotary_emb_base"),
        ("nomic_bert", {"rotary_emb_base": 10**400}, "rotary_emb_base"),
        ("nomic_bert", {"n_head": 3}, "do not fit"),
        ("modernbert", {"attention_bias": True}, "attention_bias"),
        ("modernbert", {"layer_types": ["full_attention"]}, "layer_types"),
        ("modernbert", {"hidden_activation": []}, "hidden_activation"),
        ("modernbert", {"global_attn_every_n_layers": 0}, "global_attn_every_n_layers"),
        ("modernbert", {"architectures": ["ModernBertForSequenceClassification"]}, "judges texts"),
    ],
)
def test_a_config_that_is_not_known_is_refused(tmp_path: Path, family: str, values: dict[str, Any], says: str) -> None:
    directory = tmp_path / "model"
    write_rotary(directory, family)
    change_json(directory / "config.json", **values)
    with pytest.raises(ModelRefused) as caught:
        load(directory)
    assert says.replace("'", "") in str(caught.value).replace("'", "")


def test_longer_texts_than_it_was_trained_with_are_cut(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    write_rotary(directory, "nomic_bert")
    with pytest.raises(InputTooLong):
        load(directory).encode(0, "cat " * PLACES, False)
