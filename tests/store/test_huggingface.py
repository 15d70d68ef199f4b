"""What every request and answer of the hub's library is held to, and that the library is silent."""

from collections.abc import Iterator
from typing import cast

import httpx2
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http as library
from huggingface_hub.utils._xet import XetConnectionInfo, XetFileData

from store import huggingface
from store.errors import HubUnreachable
from store.hub_download import Download
from store.hub_settings import HubSettings
from store.huggingface import MAX_ERROR_BYTES, HubRules, HubSession

TOKEN = {"authorization": "Bearer hf_canary"}
WORLD = "https://203.0.114.7"  # an address that is out in the world; nobody is asked there
HERE = "http://127.0.0.1:8000"


def checked(hub: str, url: str) -> httpx2.Request:
    request = httpx2.Request("GET", url, headers=TOKEN)
    HubRules(hub).check_request(request)
    return request


@pytest.mark.parametrize(
    ("hub", "url", "sent"),
    [
        (WORLD, f"{WORLD}/api/models/a/b", True),
        (WORLD, f"{WORLD}:443/a/b", True),
        (WORLD, f"{WORLD}:8443/a/b", False),
        (WORLD, "https://203.0.114.8/a/b", False),
        (HERE, f"{HERE}/a/b", True),
        (HERE, "http://127.0.0.1:8001/a/b", False),
        (HERE, "https://127.0.0.1:8000/a/b", False),
    ],
)
def test_the_token_goes_to_the_hubs_own_origin_only(hub: str, url: str, sent: bool) -> None:
    assert ("authorization" in checked(hub, url).headers) is sent


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/x",
        "https://localhost/x",
        "https://10.0.0.1/x",
        "https://192.168.1.1/x",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/x",
        "https://[::ffff:127.0.0.1]/x",
        "https://[fe80::1]/x",
        "https://0.0.0.0/x",
    ],
)
def test_a_hub_out_in_the_world_cannot_lead_inside(url: str) -> None:
    with pytest.raises(HubUnreachable, match="inside this network"):
        checked(WORLD, url)


@pytest.mark.parametrize(("hub", "url"), [(WORLD, "http://203.0.114.7/x"), (HERE, "http://203.0.114.7/x")])
def test_nothing_is_asked_without_encryption_but_on_this_machine(hub: str, url: str) -> None:
    with pytest.raises(HubUnreachable, match="not encrypted"):
        checked(hub, url)
    checked(HERE, "http://127.0.0.1:9/x")
    with pytest.raises(HubUnreachable, match="not encrypted"):
        checked("http://203.0.114.7", "http://203.0.114.7/x")


@pytest.mark.parametrize("storage", ["https://169.254.169.254", "https://10.0.0.1:443", "http://203.0.114.8"])
def test_a_hub_out_in_the_world_leads_to_no_xet_storage_inside(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = XetConnectionInfo(access_token="canary", expiration_unix_epoch=1 << 40, endpoint=storage)
    monkeypatch.setattr(huggingface, "refresh_xet_connection_info", lambda **_: answer)
    file = XetFileData(file_hash="0" * 64, refresh_route=f"{WORLD}/x")
    with pytest.raises(HubUnreachable, match="may not be asked") as raised:
        HubSession(HubSettings(endpoint=WORLD)).download_xet(file, cast(Download, None))
    assert "canary" not in str(raised.value)


class Endless(httpx2.SyncByteStream):
    """A body without an end."""

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield b"x" * 1000


@pytest.mark.parametrize("status", [302, 404, 500])
def test_what_is_no_content_is_cut(status: int) -> None:
    answer = httpx2.Response(status, stream=Endless(), request=httpx2.Request("GET", f"{HERE}/x"))
    HubRules(HERE).check_answer(answer)
    assert len(answer.read()) == MAX_ERROR_BYTES


def test_a_pause_that_a_hub_wants_is_not_slept_through() -> None:
    answer = httpx2.Response(429, headers={"Retry-After": "1000000000"}, request=httpx2.Request("GET", f"{HERE}/x"))
    with pytest.raises(HubUnreachable, match="too often"):
        HubRules(HERE).check_answer(answer)


def test_the_library_speaks_of_nothing_and_with_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    monkeypatch.setattr(constants, "HF_DEBUG", True)
    HubSession(HubSettings(endpoint=HERE))
    assert (constants.HF_HUB_DISABLE_TELEMETRY, constants.HF_HUB_DISABLE_IMPLICIT_TOKEN) == (True, True)
    assert constants.HF_DEBUG is False
    hooks = library.get_session().event_hooks
    assert (len(hooks["request"]), len(hooks["response"])) == (2, 1)
