"""One registry for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.node.registry.served import Registry, serving


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    with trio.fail_after(60):
        async with serving(tmp_path / "node") as registry:
            yield registry
