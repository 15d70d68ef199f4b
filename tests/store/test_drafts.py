"""DRAFT at the build: a small model is stored beside the large one, and refused where it speaks in other tokens."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.manifest import WEIGHT, WEIGHT_CONFIG
from protocol.model_name import parse_model_name
from protocol.modelfile import format_modelfile, parse_modelfile
from store.adapters import adapter_layers
from store.bases import LocalBases
from store.build import BuildRequest, BuiltModel, build_model
from store.diff import diff_models
from store.drafts import DRAFT_HERE, draft_layers
from store.errors import (
    BuildRefused,
    DraftMismatch,
    DraftUnknown,
    FormatUnsupported,
    ReleaseNotPinned,
    SafetensorsInvalid,
    SourceMissing,
    WeightsNotFinite,
)
from store.history import past_versions
from store.models import ModelStore
from store.rebuild import check_build
from store.testing import add_model, make_model_directory, make_tensors
from tests.store.test_adapters import base_tensors, make_adapter

NAME = parse_model_name("demo")
RECIPE = "FROM .\nDRAFT ./small"
TOKENIZER = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 2, "content": "<end>"}]}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ModelStore]:
    store = ModelStore(tmp_path / "store")
    yield store
    store.close()


def write_tokenizer(directory: Path, document: object = TOKENIZER, **style: Any) -> None:
    (directory / "tokenizer.json").write_text(json.dumps(document, **style))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A model, and in its folder `small` another one with the same tokens, spelled differently."""
    large = make_model_directory(tmp_path / "model", base_tensors())
    write_tokenizer(large)
    small = make_model_directory(large / "small", make_tensors(seed=9))
    write_tokenizer(small, indent=3)
    return large


def build(store: ModelStore, directory: Path, recipe: str = RECIPE, name: str = "demo") -> BuiltModel:
    return build_model(store, BuildRequest(parse_modelfile(recipe), parse_model_name(name), directory))


def test_a_draft_becomes_layers_in_a_folder_of_its_own(store: ModelStore, directory: Path) -> None:
    built = build(store, directory)
    types = {layer.filepath: layer.media_type for layer in draft_layers(built.layers)}
    assert types["draft/model.safetensors"] == WEIGHT
    assert types["draft/config.json"] == types["draft/tokenizer.json"] == WEIGHT_CONFIG
    placed = store.materialize(built.manifest) / "draft"
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (placed / name).read_bytes() == (directory / "small" / name).read_bytes()
    store.refs.set(NAME, built.manifest)
    assert store.resolve(NAME).modelfile.draft == DRAFT_HERE
    assert build(store, directory).manifest == built.manifest, "the same files give the same manifest"


def test_the_record_names_the_draft_as_a_source_of_its_own(store: ModelStore, directory: Path) -> None:
    built = build(store, directory, f"FROM .\nDRAFT {directory}/small")
    assert [source.name for source in built.recorded.sources] == [".", "./small"]
    assert "draft/model.safetensors" in {file.path for file in built.recorded.sources[1].files}
    assert "DRAFT ./small" in built.recorded.recipe
    assert str(directory) not in repr(built.record)


def test_a_model_from_one_with_a_draft_keeps_it_and_one_of_its_own_takes_its_place(
    store: ModelStore, directory: Path, tmp_path: Path
) -> None:
    add_model(store, "quick", directory, RECIPE)
    kept = build(store, directory, "FROM quick\nSYSTEM hi")
    assert draft_layers(kept.layers) == draft_layers(store.resolve(parse_model_name("quick")).layers)
    other = make_model_directory(tmp_path / "other", make_tensors(seed=4))
    write_tokenizer(other)
    built = build(store, directory, f"FROM quick\nDRAFT {other}")
    assert len(draft_layers(built.layers)) == len(draft_layers(kept.layers))
    assert draft_layers(built.layers) != draft_layers(kept.layers)


def test_a_draft_and_an_adapter_stand_beside_each_other(store: ModelStore, directory: Path) -> None:
    make_adapter(directory / "lora")
    built = build(store, directory, "FROM .\nADAPTER ./lora\nDRAFT ./small")
    assert len(adapter_layers(built.layers)) == 2
    assert draft_layers(built.layers)
    assert [source.name for source in built.recorded.sources] == [".", "./lora", "./small"]
    add_model(store, "both", directory, "FROM .\nADAPTER ./lora\nDRAFT ./small")
    again = build(store, directory, "FROM .\nDRAFT both")
    assert not adapter_layers(again.layers), "of a stored model only what generates is taken"
    assert {layer.filepath for layer in draft_layers(again.layers)} >= {"draft/config.json", "draft/model.safetensors"}


def test_a_stored_model_and_the_embedded_one_can_draft(store: ModelStore, directory: Path) -> None:
    add_model(store, "small", directory / "small")
    assert draft_layers(build(store, directory, "FROM .\nDRAFT small").layers)
    bases = LocalBases({"pocket": directory / "small"})
    request = BuildRequest(parse_modelfile("FROM .\nDRAFT pocket"), NAME, directory)
    assert draft_layers(build_model(store, request, bases=bases).layers)


@pytest.mark.parametrize("recipe", [RECIPE, "FROM .\nDRAFT small", "FROM small\nDRAFT small"])
def test_a_model_with_a_draft_is_built_again_to_the_bit(store: ModelStore, directory: Path, recipe: str) -> None:
    if "small\n" in f"{recipe}\n":
        add_model(store, "small", directory / "small")
    built = build(store, directory, recipe)
    store.refs.set(NAME, built.manifest)
    shutil.rmtree(directory)
    report = check_build(store, NAME, bases=LocalBases(), convert=None, report=lambda event: None)
    assert report.same, report.differences


def test_a_difference_and_the_history_tell_of_the_draft(store: ModelStore, directory: Path) -> None:
    first = add_model(store, "demo", directory, "FROM .")
    second = add_model(store, "demo", directory, RECIPE)
    versions = past_versions(store, NAME)
    assert versions[-1].what == "draft+recipe"
    told = diff_models(store, versions[0].version.digest, versions[1].version.digest)
    assert {change.name.partition("/")[0] for change in told.tensors} == {"draft"}
    assert "+DRAFT ./draft" in told.recipe
    assert "draft/config.json" in {change.file for change in told.files}
    assert first != second


def tokens(**changes: object) -> Callable[[Path], object]:
    return lambda small: write_tokenizer(small, {**TOKENIZER, **changes})


def only_a_word_piece_list(small: Path) -> None:
    (small / "tokenizer.json").unlink()
    (small / "vocab.txt").write_text("a\nb\n")


REFUSED: list[tuple[str, Callable[[Path], object], type[BuildRefused] | type[SafetensorsInvalid], str]] = [
    ("another word", tokens(model={"vocab": {"a": 0, "c": 1}}), DraftMismatch, "token 1 is 'c', .* 'b'"),
    ("a word more", tokens(model={"vocab": {"a": 0, "b": 1, "c": 3}}), DraftMismatch, "token 3 is 'c', .* none"),
    ("a word less", tokens(added_tokens=[]), DraftMismatch, "token 2 is none, of the model it is '<end>'"),
    ("no words", tokens(model={}, added_tokens=[]), DraftMismatch, "without a vocabulary"),
    ("no JSON", lambda small: (small / "tokenizer.json").write_text("{"), DraftMismatch, "tokenizer.json"),
    ("another kind of tokenizer", only_a_word_piece_list, DraftMismatch, "vocab.txt, the model's tokenizer.json"),
    ("no tokenizer", lambda small: (small / "tokenizer.json").unlink(), SourceMissing, "tokenizer"),
    ("no weights", lambda small: (small / "model.safetensors").unlink(), SourceMissing, "model.safetensors"),
    ("pickled weights", lambda small: (small / "pytorch_model.bin").touch(), FormatUnsupported, "pickled"),
    (
        "cut off",
        lambda small: (small / "model.safetensors").write_bytes((small / "model.safetensors").read_bytes()[:-1]),
        SafetensorsInvalid,
        "cut off",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "error", "says"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_cannot_draft_is_refused_and_leaves_nothing_behind(
    store: ModelStore, directory: Path, spoil: Callable[[Path], object], error: type[BuildRefused], says: str
) -> None:
    spoil(directory / "small")
    with pytest.raises(error, match=says) as caught:
        build(store, directory)
    assert caught.value.hint
    assert list(store.blobs.list()) == []


def test_weights_that_are_no_numbers_are_refused(store: ModelStore, directory: Path) -> None:
    data = bytearray((directory / "small" / "model.safetensors").read_bytes())
    data[-2:] = b"\xff\x7f"
    (directory / "small" / "model.safetensors").write_bytes(data)
    with pytest.raises(WeightsNotFinite):
        build(store, directory)


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "~nobody-of-that-name/x"])
def test_a_draft_that_is_nowhere_is_named(store: ModelStore, directory: Path, name: str) -> None:
    with pytest.raises(DraftUnknown, match="DRAFT") as caught:
        build(store, directory, f"FROM .\nDRAFT {name}")
    assert caught.value.hint


def test_a_release_pins_its_draft_too(store: ModelStore, directory: Path) -> None:
    class Elsewhere:
        def owns(self, name: str) -> bool:
            return name.startswith("hf:")

        may_have = owns

    recipe = parse_modelfile("FROM .\nDRAFT hf:a/b")
    request = BuildRequest(recipe, parse_model_name("demo@1"), directory)
    with pytest.raises(ReleaseNotPinned):
        build_model(store, request, bases=LocalBases(remotes=(Elsewhere(),)))  # type: ignore[arg-type]  # asked no more


def test_other_kinds_of_tokenizers_must_be_the_same_to_the_byte(store: ModelStore, directory: Path) -> None:
    for place in (directory, directory / "small"):
        (place / "tokenizer.json").unlink()
        (place / "tokenizer.model").write_bytes(b"pieces")
    build(store, directory)
    (directory / "small" / "tokenizer.model").write_bytes(b"others")
    with pytest.raises(DraftMismatch, match=r"tokenizer\.model"):
        build(store, directory)


def test_the_stored_recipe_reads_back() -> None:
    recipe = parse_modelfile("FROM .\nDRAFT ./draft\n")
    assert format_modelfile(recipe) == "FROM .\nDRAFT ./draft\n"
