"""LangChain's integration suite for chat models, through ChatOpenAI, on a real node."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.nodes import started

pytestmark = [pytest.mark.processes, pytest.mark.model, pytest.mark.timeout(600)]

SUITE = Path(__file__).with_name("langchain_openai_chat.py")
# One event loop for all tests: ChatOpenAI keeps one client for all its objects.
SETTINGS = """[pytest]
asyncio_mode = auto
asyncio_default_test_loop_scope = session
asyncio_default_fixture_loop_scope = session
"""


@pytest.mark.parametrize("api", ["TestChatCompletions", "TestResponses"])
def test_langchains_suite(api: str, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(tmp_path / "pytest.ini"), f"{SUITE}::{api}"]
    command += ["-p", "no:trio", "-p", "no:cacheprovider", "--import-mode=importlib"]
    with started(tmp_path, "ann") as (ann,):
        # Without CI: what may not be skipped is said below, and not to this suite.
        environment = {**os.environ, "TILENODE_API": ann.ready["api"], "CI": ""}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    # What is skipped needs pictures, sounds, documents, or recordings of another server.
    assert "39 passed, 8 skipped, 6 xfailed" in done.stdout, done.stdout[-2000:]
