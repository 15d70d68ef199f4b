"""How the program starts: fast, because it loads nothing that the verb does not need."""

import subprocess
import sys

import pytest

HEAVY = {"libp2p", "mlx", "mlx_lm", "fastapi", "trio", "httpx", "keyring", "numpy", "cryptography", "psutil"}


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_little_is_imported_to_begin_with(arguments: list[str], tmp_path: object) -> None:
    program = (
        "import sys\nfrom node.cli.main import run\n"
        "try:\n    run(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print(','.join(sorted({name.partition('.')[0] for name in sys.modules})), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--home", f"{tmp_path}/home", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stderr.splitlines()[-1].split(","))
    assert loaded & HEAVY == set()


def test_options_of_every_command_may_stand_before_or_after_the_verb(tmp_path: object) -> None:
    for arguments in (["--json", "account"], ["account", "--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "node.cli.main", "--home", f"{tmp_path}/home", *arguments],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 13
        assert done.stdout.startswith('{"schema": 1, "error"')
