"""Control routes for chats and their sync."""

from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, StringConstraints

from node.cli.render import describe_error
from node.control.responses import facts
from node.health import device_name
from node.parts import Node
from node.peer.sync_round import SyncReport
from protocol.chats import ChatMessage
from protocol.feed import ChatId
from store.chats import ChatSummary

Id = Annotated[str, StringConstraints(min_length=4, max_length=64)]
Title = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Content = Annotated[str, StringConstraints(max_length=256 * 1024)]


class RenameBody(BaseModel):
    """A chat and its new title."""

    model_config = ConfigDict(extra="forbid")
    id: Id
    title: Title


class EditBody(BaseModel):
    """A line and its new text."""

    model_config = ConfigDict(extra="forbid")
    id: Id
    text: Content


class DeleteBody(BaseModel):
    """A chat, or one line of it."""

    model_config = ConfigDict(extra="forbid")
    id: Id
    line: Id | None = None


class SyncBody(BaseModel):
    """A device, or all of one's own."""

    model_config = ConfigDict(extra="forbid")
    peer: str | None = None


class ChatRoutes:
    """The routes, each a few lines over the chats and their sync."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._chats = node.chats

    def router(self) -> APIRouter:
        """Return the routes for mounting."""
        router = APIRouter()
        router.add_api_route("/v1/chats", self.list_chats, methods=["GET"], response_model=None)
        router.add_api_route("/v1/chat", self.show, methods=["GET"], response_model=None)
        router.add_api_route("/v1/chats/rename", self.rename, methods=["POST"], response_model=None)
        router.add_api_route("/v1/chats/edit", self.edit, methods=["POST"], response_model=None)
        router.add_api_route("/v1/chats/delete", self.delete, methods=["POST"], response_model=None)
        router.add_api_route("/v1/sync", self.sync, methods=["POST"], response_model=None)
        return router

    async def list_chats(self) -> Response:
        """List the chats, the latest first."""
        summaries = await self._node.threads.database(self._chats.list)
        return facts(chats=[_summary_facts(summary) for summary in summaries])

    async def show(self, id: Id) -> Response:
        """Show one chat with its lines."""
        view = await self._node.threads.database(self._chats.show, await self._find(id))
        names = {peer.did: peer.nickname for peer in await self._node.threads.database(self._node.peers.list)}
        return facts(
            id=view.id,
            title=view.title.reveal(),
            updated_ms=view.updated_ms,
            lines=[_line_facts(line, device_name(self._node, line.author, names)) for line in view.messages],
        )

    async def rename(self, body: RenameBody) -> Response:
        """Give a chat another title."""
        chat = await self._find(body.id)
        entry = await self._node.threads.database(self._chats.rename, chat, body.title)
        self._node.sync.changed()
        return facts(chat=chat, entry=entry.id)

    async def edit(self, body: EditBody) -> Response:
        """Replace a line."""
        line = await self._node.threads.database(self._chats.find_line, body.id)
        entry = await self._node.threads.database(self._chats.edit, line, body.text)
        self._node.sync.changed()
        return facts(line=line, entry=entry.id)

    async def delete(self, body: DeleteBody) -> Response:
        """Delete a chat, or one line of it."""
        chat = await self._find(body.id)
        if body.line is None:
            entry = await self._node.threads.database(self._chats.delete_chat, chat)
        else:
            line = await self._node.threads.database(self._chats.find_line, body.line)
            entry = await self._node.threads.database(self._chats.delete, line)
        self._node.sync.changed()
        return facts(chat=chat, entry=entry.id)

    async def sync(self, body: SyncBody) -> Response:
        """Exchange entries now; a device that cannot be reached is reported and does not stop the others."""
        peer = None
        if body.peer is not None:
            peer = await self._node.threads.database(self._node.peers.find, body.peer)
        names = {peer.did: peer.nickname for peer in await self._node.threads.database(self._node.peers.list)}
        reports = await self._node.sync.sync(peer)
        return facts(reports=[_report_facts(report, device_name(self._node, report.peer, names)) for report in reports])

    async def _find(self, text: str) -> ChatId:
        return await self._node.threads.database(self._chats.find, text)


def _summary_facts(summary: ChatSummary) -> dict[str, object]:
    return {
        "id": summary.id,
        "title": summary.title.reveal(),
        "lines": summary.messages,
        "created_ms": summary.created_ms,
        "updated_ms": summary.updated_ms,
    }


def _report_facts(report: SyncReport, name: str) -> dict[str, object]:
    return {
        "peer": report.peer,
        "peer_name": name,
        "received": report.received,
        "sent": report.sent,
        "refused": report.refused,
        "bytes": report.bytes,
        "error": None if report.error is None else describe_error(report.error),
    }


def _line_facts(line: ChatMessage, device: str) -> dict[str, object]:
    return {
        "id": line.id,
        "role": line.role,
        "content": line.content.reveal(),
        "model": line.model,
        "device": line.author,
        "device_name": device,
        "time_ms": line.time_ms,
        "edited": line.edited,
    }
