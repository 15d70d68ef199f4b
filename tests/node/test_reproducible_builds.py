"""One recipe and one set of files give one manifest, whatever else is different; each build runs in its own process."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from node.models.demo import WEIGHT_FILES, demo_directory

pytestmark = pytest.mark.model

RECIPE = 'FROM ./model\nSYSTEM """be brief\nand kind"""\nPARAMETER temperature 0\nMIR mir:model.transformer.demo:base\n'

# Builds with the clock and the order of directories that it is told; prints the manifest, what build.json says, and
# the digest of every layer.
BUILDER = """
import json, os, sys, time
from pathlib import Path
import trio

home, quantization, offset_s, backwards = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4] == "1"
real_time, real_scandir, real_listdir = time.time, os.scandir, os.listdir
time.time = lambda: real_time() + offset_s
if backwards:
    os.scandir = lambda *a: _Backwards(real_scandir(*a))
    os.listdir = lambda *a: list(reversed(real_listdir(*a)))

class _Backwards:
    def __init__(self, entries):
        with entries:
            self._entries = iter(list(entries)[::-1])
    def __iter__(self):
        return self._entries
    def __next__(self):
        return next(self._entries)
    def __enter__(self):
        return self
    def __exit__(self, *_):
        return None
    def close(self):
        return None

from node.models.conversion import Conversion
from node.threads import Threads
from protocol.model_name import parse_model_name
from protocol.modelfile import parse_modelfile
from protocol.quantization import Quantization
from store.build import BuildRequest, build_model
from store.models import ModelStore

async def main():
    async def emit(event):
        pass
    store = ModelStore(home / "store")
    request = BuildRequest(
        parse_modelfile((home / "Modelfile").read_text()), parse_model_name("x"), home,
        quantization=Quantization(quantization),
    )
    conversion = Conversion(emit)
    built = await Threads().reporting(
        lambda report: build_model(store, request, convert=conversion, report=report), emit
    )
    layers = {layer.filepath: layer.digest for layer in built.layers}
    print(json.dumps([built.manifest, layers, store.blobs.read(layers["build.json"], 1 << 20).decode()]))

trio.run(main)
"""


@dataclass(frozen=True)
class Surroundings:
    """What may differ from one build to the next."""

    place: str
    environment: dict[str, str] = field(default_factory=dict)
    umask: int = 0o022
    clock_s: float = 0.0
    backwards: bool = False
    names: tuple[str, ...] = WEIGHT_FILES
    mode: int = 0o644
    modified_s: int = 1_700_000_000


SURROUNDINGS = {
    "place": Surroundings("some/where/else entirely"),
    "time zone": Surroundings("b", {"TZ": "Asia/Kathmandu"}),
    "locale": Surroundings("b", {"LC_ALL": "C", "LANG": "tr_TR.UTF-8"}),
    "umask": Surroundings("b", umask=0o077),
    "hash seed": Surroundings("b", {"PYTHONHASHSEED": "4242"}),
    "order of the directory": Surroundings("b", backwards=True, names=tuple(reversed(WEIGHT_FILES))),
    "clock": Surroundings("b", clock_s=400 * 86_400.0),
    "times and rights of the files": Surroundings("b", mode=0o400, modified_s=1),
    "user's directories": Surroundings("b", {"HOME": "/nonexistent", "TMPDIR": "/var/tmp", "XDG_CACHE_HOME": "/x"}),
    "number of threads": Surroundings("b", {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}),
}


def build(root: Path, quantization: str, around: Surroundings) -> tuple[str, dict[str, str], str]:
    home = root / around.place
    (home / "model").mkdir(parents=True)
    for name in around.names:
        path = home / "model" / name
        shutil.copyfile(demo_directory() / name, path)
        path.chmod(around.mode)
        os.utime(path, (around.modified_s, around.modified_s))
    (home / "Modelfile").write_text(RECIPE)
    command = [sys.executable, "-c", BUILDER, str(home), quantization, str(around.clock_s), str(int(around.backwards))]
    environment = {"PATH": os.defpath, "PYTHONHASHSEED": "0", "TZ": "UTC", **around.environment}
    done = subprocess.run(command, env=environment, umask=around.umask, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    manifest, layers, record = json.loads(done.stdout)
    return manifest, layers, record


@pytest.fixture(scope="module", params=["none", "int4"])
def quantization(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def expected(quantization: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str], str]:
    return build(tmp_path_factory.mktemp("first"), quantization, Surroundings("a"))


@pytest.mark.parametrize("different", SURROUNDINGS)
def test_another_one_does_not_matter(
    quantization: str, expected: tuple[str, dict[str, str], str], tmp_path: Path, different: str
) -> None:
    assert build(tmp_path, quantization, SURROUNDINGS[different]) == expected


def test_what_is_recorded_names_nothing_of_this_machine(expected: tuple[str, dict[str, str], str]) -> None:
    _, _, record = expected
    assert os.uname().nodename not in record
    assert "/tmp" not in record
    assert json.loads(record)["created"] == "1970-01-01T00:00:00Z"
