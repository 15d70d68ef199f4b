"""Making models through the HTTP API: only for this account's own programs, and what a body of it asks for."""

from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import trio
from fastapi import FastAPI

from node.api.blobs import BlobRoutes
from node.api.body import parse_body
from node.api.create import CreateRoutes
from node.api.create_request import ADAPTERS, FILES, CreateBody, read_wanted
from node.api.errors import BodyInvalid, CallerNotOwn
from node.api.streams import to_json
from node.catalog import Catalog
from node.threads import Threads
from protocol.digest import digest_of
from protocol.modelfile import Modelfile
from protocol.quantization import Quantization
from store.models import ModelStore

DIGEST = digest_of(b"words")


async def test_another_accounts_program_sends_and_builds_nothing(tmp_path: Path) -> None:
    store, app = ModelStore(tmp_path), FastAPI()
    nobody = cast(Catalog, None)
    for routes in (
        BlobRoutes(store.blobs, Threads(), lambda client, server: False),
        CreateRoutes(nobody, store, Threads(), lambda client, server: False),
    ):
        app.include_router(routes.router())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:1") as client:
        for method, path, content in (
            ("HEAD", f"/api/blobs/sha256:{DIGEST}", b""),
            ("POST", f"/api/blobs/sha256:{DIGEST}", b"words"),
            ("POST", "/api/create", b'{"model": "mine", "from": "demo"}'),
        ):
            with pytest.raises(CallerNotOwn):
                await client.request(method, path, content=content)
    assert not store.blobs.has(DIGEST)


async def test_a_file_that_was_cancelled_half_way_leaves_nothing(tmp_path: Path) -> None:
    store, app = ModelStore(tmp_path), FastAPI()
    app.include_router(BlobRoutes(store.blobs, Threads(), lambda client, server: True).router())
    before = sorted(tmp_path.rglob("*"))
    begun = trio.Event()

    async def body() -> Any:
        yield b"x" * 5_000_000
        begun.set()
        await trio.sleep_forever()

    async with (
        trio.open_nursery() as nursery,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:1") as client,
    ):

        async def send() -> None:
            await client.post(f"/api/blobs/sha256:{DIGEST}", content=body())

        nursery.start_soon(send)
        await begun.wait()
        nursery.cancel_scope.cancel()
    assert sorted(tmp_path.rglob("*")) == before


def wanted(**body: Any) -> Any:
    return read_wanted(parse_body(to_json(body), CreateBody))


def test_a_body_becomes_a_recipe() -> None:
    found = wanted(
        model="mine",
        **{"from": "demo"},
        template="",
        system="be kind",
        license="MIT",
        parameters={"temperature": 1, "num_ctx": 40.0, "stop": ["a", "b"]},
        messages=[{"role": "user", "content": "x"}],
        adapters={"adapters.safetensors": f"sha256:{DIGEST}"},
        quantize="Q4_K_M",
    )
    assert found.recipe == Modelfile(
        base="demo",
        parameters=(("temperature", 1.0), ("num_ctx", 40), ("stop", "a"), ("stop", "b")),
        system="be kind",
        adapter=ADAPTERS,
        licenses=("MIT",),
        messages=(("user", "x"),),
    )
    assert (found.name, found.quantization) == ("mine", Quantization.INT4)
    assert found.blobs[ADAPTERS] == {"adapters.safetensors": DIGEST}
    files = wanted(name="mine", files={"config.json": DIGEST})
    assert (files.recipe.base, files.blobs[FILES]) == (FILES, {"config.json": DIGEST})


@pytest.mark.parametrize(
    "names", [["/etc/passwd"], ["../x"], ["a/../b"], ["a\\b"], ["a\x00b"], [""], ["."], [f"f{n}" for n in range(5000)]]
)
def test_names_of_files_are_checked(names: list[str]) -> None:
    with pytest.raises(BodyInvalid, match="files"):
        wanted(model="mine", files=dict.fromkeys(names, DIGEST))
