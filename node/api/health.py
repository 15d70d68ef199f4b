"""`/api/health` and `/api/stop`: whether this node can answer, proved where that is asked, and letting models go."""

from typing import Any, Final

import trio
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from node.api.body import parse_body
from node.api.streams import NAMED_ERRORS, until_left
from node.models.errors import NothingProved
from node.models.service import Models

# A node that writes no token in this time is not well, whatever the reason.
PROOF_S: Final = 60.0


class StopBody(BaseModel):
    """`POST /api/stop`."""

    model_config = ConfigDict(extra="ignore", strict=True)
    model: str = Field(min_length=1)


class HealthRoutes:
    """The routes, over the models service."""

    def __init__(self, models: Models, version: str) -> None:
        self._models = models
        self._version = version

    def router(self) -> APIRouter:
        """Return the routes for mounting."""
        router = APIRouter()
        router.add_api_route("/api/health", self.health, methods=["GET", "HEAD"], response_model=None)
        router.add_api_route("/api/stop", self.stop, methods=["POST"], response_model=None)
        return router

    async def health(self, request: Request) -> Response:
        """Say how the node is; with `deep=1` only after a model has written a token."""
        deep = request.query_params.get("deep", "") not in ("", "0", "false")
        return Health(self._models, self._version, deep=deep)

    async def stop(self, request: Request) -> Response:
        """Let a model go from memory now, whatever it is doing."""
        body = parse_body(await request.body(), StopBody)
        return JSONResponse({"model": body.model, "stopped": await self._models.stop(body.model)})


class Health(Response):
    """How the node is; the proof ends when the client leaves."""

    def __init__(self, models: Models, version: str, *, deep: bool) -> None:
        super().__init__()
        self._models = models
        self._version = version
        self._deep = deep

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the answer."""

        async def work() -> None:
            status, facts = await self._facts()
            await JSONResponse(facts, status_code=status, headers={"cache-control": "no-store"})(scope, receive, send)

        await until_left(receive, work)

    async def _facts(self) -> tuple[int, dict[str, Any]]:
        facts: dict[str, Any] = {"status": "ok", "version": self._version, **self._queue()}
        if not self._deep:
            return 200, facts
        try:
            with trio.fail_after(PROOF_S):
                proof = await self._models.prove()
        except NothingProved as error:
            return 200, {**facts, "proof": None, "reason": str(error)}
        except (*NAMED_ERRORS, trio.TooSlowError) as error:
            reason = str(error) or f"no token within {PROOF_S:.0f} s"
            return 503, {**facts, "status": "failing", "error": reason, "hint": getattr(error, "hint", "")}
        return 200, {**facts, "proof": {"model": proof.model, "tokens": proof.tokens, "seconds": proof.seconds}}

    def _queue(self) -> dict[str, Any]:
        seats = list(self._models.scheduler.seats())
        return {
            "models": [model.name for model in self._models.loaded()],
            "active": sum(seat.turns.taken for seat in seats),
            "waiting": sum(seat.turns.waiting for seat in seats),
        }
