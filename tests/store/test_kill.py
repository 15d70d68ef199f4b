"""SIGKILL at injected system calls: whatever was acknowledged is there and whole, and nothing else gets in the way."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.digest import Digest
from protocol.model_name import parse_model_name
from store.models import ModelStore
from store.partial import PartialLayer
from store.testing import add_model, make_model_directory, make_tensors

ROUNDS = 3

# Builds and names three models, fetches a layer chunk by chunk into a second store, removes the first model. Says on
# stdout what is done, and only after it is.
WORKER = f"""
import sys
from pathlib import Path
from protocol.model_name import parse_model_name
from store.models import ModelStore
from store.partial import PartialLayer
from store.testing import add_model

def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")
    sys.stdout.flush()

root = Path(sys.argv[1])
store, second = ModelStore(root / "store"), ModelStore(root / "second")
say("started")
for number in range({ROUNDS}):
    built = add_model(store, f"m{{number}}", root / f"source{{number}}", f"FROM .\\nSYSTEM {{number}}")
    say("named", f"m{{number}}", built.manifest)
model = store.resolve(parse_model_name("m2"))
layer = model.manifest.layer("model.safetensors")
chunk_map = store.chunk_map(layer)
with PartialLayer.open(second, layer.digest, layer.size, chunk_map) as partial:
    for index in partial.missing():
        partial.write_chunk(index, store.blobs.read_chunks(chunk_map, index, 1))
        partial.sync()
        say("chunk", index)
    partial.finish()
say("finished", layer.digest)
store.materialize(model.digest)
store.remove(parse_model_name("m0"))
say("removed", "m0")
"""

RENAMES = "rename,renameat,renameat2"
FLUSHES = "fsync,fdatasync"
REMOVALS = "unlink,unlinkat"
CASES = [
    *[(FLUSHES, when) for when in (1, 4, 17, 30, 55, 60, 90, 110)],
    *[(RENAMES, when) for when in (1, 7, 9, 11, 20, 33, 36)],
    *[("fchmod", when) for when in (3, 8)],
    *[(REMOVALS, when) for when in (10, 62, 64)],
    ("pwrite64", 95),
    ("ftruncate", 5),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(ROUNDS):
        tensors = make_tensors(seed=0) | {"changed": make_tensors(seed=number)["model.embed_tokens.weight"]}
        make_model_directory(tmp_path / f"source{number}", tensors)
    return tmp_path


def run_until_killed(root: Path, inject: str) -> tuple[int, list[list[str]]]:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is missing (Debian: apt install strace)")
    command = [strace, "-f", "-qq", "-o", "/dev/null", "-e", f"trace={inject.split(':')[0]}"]
    command += ["-e", f"inject={inject}", sys.executable, "-c", WORKER, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    lines = done.stdout.splitlines() if done.stdout.endswith("\n") else done.stdout.splitlines()[:-1]
    assert done.returncode != 1, done.stderr
    return done.returncode, [line.split() for line in lines]


def check(root: Path, said: list[list[str]]) -> None:
    """Everything that was said holds, everything that is there is whole, and work goes on."""
    store, second = ModelStore(root / "store"), ModelStore(root / "second")
    store.tidy()
    removed = {words[1] for words in said if words[0] == "removed"}
    # The removal itself can be what was killed: from then on m0 may be there or not.
    open_end = {"m0"} if any(words[0] == "finished" for words in said) else set()
    for words in said:
        if words[0] == "named" and words[1] not in open_end:
            assert store.verify(parse_model_name(words[1])).digest == words[2]
        elif words[0] == "finished":
            assert second.blobs.verify(Digest(words[1])) > 0
    assert store.problems() == []
    assert not removed & {model.name.name for model in store.list()}
    for model in store.list():
        store.verify(model.name)
        store.materialize(model.digest)
    for blobs in (store.blobs, second.blobs):
        for digest in blobs.list():
            blobs.verify(digest)
    assert list(store.layout.quarantine.iterdir()) == []
    assert list(store.layout.temporary.iterdir()) == []
    check_partial(store, second, {int(words[1]) for words in said if words[0] == "chunk"})
    add_model(store, "after", root / "source1")
    assert store.verify(parse_model_name("after"))
    store.close()
    second.close()


def check_partial(store: ModelStore, second: ModelStore, synced: set[int]) -> None:
    models = {model.name.name: model for model in store.list()}
    if "m2" not in models:
        return
    layer = models["m2"].manifest.layer("model.safetensors")
    assert layer is not None
    chunk_map = store.chunk_map(layer)
    assert chunk_map is not None
    if second.blobs.has(layer.digest):
        return
    with PartialLayer.open(second, layer.digest, layer.size, chunk_map) as partial:
        missing = partial.missing()
        assert not synced & set(missing)
        for index in missing:
            partial.write_chunk(index, store.blobs.read_chunks(chunk_map, index, 1))
        partial.finish()
    assert second.blobs.verify(layer.digest) == layer.size


def test_without_a_kill_everything_is_said_and_done(root: Path) -> None:
    code, said = run_until_killed(root, "fsync:signal=SIGKILL:when=65535")
    assert code == 0
    kinds = [words[0] for words in said]
    assert kinds.count("named") == ROUNDS
    assert kinds[-1] == "removed"
    assert "chunk" in kinds
    check(root, said)


@pytest.mark.parametrize(("calls", "when"), CASES, ids=lambda value: str(value))
def test_a_kill_at_any_system_call_loses_nothing_acknowledged(root: Path, calls: str, when: int) -> None:
    code, said = run_until_killed(root, f"{calls}:signal=SIGKILL:when={when}")
    assert code != 0, f"the run was over before call {when}"
    check(root, said)
