"""LoRA adapters at the build: what is stored, what is refused before anything is, what a model built on top keeps."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.manifest import WEIGHT, WEIGHT_CONFIG
from protocol.model_name import parse_model_name
from protocol.modelfile import parse_modelfile
from store.adapters import ADAPTER_HERE, CONFIG_PATH, WEIGHTS_PATH, adapter_layers
from store.bases import LocalBases
from store.build import BuildRequest, BuiltModel, build_model
from store.errors import (
    AdapterInvalid,
    AdapterMismatch,
    AdapterUnknown,
    BuildRefused,
    FormatUnsupported,
    SafetensorsInvalid,
    SourceEscapes,
    WeightsNotFinite,
)
from store.hub import Hub
from store.hub_settings import HubSettings
from store.lora import encode_adapter_config, parse_adapter_config, read_adapter
from store.models import ModelStore
from store.safetensors import write_safetensors
from store.testing import add_model, make_model_directory, make_tensors
from tests.store.simulated_hub import REPO, SimulatedHub

NAME = parse_model_name("demo")
QUERY = "model.layers.1.self_attn.q_proj"
TRAINING = {"model": "/home/ann/secret", "data": "/home/ann/diary", "batch_size": 4, "seed": 0}
Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]


def tensor(*shape: int, dtype: str = "F32") -> tuple[str, tuple[int, ...], bytes]:
    kind = {"F32": "<f4", "F16": "<f2", "U32": "<u4"}[dtype]
    return dtype, shape, np.full(shape, 1, dtype=kind).tobytes()


def base_tensors() -> Tensors:
    """A little model with a module that is not square and one that is quantised to 4 bits."""
    return {
        **make_tensors(),
        f"{QUERY}.weight": tensor(32, 64, dtype="F16"),
        "model.layers.1.self_attn.o_proj.weight": tensor(64, 8, dtype="U32"),
        "model.layers.1.self_attn.o_proj.scales": tensor(64, 1, dtype="F16"),
        "model.layers.1.self_attn.o_proj.biases": tensor(64, 1, dtype="F16"),
    }


def good() -> Tensors:
    return {f"{QUERY}.lora_a": tensor(64, 4), f"{QUERY}.lora_b": tensor(4, 32)}


def make_adapter(directory: Path, tensors: Tensors | None = None, **config: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    write_safetensors(directory / "adapters.safetensors", tensors or good())
    parameters = {"rank": 4, "scale": 20.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}
    document = {**TRAINING, "fine_tune_type": "lora", "num_layers": 1, "lora_parameters": parameters, **config}
    (directory / "adapter_config.json").write_text(json.dumps(document))
    return directory


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ModelStore]:
    store = ModelStore(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    make_adapter(tmp_path / "model" / "lora")
    return make_model_directory(tmp_path / "model", base_tensors())


def build(store: ModelStore, directory: Path, recipe: str = "FROM .\nADAPTER ./lora") -> BuiltModel:
    return build_model(store, BuildRequest(parse_modelfile(recipe), NAME, directory))


def test_an_adapter_becomes_two_layers_and_says_nothing_of_its_trainer(store: ModelStore, directory: Path) -> None:
    manifest = store.manifest(build(store, directory).manifest)
    types = {layer.filepath: layer.media_type for layer in adapter_layers(manifest.layers)}
    assert types == {WEIGHTS_PATH: WEIGHT, CONFIG_PATH: WEIGHT_CONFIG}
    config = manifest.layer(CONFIG_PATH)
    weights = manifest.layer(WEIGHTS_PATH)
    assert config is not None
    assert weights is not None
    stored = store.blobs.read(config.digest, 4096)
    assert b"ann" not in stored
    assert json.loads(stored) == {
        "fine_tune_type": "lora",
        "num_layers": 1,
        "lora_parameters": {"rank": 4, "scale": 20, "dropout": 0, "keys": ["self_attn.q_proj"]},
    }
    assert store.chunk_map(weights) is not None
    folder = store.materialize(build(store, directory).manifest)
    assert read_adapter(folder / "adapter").config == parse_adapter_config(stored)


def test_the_same_adapter_gives_the_same_manifest_and_another_one_another(store: ModelStore, directory: Path) -> None:
    first = build(store, directory)
    make_adapter(directory / "elsewhere", seed=7, model="/other")
    assert build(store, directory, "FROM .\nADAPTER ./lora").manifest == first.manifest
    other = make_adapter(
        directory / "lora", {f"{QUERY}.lora_a": tensor(64, 4), f"{QUERY}.lora_b": tensor(4, 32)}, num_layers=2
    )
    assert build(store, directory).manifest != first.manifest
    assert other.is_dir()


@pytest.mark.parametrize("path", ["./lora", "lora", "./lora/adapters.safetensors", "../model/lora"])
def test_an_adapter_is_found_where_its_name_leads(store: ModelStore, directory: Path, path: str) -> None:
    built = build(store, directory, f"FROM .\nADAPTER {path}")
    assert len(adapter_layers(built.layers)) == 2


def test_the_record_names_the_adapter_as_a_source_of_its_own(store: ModelStore, directory: Path) -> None:
    built = build(store, directory, f"FROM .\nADAPTER {directory}/lora")
    assert [source.name for source in built.recorded.sources] == [".", "./lora"]
    assert {file.path for file in built.recorded.sources[1].files} == {WEIGHTS_PATH, CONFIG_PATH}
    assert "ADAPTER ./lora" in built.recorded.recipe
    assert str(directory) not in repr(built.record)


def test_a_model_from_one_with_an_adapter_keeps_it(store: ModelStore, directory: Path) -> None:
    add_model(store, "tuned", directory, "FROM .\nADAPTER ./lora")
    built = build(store, directory, "FROM tuned\nSYSTEM hi")
    assert adapter_layers(built.layers) == adapter_layers(store.resolve(parse_model_name("tuned")).layers)
    store.refs.set(NAME, built.manifest)
    assert store.resolve(NAME).modelfile.adapter == ADAPTER_HERE


def test_an_adapter_of_its_own_takes_the_place_of_the_base_s(store: ModelStore, directory: Path) -> None:
    add_model(store, "tuned", directory, "FROM .\nADAPTER ./lora")
    make_adapter(directory / "other", num_layers=2)
    built = build(store, directory, "FROM tuned\nADAPTER ./other")
    own = {layer.filepath: layer.digest for layer in adapter_layers(built.layers)}
    bases = {layer.filepath: layer.digest for layer in adapter_layers(store.resolve(parse_model_name("tuned")).layers)}
    assert own[CONFIG_PATH] != bases[CONFIG_PATH]
    assert own[WEIGHTS_PATH] == bases[WEIGHTS_PATH]
    assert len([layer for layer in built.layers if layer.filepath == CONFIG_PATH]) == 1


def test_a_stored_model_lends_its_adapter(store: ModelStore, directory: Path) -> None:
    add_model(store, "tuned", directory, "FROM .\nADAPTER ./lora")
    built = build(store, directory, "FROM .\nADAPTER tuned")
    assert adapter_layers(built.layers) == adapter_layers(store.resolve(parse_model_name("tuned")).layers)
    assert built.recorded.sources[1].name == "tuned:latest"
    add_model(store, "plain", directory)
    with pytest.raises(AdapterInvalid, match=r"adapter_config\.json"):
        build(store, directory, "FROM .\nADAPTER plain")


def test_an_adapter_is_taken_from_a_hub_at_its_commit(store: ModelStore, directory: Path, tmp_path: Path) -> None:
    (directory / "lora" / "README.md").write_text("# Tuned\n")
    hub = SimulatedHub(tmp_path / "hub", directory / "lora")
    try:
        bases = LocalBases(remotes=(Hub(HubSettings(endpoint=hub.url), ()),))
        recipe = parse_modelfile(f"FROM .\nADAPTER hf:{REPO}")
        built = build_model(store, BuildRequest(recipe, NAME, directory), bases=bases)
        assert not hub.requests("README")
    finally:
        hub.stop()
    assert adapter_layers(built.layers) == adapter_layers(build(store, directory).layers)
    source = built.recorded.sources[1]
    assert (source.name, len(source.revision)) == (f"hf:{REPO}", 40)


def test_a_hub_s_adapter_of_another_kind_is_refused_by_its_kind(
    store: ModelStore, directory: Path, tmp_path: Path
) -> None:
    as_peft(directory / "lora")
    hub = SimulatedHub(tmp_path / "hub", directory / "lora")
    try:
        bases = LocalBases(remotes=(Hub(HubSettings(endpoint=hub.url), ()),))
        recipe = parse_modelfile(f"FROM .\nADAPTER hf:{REPO}")
        with pytest.raises(FormatUnsupported, match="PEFT"):
            build_model(store, BuildRequest(recipe, NAME, directory), bases=bases)
    finally:
        hub.stop()


def spoil(**config: Any) -> Callable[[Path], object]:
    return lambda lora: make_adapter(lora, **config)


def parameters(**changes: Any) -> dict[str, Any]:
    return {"lora_parameters": {"rank": 4, "scale": 20.0, "dropout": 0.0, **changes}}


def tensors(**changes: tuple[str, tuple[int, ...], bytes] | None) -> Callable[[Path], object]:
    merged = {**good(), **{f"{QUERY}.{leaf}": value for leaf, value in changes.items() if value}}
    left = {name: value for name, value in merged.items() if changes.get(name.rpartition(".")[2], True)}
    return lambda lora: make_adapter(lora, left)


def cut_off(lora: Path) -> None:
    whole = (lora / "adapters.safetensors").read_bytes()
    (lora / "adapters.safetensors").write_bytes(whole[:-1])


def infinite(lora: Path) -> None:
    values = np.full((64, 4), np.inf, dtype="<f4").tobytes()
    make_adapter(lora, {**good(), f"{QUERY}.lora_a": ("F32", (64, 4), values)})


def as_peft(lora: Path) -> None:
    (lora / "adapters.safetensors").rename(lora / "adapter_model.safetensors")


def linked_out(lora: Path) -> None:
    target = lora.parent.parent / "outside.safetensors"
    (lora / "adapters.safetensors").rename(target)
    (lora / "adapters.safetensors").symlink_to(target)


def experts(lora: Path) -> None:
    make_adapter(lora, {f"{QUERY}.lora_a": tensor(2, 4, 64), f"{QUERY}.lora_b": tensor(3, 32, 4)})


def another_module(lora: Path) -> None:
    make_adapter(lora, {"model.layers.7.x.lora_a": tensor(64, 4), "model.layers.7.x.lora_b": tensor(4, 32)})


REFUSED: list[tuple[str, Callable[[Path], object], type[BuildRefused] | type[SafetensorsInvalid], str]] = [
    ("no config", lambda lora: (lora / "adapter_config.json").unlink(), AdapterInvalid, r"adapter_config\.json"),
    ("no weights", lambda lora: (lora / "adapters.safetensors").unlink(), AdapterInvalid, r"adapters\.safetensors"),
    ("no JSON", lambda lora: (lora / "adapter_config.json").write_text("{"), AdapterInvalid, "config"),
    ("a list", lambda lora: (lora / "adapter_config.json").write_text("[]"), AdapterInvalid, "object"),
    ("an unknown kind", spoil(fine_tune_type="ia3"), AdapterInvalid, "ia3"),
    ("a full fine-tune", spoil(fine_tune_type="full"), FormatUnsupported, "FROM its weights"),
    ("PEFT's config", spoil(peft_type="LORA"), FormatUnsupported, "PEFT"),
    ("PEFT's weights", as_peft, FormatUnsupported, "PEFT"),
    ("no scale", spoil(lora_parameters={"rank": 4, "dropout": 0}), AdapterInvalid, "scale"),
    ("PEFT's alpha", spoil(**parameters(alpha=16)), AdapterInvalid, "nothing else"),
    ("a rank of nothing", spoil(**parameters(rank=0)), AdapterInvalid, "rank"),
    ("a rank that is a truth", spoil(**parameters(rank=True)), AdapterInvalid, "rank"),
    ("a scale without end", spoil(**parameters(scale=1e300)), AdapterInvalid, "scale"),
    ("a dropout of everything", spoil(**parameters(dropout=1)), AdapterInvalid, "dropout"),
    ("keys that are no list", spoil(**parameters(keys="q_proj")), AdapterInvalid, "keys"),
    ("a key that is a number", spoil(**parameters(keys=[1])), AdapterInvalid, "keys"),
    ("too many layers", spoil(num_layers=10**9), AdapterInvalid, "num_layers"),
    ("another rank than the tensors'", spoil(**parameters(rank=8)), AdapterInvalid, "ranks"),
    ("half a module", tensors(lora_b=None), AdapterInvalid, "lora_b.* is missing"),
    ("DoRA's tensor in a LoRA", tensors(m=tensor(32)), AdapterInvalid, "not part of lora"),
    ("whole numbers", tensors(lora_a=tensor(64, 4, dtype="U32")), AdapterInvalid, "expected floats"),
    ("shapes that do not belong together", experts, AdapterInvalid, "belong together"),
    ("a module that the model has not", another_module, AdapterMismatch, "no such module"),
    ("made for more inputs", tensors(lora_a=tensor(65, 4)), AdapterMismatch, "32 x 65"),
    ("made for more outputs", tensors(lora_b=tensor(4, 33)), AdapterMismatch, "33 x 64"),
    ("cut off", cut_off, SafetensorsInvalid, "cut off"),
    ("not finite", infinite, WeightsNotFinite, "lora_a"),
    ("a link that leads out", linked_out, SourceEscapes, "adapters"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("spoiled", "error", "says"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_what_cannot_be_right_is_refused_and_leaves_nothing_behind(
    store: ModelStore, directory: Path, spoiled: Callable[[Path], object], error: type[BuildRefused], says: str
) -> None:
    spoiled(directory / "lora")
    with pytest.raises(error, match=says) as caught:
        build(store, directory)
    assert caught.value.hint
    assert list(store.blobs.list()) == []


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "~nobody-of-that-name/x", "a/b/c/d"])
def test_an_adapter_that_is_nowhere_is_named(store: ModelStore, directory: Path, name: str) -> None:
    with pytest.raises(AdapterUnknown, match="ADAPTER"):
        build(store, directory, f"FROM .\nADAPTER {name}")


def test_quantised_modules_and_embeddings_fit_by_their_real_shape(store: ModelStore, directory: Path) -> None:
    packed, embedding = "model.layers.1.self_attn.o_proj", "model.embed_tokens"
    right = {
        f"{packed}.lora_a": tensor(64, 4), f"{packed}.lora_b": tensor(4, 64),
        f"{embedding}.lora_a": tensor(32, 4), f"{embedding}.lora_b": tensor(4, 64),
    }  # fmt: skip
    make_adapter(directory / "lora", right)
    build(store, directory)
    for wrong in ({f"{packed}.lora_a": tensor(60, 4)}, {f"{embedding}.lora_a": tensor(64, 4)}):
        make_adapter(directory / "lora", {**right, **wrong})
        with pytest.raises(AdapterMismatch):
            build(store, directory)


def test_dora_needs_its_magnitudes(store: ModelStore, directory: Path) -> None:
    make_adapter(directory / "lora", {**good(), f"{QUERY}.m": tensor(32)}, fine_tune_type="dora")
    build(store, directory)
    make_adapter(directory / "lora", {**good(), f"{QUERY}.m": tensor(64)}, fine_tune_type="dora")
    with pytest.raises(AdapterMismatch, match=r"\.m"):
        build(store, directory)
    make_adapter(directory / "lora", fine_tune_type="dora")
    with pytest.raises(AdapterInvalid, match=r"\.m.* is missing"):
        build(store, directory)


def test_a_config_written_again_is_the_same() -> None:
    plain = parse_adapter_config(json.dumps({"num_layers": -1, "lora_parameters": {"rank": 1, "scale": 2}}).encode())
    assert (plain.kind, plain.dropout, plain.keys) == ("lora", 0, None)
    for config in (plain, replace(plain, keys=("a", "b"), kind="dora", scale=0.5)):
        assert parse_adapter_config(encode_adapter_config(config)) == config


KEYS = ["num_layers", "lora_parameters", "rank", "scale", "keys", "dropout", "fine_tune_type", "peft_type"]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=20,
)


@given(st.binary(max_size=300) | values.map(lambda value: json.dumps(value).encode()))
def test_any_config_is_one_or_is_refused(data: bytes) -> None:
    try:
        config = parse_adapter_config(data)
    except BuildRefused:
        return
    assert parse_adapter_config(encode_adapter_config(config)) == config
