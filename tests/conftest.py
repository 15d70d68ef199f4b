"""What every test shares: in continuous integration a skip is a failure, because everything is installed there."""

import os
from collections.abc import Generator

import pytest
from hypothesis import settings

# The machine decides how long an example takes, and a test is no place for timing.
settings.register_profile("short", max_examples=200, deadline=None)
settings.register_profile("long", max_examples=20_000, deadline=None)
settings.load_profile("short")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where CI is set, except for what only another platform can run."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not item.get_closest_marker("platform"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be skipped: {report.longrepr}"
    return report
