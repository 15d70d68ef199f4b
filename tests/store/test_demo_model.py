"""The model that ships with the program goes through the store unchanged."""

from pathlib import Path

from node.models.demo import demo_directory
from protocol.manifest import WEIGHT
from protocol.model_name import parse_model_name
from store.models import ModelStore
from store.testing import add_model

DEMO = parse_model_name("demo")


def test_the_demo_model_comes_out_as_it_went_in(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    built = add_model(store, "demo", demo_directory())
    path = store.materialize(built.manifest)
    for layer in built.layers:
        if layer.filepath not in ("Modelfile", "build.json"):
            assert (path / layer.filepath).read_bytes() == (demo_directory() / layer.filepath).read_bytes()
    assert not (path / "Modelfile").is_symlink()
    model = store.resolve(DEMO)
    assert (model.config.family, model.config.parameter_size, model.config.precision) == ("qwen3", "2.9M", "float16")
    weights = next(layer for layer in built.layers if layer.media_type == WEIGHT)
    chunk_map = store.chunk_map(weights)
    assert chunk_map is not None
    assert len(chunk_map.tensors) == 46
    assert store.verify(DEMO).blob_count == len(list(model.manifest.blobs())) + 1
    store.close()
