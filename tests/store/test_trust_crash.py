"""SIGKILL before every flush, rename and removal: a real process is killed there, and the next one finds all that
was promised and nothing that contradicts it."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from protocol.digest import digest_of
from protocol.model_name import parse_model_name
from protocol.provenance import decode_and_verify_provenance
from protocol.testing import small_manifest
from protocol.tlog import check_consistency
from store.evidence import SeenLogs
from store.provenance import ProvenanceFiles

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).parent / "trust_writer.py"
CALLS = ("fsync", "replace", "unlink", "mkdir", "rmdir")
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "PATH": os.environ["PATH"]}
MAX_POINTS = 100


def load_writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("trust_writer", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["trust_writer"] = module
    spec.loader.exec_module(module)
    return module


WRITER = load_writer()


class Killer:
    """Runs writers in children of one process that has loaded everything, and kills them where it is told."""

    def __init__(self) -> None:
        command = [sys.executable, str(PROGRAM), "jobs"]
        self._process = subprocess.Popen(
            command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, kind: str, directory: Path, call: str, point: int) -> tuple[bool, list[Any]]:
        """Run a writer until its `point`-th `call`; return whether it came to that, and what it had promised."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([kind, str(directory), call, point]) + "\n")
        self._process.stdin.flush()
        promises: list[Any] = []
        for line in self._process.stdout:
            match json.loads(line):
                case {"status": int(status)}:
                    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
                    return status != 0, promises
                case promise:
                    promises.append(promise)
        raise AssertionError("the writers' parent is gone")

    def close(self) -> None:
        """Let the process end, and wait for it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    killer = Killer()
    yield killer
    killer.close()


def every_point(
    killer: Killer, kind: str, prepare: Callable[[Path], None], directory: Path
) -> Iterator[tuple[Path, list[Any]]]:
    """Yield (directory, promises) after a kill at each point in turn, and after none."""
    start = directory / "start"
    start.mkdir()
    prepare(start)
    kills = 0
    for call in CALLS:
        for point in range(1, MAX_POINTS):
            copy = directory / f"{call}-{point}"
            shutil.copytree(start, copy)
            killed, promises = killer.run(kind, copy, call, point)
            yield copy, promises
            shutil.rmtree(copy)
            kills += killed
            if not killed:
                break
        else:
            raise AssertionError(f"more than {MAX_POINTS} points at {call}")
    assert kills > 15


def with_a_log(directory: Path) -> None:
    WRITER.open_log(directory).append([WRITER.entry(number) for number in range(WRITER.START)])


def with_blobs(directory: Path) -> None:
    blobs, _ = WRITER.open_store(directory)
    for content in (b"{}", *WRITER.MODELS.values(), *(small_manifest(weights) for weights in WRITER.MODELS.values())):
        blobs.publish_bytes(content)


@pytest.mark.parametrize("prepare", [with_a_log, lambda directory: None], ids=["over-a-tile-edge", "from-nothing"])
def test_an_append_is_there_or_not(killer: Killer, prepare: Callable[[Path], None], tmp_path: Path) -> None:
    for directory, promises in every_point(killer, "append", prepare, tmp_path):
        require_whole(directory, promises)


def require_whole(directory: Path, promises: list[Any]) -> None:
    log = WRITER.open_log(directory)
    assert log.rolled_back is None
    assert log.root == WRITER.root_of(log.size)
    for size, root in promises:
        assert log.size >= size
        check_consistency(size, bytes.fromhex(root), log.size, log.root, log.consistency_proof(size, log.size))
    summary = log.verify()
    assert WRITER.FileGuard(directory / "guard").read() == (summary.size, summary.root)
    assert log.append([WRITER.entry(log.size)]) == range(summary.size, summary.size + 1)
    assert log.verify().size == summary.size + 1


def test_the_newest_checkpoint_of_a_peer_is_there_or_the_one_before(killer: Killer, tmp_path: Path) -> None:
    for directory, promises in every_point(killer, "follow", lambda directory: None, tmp_path):
        seen = SeenLogs(directory / "evidence")
        latest = seen.latest(WRITER.OTHER.key.did)
        size = latest.size if latest else 0
        assert size >= max([0, *promises])
        assert seen.origins() == ([WRITER.OTHER.key.did] if latest else [])
        seen.advance(WRITER.OTHER.checkpoint(9), WRITER.OTHER.key.did, WRITER.OTHER.consistency(size, 9))


def test_a_name_never_stands_for_a_model_without_provenance(killer: Killer, tmp_path: Path) -> None:
    for directory, promises in every_point(killer, "publish", with_blobs, tmp_path):
        log = WRITER.open_log(directory)
        assert log.rolled_back is None
        log.verify()
        blobs, refs = WRITER.open_store(directory)
        for text, weights in WRITER.MODELS.items():
            manifest = refs.get(parse_model_name(text))
            if manifest is None:
                assert text not in promises
                continue
            assert manifest == digest_of(small_manifest(weights))
            bundle = ProvenanceFiles(blobs.layout).load(manifest, name=text)
            assert bundle is not None
            provenance = decode_and_verify_provenance(bundle)
            proof = log.consistency_proof(provenance.log_size, log.size)
            check_consistency(provenance.log_size, provenance.log_root, log.size, log.root, proof)


@pytest.mark.skipif(shutil.which("strace") is None, reason="install strace (Debian: apt-get install strace)")
@(pytest.mark.platform if sys.platform != "linux" else pytest.mark.timeout(180))
@pytest.mark.parametrize(("call", "point"), [("fsync", 4), ("fsync", 9), ("fsync", 16), ("rename", 2), ("rename", 4)])
def test_the_kernels_own_count_agrees(call: str, point: int, tmp_path: Path) -> None:
    """The same with the kill inside the system call, where no Python hook can have missed one."""
    command = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={call}"]
    command += ["-e", f"inject={call}:signal=SIGKILL:when={point}", sys.executable, str(PROGRAM), "append"]
    done = subprocess.run([*command, str(tmp_path)], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), done.stderr
    require_whole(tmp_path, [json.loads(line) for line in done.stdout.splitlines()])
