"""Copying and deleting through the HTTP API: only for programs of the account that the node runs under."""

from typing import cast

import httpx
import pytest
from fastapi import FastAPI

from node.api.copies import CopyRoutes
from node.api.errors import CallerNotOwn
from node.versions import Versions


class Seen:
    """Stands where the node's versions are, and notes what reaches them."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def copy(self, source: str, target: str) -> None:
        self.calls.append(f"{source} to {target}")

    async def remove(self, name: str, version: str | None, force: bool) -> None:
        self.calls.append(f"remove {name}")


@pytest.mark.parametrize("own", [True, False])
async def test_another_accounts_program_deletes_and_signs_nothing(own: bool) -> None:
    seen, app = Seen(), FastAPI()
    app.include_router(CopyRoutes(cast(Versions, seen), lambda client, server: own).router())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:1") as client:
        for method, path, body in (
            ("POST", "/api/copy", {"source": "demo", "destination": "mine"}),
            ("DELETE", "/api/delete", {"model": "demo"}),
        ):
            if own:
                assert (await client.request(method, path, json=body)).status_code == 200
            else:
                with pytest.raises(CallerNotOwn):
                    await client.request(method, path, json=body)
    assert seen.calls == (["demo to mine", "remove demo"] if own else [])
