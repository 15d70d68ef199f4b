"""What the worker process gives up, seen from within a process that gave it up."""

import subprocess
import sys

import pytest

PREAMBLE = "from node.models.confinement import confine; notes = confine()\n"


def confined(code: str) -> str:
    done = subprocess.run([sys.executable, "-I", "-c", PREAMBLE + code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.create_connection(('127.0.0.1', 1))",
        "import socket; socket.getaddrinfo('localhost', 80)",
        "import socket; socket.socket().bind(('127.0.0.1', 0))",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
        "import os; os.execv('/bin/true', ['true'])",
    ],
)
def test_python_code_opens_no_connection_and_starts_no_program(code: str) -> None:
    assert "is not allowed in the model worker" in confined(code)


def test_no_core_is_dumped() -> None:
    assert confined("import resource; print(resource.getrlimit(resource.RLIMIT_CORE))") == "(0, 0)"


def test_files_can_still_be_made() -> None:
    assert confined("import tempfile; print(tempfile.TemporaryFile().write(b'x'))") == "1"


@pytest.mark.platform
@pytest.mark.skipif("sys.platform != 'linux'", reason="only Linux has network namespaces")
def test_no_network_is_left_or_a_note_says_so() -> None:
    seen = confined("print(notes, [line.split(':')[0].strip() for line in open('/proc/net/dev')][2:])")
    assert seen == "() ['lo']" or "no empty network namespace" in seen


@pytest.mark.platform
@pytest.mark.skipif("sys.platform != 'linux'", reason="only Linux ends processes where memory runs out")
def test_it_goes_first_where_memory_runs_out_or_a_note_says_so() -> None:
    code = "import os; print(notes, open(f'/proc/{os.getpid()}/oom_score_adj').read().strip())"
    seen = confined(code)
    assert seen.endswith(" 800") or "instead of the worker" in seen
