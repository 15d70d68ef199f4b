"""schemathesis, told only where the API's description lies, finds no request that the node fails at."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.nodes import started

pytestmark = [pytest.mark.processes, pytest.mark.model, pytest.mark.timeout(600)]

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def test_no_request_makes_the_node_fail_and_every_answer_is_as_described(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", "--no-color", "--checks", CHECKS]
    command += ["--phases", "examples,fuzzing", "--max-examples", "8", "--max-time", "120", "--workers", "1"]
    command += ["--generation-deterministic", "--request-timeout", "60", "--continue-on-failure"]
    # They would ask registries elsewhere for random names.
    command += ["--exclude-path-regex", "/api/(pull|push)", "--suppress-health-check", "all"]
    with started(tmp_path, "ann") as (ann,):
        url = f"{ann.ready['api']}/openapi.json"
        done = subprocess.run([*command, url], capture_output=True, text=True, cwd=tmp_path)
        assert ann.command("status")["running"] is True
    assert done.returncode == 0, done.stdout[-6000:]
