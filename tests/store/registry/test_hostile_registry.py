"""A registry that lies, floods, stalls and leads astray: a named error each time, in bounded memory and time."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from protocol.errors import ManifestInvalid, RegistryAnswerInvalid
from protocol.model_name import parse_model_name
from protocol.registry import parse_reference
from store.errors import DiskFull, LayerCorrupt, StoreError
from store.models import ModelStore
from store.registry.credentials import Login
from store.registry.errors import (
    AnswerMismatch,
    AnswerTooLarge,
    ContentEncoded,
    IndexAmbiguous,
    RedirectRefused,
    RegistryRefused,
    RegistryStalled,
    RegistryUnreachable,
)
from store.registry.layers import Event
from store.registry.pull import PullReport, pull_model
from store.registry.session import Pace

SERVER = Path(__file__).parent / "hostile_registry.py"
NAME = parse_model_name("demo")
QUICK = Pace(connect_s=5.0, idle_s=2.5, small_s=3.0, attempts=2, first_pause_s=0.01)
LOGIN = Login("ann", "canary of a password")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of the hostile registry, a process of its own."""
    process = subprocess.Popen([sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdin is not None
    yield int(process.stdout.readline())
    process.stdin.close()
    process.wait()
    process.stdout.close()


def pull(port: int, repository: str, store: ModelStore, events: list[Event] | None = None) -> PullReport:
    reference = parse_reference(f"127.0.0.1:{port}/{repository}")
    told = [] if events is None else events
    return pull_model(store, reference, NAME, report=told.append, login=LOGIN, pace=QUICK)


@pytest.mark.parametrize(
    ("repository", "error"),
    [
        ("lies/size", AnswerMismatch),
        ("lies/small", AnswerMismatch),
        ("huge/size", DiskFull),
        ("bad/path", ManifestInvalid),
        ("absolute/path", ManifestInvalid),
        ("case/paths", ManifestInvalid),
        ("many/layers", AnswerTooLarge),
        ("short/layers", ManifestInvalid),
        ("deep/json", ManifestInvalid),
        ("tar/layer", ManifestInvalid),
        ("docker/image", ManifestInvalid),
        ("two/models", IndexAmbiguous),
        ("endless/body", AnswerTooLarge),
        ("claims/length", AnswerTooLarge),
        ("gzip/bomb", ContentEncoded),
        ("endless/headers", RegistryUnreachable),
        ("slow/headers", RegistryStalled),
        ("slow/body", RegistryStalled),
        ("silent/server", RegistryUnreachable),
        ("always/busy", RegistryRefused),
        ("odd/challenge", RegistryAnswerInvalid),
        ("realm/http", RegistryAnswerInvalid),
        ("realm/private", RedirectRefused),
        ("big/token", AnswerTooLarge),
        ("says/error", RegistryRefused),
        ("short/body", AnswerMismatch),
        ("other/bytes", LayerCorrupt),
        ("leads/http", RedirectRefused),
        ("leads/metadata", RedirectRefused),
        ("leads/private", RedirectRefused),
        ("leads/around", RedirectRefused),
        ("slow/blob", RegistryStalled),
    ],
)
def test_each_harm_is_a_named_error_in_bounded_memory_and_time(
    port: int, there: ModelStore, repository: str, error: type[Exception]
) -> None:
    process = psutil.Process()
    before, began = process.memory_info().rss, time.monotonic()
    with pytest.raises(error) as raised:
        pull(port, repository, there)
    assert time.monotonic() - began < 30
    assert process.memory_info().rss - before < 100 << 20
    message = f"{raised.value} {getattr(raised.value, 'hint', '')}"
    assert "canary" not in message
    assert len(message) < 700
    assert not any(char < " " or char in "\u202e\x7f" for char in message)
    assert there.refs.list() == []


def test_a_tar_layer_is_refused_by_name(port: int, there: ModelStore) -> None:
    with pytest.raises(ManifestInvalid, match=r"application/vnd\.cncf\.model\.weight\.v1\.tar"):
        pull(port, "tar/layer", there)


def test_an_index_with_one_model_in_it_is_that_model(port: int, there: ModelStore) -> None:
    assert pull(port, "one/model", there).manifest == pull(port, "honest/model", there).manifest


@pytest.mark.parametrize("repository", ["honest/model", "no/ranges", "breaks/off", "says/much"])
def test_what_is_only_clumsy_is_borne(port: int, there: ModelStore, repository: str) -> None:
    done = pull(port, repository, there)
    assert done.manifest == there.refs.get(NAME)
    there.verify(NAME)


def test_credentials_go_to_no_other_host(port: int, there: ModelStore) -> None:
    pull(port, "leads/loopback", there)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/seen") as answer:
        seen = json.load(answer)
    elsewhere = [request for request in seen if request["path"].startswith("/elsewhere")]
    assert elsewhere
    assert all(request["authorization"] == "" for request in elsewhere)


def test_whoever_leaves_is_not_kept_waiting(port: int, there: ModelStore) -> None:
    began = time.monotonic()

    class Left(StoreError):
        pass

    def check() -> None:
        if time.monotonic() - began > 0.5:
            raise Left

    reference = parse_reference(f"127.0.0.1:{port}/silent/server")
    with pytest.raises(Left):
        pull_model(there, reference, NAME, report=lambda _: None, check=check)
    assert time.monotonic() - began < 1.5
