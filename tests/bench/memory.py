"""Memory while a large layer is built, pushed and pulled: the peak of the real processes, above what they need idle."""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from node.cli.demo_node import DemoNode
from node.config import Home
from tests.bench.random_model import copy_description
from tests.bench.run import ROOT, CannotMeasure, Run
from tests.bench.table import Row, Unmeasured
from tests.bench.weights import write_weights
from tests.store.registry.docker_registry import is_installed, open_registry

MODEL = "large"
BUDGET_MB = 300.0
COPIES = 4.5
"""The file, two stores and a registry, and what is being received."""
BUILD = """
import sys
from pathlib import Path
from protocol.model_name import parse_model_name
from protocol.modelfile import parse_modelfile
from store.build import BuildRequest, build_model
from store.models import ModelStore
store = ModelStore(Path(sys.argv[1]))
request = BuildRequest(parse_modelfile("FROM ."), parse_model_name("large"), Path(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
built = build_model(store, request)
print("done", flush=True)
sys.stdin.readline()
"""


class Watch:
    """The memory of one process from now on: its own high-water mark, which misses nothing between two looks."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._idle_mb = _memory_mb(pid, "VmRSS")
        self.begin()

    def begin(self) -> None:
        """Forget the peak until now; what is idle stays what it was at first, so that nothing kept since is hidden."""
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")

    def over_idle_mb(self) -> float:
        """How far the peak since the last beginning was above what was resident at first."""
        return peak_memory_mb(self._pid) - self._idle_mb


def peak_memory_mb(pid: int) -> float:
    """The most that the process has had resident."""
    return _memory_mb(pid, "VmHWM")


def _memory_mb(pid: int, field: str) -> float:
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        raise CannotMeasure("peaks of memory are read from /proc, which is not here")
    for line in status.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise CannotMeasure(f"{status} does not say {field}")


def measure(run: Run) -> Iterator[Row | Unmeasured]:
    """Build in a process of its own, then create, push, pull on two nodes, and from one to the other."""
    size = run.sizes.layer_bytes
    free = shutil.disk_usage(run.scratch).free
    if free < COPIES * size + (1 << 30):
        raise CannotMeasure(f"needs {COPIES * size / 1e9:.0f} GB of disk, {free / 1e9:.0f} GB are free")
    directory = run.scratch / "large-model"
    run.progress(f"making a model of {size / 1e9:.3g} GB")
    copy_description(directory, {})
    write_weights(directory / "model.safetensors", size)
    run.progress("building it in a process of its own")
    yield _row(run, "built", build(run.scratch / "build-store", directory), "store.build in a process of its own")
    first, second = run.nodes
    watches = {node.nickname: Watch(int(node.ready["pid"])) for node in run.nodes}
    recipe = directory.with_suffix(".Modelfile")
    recipe.write_text(f"FROM {directory}\n")
    run.progress("creating it on a node")
    [grown] = _peaks(watches, [first], first, "create", MODEL, "-f", str(recipe))
    yield _row(run, "created on a node", grown, "the node's process")
    run.progress("pulling it from the other node")
    served, fetched = _peaks(watches, [first, second], second, "pull", MODEL, "--from", first.nickname)
    yield _row(run, "given to a peer", served, "the node's process")
    yield _row(run, "pulled from a peer", fetched, "the node's process")
    second.command("rm", MODEL)
    yield from _registry_rows(run, watches, first, second)
    first.command("rm", MODEL)
    shutil.rmtree(directory)


def build(store: Path, directory: Path) -> float:
    """MB that a process grows by while it builds the model in `directory`."""
    command = [sys.executable, "-c", BUILD, str(store), str(directory)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise CannotMeasure("the building process did not start")
        watch = Watch(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        if process.stdout.readline() != "done\n":
            raise CannotMeasure("the build failed")
        grown = watch.over_idle_mb()
        process.stdin.close()
    shutil.rmtree(store)
    return grown


def _registry_rows(
    run: Run, watches: Mapping[str, Watch], first: DemoNode, second: DemoNode
) -> Iterator[Row | Unmeasured]:
    if not is_installed():
        yield Unmeasured("memory, registry", "docker-registry is not installed: apt install docker-registry")
        return
    with _registry(run.scratch / "registry") as host:
        place = f"{host}/bench/{MODEL}:latest"
        run.progress("pushing it to a docker-registry")
        [grown] = _peaks(watches, [first], first, "push", MODEL, place)
        yield _row(run, "pushed to a registry", grown, "the node's process, docker-registry 2.8")
        run.progress("pulling it from there")
        blobs = Home(second.home, second.home).store / "blobs" / "sha256"
        held = sum(blob.stat().st_size for blob in blobs.iterdir())
        if held > run.sizes.layer_bytes / 2:
            raise CannotMeasure("the node that is to pull from the registry holds the layer still")
        [grown] = _peaks(watches, [second], second, "pull", place)
        yield _row(run, "pulled from a registry", grown, "the node's process, docker-registry 2.8")
        second.command("rm", place)


@contextmanager
def _registry(directory: Path) -> Iterator[str]:
    with open_registry(directory) as registry:
        yield registry.host
    shutil.rmtree(directory)


def _peaks(watches: Mapping[str, Watch], watched: list[DemoNode], node: DemoNode, *words: str) -> list[float]:
    """The peaks of the nodes `watched` while `node` is given a command."""
    for each in watched:
        watches[each.nickname].begin()
    node.command(*words)
    return [watches[each.nickname].over_idle_mb() for each in watched]


def _row(run: Run, what: str, grown_mb: float, remark: str) -> Row:
    figure = f"memory over idle, {run.sizes.layer_bytes / 1e9:.3g} GB {what}"
    return Row(figure, grown_mb, "MB", "lower", "budget", BUDGET_MB, remark, None if run.sizes.quick else 1.0)
