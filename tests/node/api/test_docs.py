"""The API's description: complete, well-formed, and a page that loads nothing from anywhere."""

import re
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
from fastapi import APIRouter

from node.api.app import build_api
from node.api.blobs import BlobRoutes
from node.api.copies import CopyRoutes
from node.api.create import CreateRoutes
from node.api.docs.document import OPERATIONS, describe, routes
from node.api.docs.page import write_page
from node.api.docs.registry import REGISTRY
from node.api.docs.routes import DocsRoutes
from node.api.transfers import TransferRoutes
from node.models.service import Models
from node.models.testing import DirectoryLibrary
from node.ports import SystemClock, SystemEntropy

NOBODY: Any = None


@pytest.fixture
def routers(monkeypatch: pytest.MonkeyPatch) -> list[APIRouter]:
    """All routers of a whole API, as its own description is given them."""
    seen: list[list[APIRouter]] = []
    original = DocsRoutes.router

    def router(self: DocsRoutes) -> APIRouter:
        own = original(self)
        seen.append(list(self._routers))
        return own

    monkeypatch.setattr(DocsRoutes, "router", router)
    models = Models(DirectoryLibrary(), SystemClock(), SystemEntropy())
    build_api(
        models,
        SystemClock(),
        SystemEntropy(),
        version="1.2.3",
        hosts=None,
        transfers=TransferRoutes(NOBODY, NOBODY),
        copies=CopyRoutes(NOBODY),
        blobs=BlobRoutes(NOBODY, NOBODY),
        creation=CreateRoutes(NOBODY, NOBODY, NOBODY),
    )
    return seen[0]


def test_every_route_is_described_and_no_other(routers: list[APIRouter]) -> None:
    assert set(routes(routers)) == set(OPERATIONS)


def test_the_document_holds_together(routers: list[APIRouter]) -> None:
    document = describe(routers, "1.2.3", REGISTRY)
    assert (document["openapi"], document["info"]["version"]) == ("3.1.0", "1.2.3")
    known = document["components"]["schemas"]
    for reference in re.findall(r"'\$ref': '([^']*)'", str(document)):
        assert reference.startswith("#/components/schemas/")
        assert reference.rpartition("/")[2] in known
    names = [told["operationId"] for methods in document["paths"].values() for told in methods.values()]
    assert len(names) == len(set(names)) == len(OPERATIONS) + len(REGISTRY)
    for path, methods in document["paths"].items():
        for told in methods.values():
            in_path = {parameter["name"] for parameter in told["parameters"] if parameter["in"] == "path"}
            assert in_path == set(re.findall(r"{(\w+)}", path)), path


def test_bodies_say_what_they_need_and_what_their_fields_mean(routers: list[APIRouter]) -> None:
    schemas = describe(routers, "1")["components"]["schemas"]
    assert schemas["ChatBody"]["required"] == ["model"]
    assert "default" not in schemas["ChatBody"]["properties"]["model"]
    assert schemas["CreateBody"]["properties"]["from"]["description"]
    assert {"type": "number"} in schemas["ChatBody"]["properties"]["keep_alive"]["anyOf"]


class Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [(tag, name, value or "") for name, value in attributes]


def test_the_page_loads_nothing(routers: list[APIRouter]) -> None:
    page = write_page(describe(routers, "1<2"), "http://127.0.0.1:11435")
    seen = Seen()
    seen.feed(page)
    assert {name for _, name, _ in seen.found} <= {"lang", "charset", "name", "content", "href", "class"}
    assert {value for _, name, value in seen.found if name == "href"} == {"openapi.json"}
    assert "<script" not in page
    assert "tilenode 1&lt;2" in page
    assert "curl -X POST http://127.0.0.1:11435/api/chat" in page
    for path, _ in OPERATIONS:
        assert path.replace("&", "&amp;") in page


async def test_both_are_served(routers: list[APIRouter]) -> None:
    models = Models(DirectoryLibrary(), SystemClock(), SystemEntropy())
    app = build_api(models, SystemClock(), SystemEntropy(), version="9.8.7", hosts=None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:1") as client:
        document = (await client.get("/openapi.json")).json()
        page = await client.get("/docs")
    assert document["info"]["version"] == "9.8.7"
    assert "/api/create" not in document["paths"]  # this API was given nobody who builds
    assert "script" not in page.headers["content-security-policy"]
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
