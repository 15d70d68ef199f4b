"""A thousand SIGKILLs, and calls that fail, at random disk calls of the store's operations; `make soak` is longer."""

import platform
import sys

import pytest

from tests.faults.surroundings import run_loop
from tests.store.registry.docker_registry import NEEDED, is_installed

SEED = 20261121
OPERATIONS = {"create", "rm", "gc", "verify", "set-path", "pull"}

pytestmark = [
    pytest.mark.platform,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="reads the registers of Linux on x86_64"
    ),
    pytest.mark.skipif(not is_installed(), reason=f"needs docker-registry: {NEEDED}"),
]


def test_nothing_that_was_acknowledged_is_lost_by_a_thousand_kills() -> None:
    result = run_loop(1000, SEED)
    assert sum(result["faults"].values()) == 1000
    assert set(result["faults"]) == OPERATIONS
    assert {"rename", "fsync", "write", "unlink"} <= set(result["at"])


def test_a_disk_that_refuses_costs_a_named_error_and_nothing_else() -> None:
    result = run_loop(200, SEED, errors=True)
    assert set(result["faults"]) == OPERATIONS
    assert {"rename", "fsync", "pwrite64", "unlink"} <= set(result["at"])
