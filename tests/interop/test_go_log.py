"""An exported log passes Go's own golang.org/x/mod/sumdb/{tlog,note}: another project, another language."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from identity.secrets import LogGuard
from identity.testing import MemorySecretStore, key_from_number, secrets_from_number
from store.log import Log

GOPATH = Path("/usr/share/gocode")
SOURCE = Path(__file__).parent / "go_log.go"
SIZES = (0, 1, 255, 256, 257, 1000)

pytestmark = pytest.mark.skipif(
    shutil.which("go") is None or not (GOPATH / "src/golang.org/x/mod/sumdb/tlog").is_dir(),
    reason="install Go and its module library (Debian: apt-get install golang-go golang-golang-x-mod-dev)",
)


@pytest.fixture(scope="module")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("go")
    program = directory / "go_log"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "GOCACHE": str(directory / "cache"),
        "GOPATH": str(GOPATH),
        "GO111MODULE": "off",
        "GOFLAGS": "",
        "CGO_ENABLED": "0",
    }
    command = ["go", "build", "-o", str(program), str(SOURCE)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    return program


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Path]]:
    """Return the log's verifier key and its export at each size."""
    directory = tmp_path_factory.mktemp("logs")
    secrets = secrets_from_number(1)
    log = Log.open(directory / "log", key_from_number(1), LogGuard(MemorySecretStore(secrets), secrets))
    exports = []
    for size in SIZES:
        # Once one by one, once in a batch that crosses a tile, with entries of many lengths.
        if size < 255:
            for number in range(log.size, size):
                log.append([entry(number)])
        else:
            log.append([entry(number) for number in range(log.size, size)])
        assert log.size == size
        exports.append(directory / f"export-{size}")
        log.export(exports[-1])
    return log.verifier_key, exports


def entry(number: int) -> bytes:
    return bytes([number % 251]) * (number % 300)


def run(verifier: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([verifier, *arguments], capture_output=True, text=True, timeout=60)


def test_every_size_passes(verifier: Path, exported: tuple[str, list[Path]]) -> None:
    key, exports = exported
    done = run(verifier, key, *exports)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [int(line.split()[1].rstrip(":")) for line in lines] == list(SIZES)
    assert int(lines[-1].split()[2]) > 30


def test_the_verifier_can_fail(verifier: Path, exported: tuple[str, list[Path]], tmp_path: Path) -> None:
    key, exports = exported
    for number, (name, position) in enumerate(
        [
            ("checkpoint", -20),
            ("tile/0/000", 40),
            ("tile/0/003.p/232", 5),
            ("tile/entries/001", 700),
            ("tile/1/000.p/3", 1),
        ]
    ):
        broken = tmp_path / str(number)
        shutil.copytree(exports[-1], broken)
        content = bytearray((broken / name).read_bytes())
        content[position] ^= 1
        (broken / name).write_bytes(content)
        assert run(verifier, key, broken).returncode == 1, name


def test_another_key_is_refused(verifier: Path, exported: tuple[str, list[Path]], tmp_path: Path) -> None:
    secrets = secrets_from_number(2)
    other = Log.open(tmp_path / "log", key_from_number(2), LogGuard(MemorySecretStore(secrets), secrets))
    assert run(verifier, other.verifier_key, exported[1][-1]).returncode == 1


def test_a_forked_log_is_not_consistent(verifier: Path, exported: tuple[str, list[Path]], tmp_path: Path) -> None:
    key, exports = exported
    secrets = secrets_from_number(1)
    forked = Log.open(tmp_path / "log", key_from_number(1), LogGuard(MemorySecretStore(secrets), secrets))
    forked.append([b"other", *(entry(number) for number in range(1, 300))])
    forked.export(tmp_path / "export")
    assert run(verifier, key, tmp_path / "export").returncode == 0
    done = run(verifier, key, exports[3], tmp_path / "export")
    assert done.returncode == 1
    assert "consistency with 256" in done.stdout
