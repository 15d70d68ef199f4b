"""Control routes for asking a model: the question and the answer become lines of a chat, and the chat syncs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import trio
from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from node.api.durations import parse_keep_alive
from node.control.responses import Emit, EventStream, facts
from node.models.errors import PromptTooLong
from node.models.requests import Ending, GenerateRequest
from node.parts import Node
from protocol.feed import MAX_CONTENT_BYTES, MAX_TITLE_BYTES, ChatId
from protocol.text import clean_text

Name = Annotated[str, StringConstraints(min_length=1, max_length=330)]
Prompt = Annotated[str, StringConstraints(min_length=1, max_length=256 * 1024)]
TITLE_CHARS = 60
# A stopped answer is still written down; this bounds how long that may hold up the node's own stop.
KEEP_S = 5.0


class AskBody(BaseModel):
    """A question to a model, in a new chat or as the next line of one."""

    model_config = ConfigDict(extra="forbid")
    model: Name
    prompt: Prompt
    chat: str | None = None
    system: Annotated[str, StringConstraints(max_length=256 * 1024)] | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    format: Any = None
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    keep_alive: Annotated[str, StringConstraints(max_length=64)] | None = None


class ModelBody(BaseModel):
    """A model by name."""

    model_config = ConfigDict(extra="forbid")
    name: Name


class AskRoutes:
    """The routes, over the models service and the chats."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def router(self) -> APIRouter:
        """Return the routes for mounting."""
        router = APIRouter()
        router.add_api_route("/v1/ask", self.ask, methods=["POST"], response_model=None)
        router.add_api_route("/v1/ps", self.loaded, methods=["GET"], response_model=None)
        router.add_api_route("/v1/models/stop", self.stop, methods=["POST"], response_model=None)
        return router

    async def ask(self, body: AskBody) -> Response:
        """Answer in a stream; leaving it stops the generation and keeps what was answered until then."""

        async def produce(emit: Emit) -> None:
            # Found before anything is written: a wrong name leaves no chat behind.
            model = await self._node.catalog.find(body.model)
            await _Question(self._node, emit, model.name, body).answer()

        return EventStream(produce, self._node.stopping)

    async def loaded(self) -> Response:
        """List the models in memory."""
        now_s = self._node.clock.now_s()
        return facts(
            models=[
                {
                    "name": model.name,
                    "digest": model.digest,
                    "size_bytes": model.size_bytes,
                    "memory_bytes": model.memory_bytes,
                    "expires_in_s": None if model.expires_s is None else max(0, int(model.expires_s - now_s)),
                    "notes": list(model.notes),
                }
                for model in self._node.models.loaded()
            ]
        )

    async def stop(self, body: ModelBody) -> Response:
        """Let a model go from memory."""
        return facts(name=body.name, was_loaded=await self._node.models.stop(body.name))


class _Question:
    """One question on its way: the chat it belongs to, the answer so far, and its figures."""

    def __init__(self, node: Node, emit: Emit, model: str, body: AskBody) -> None:
        self._node = node
        self._emit = emit
        self._model = model
        self._body = body
        self._text: list[str] = []
        self._ending: Ending | None = None
        self._first_s = 0.0
        self._kept_ms = 0

    async def answer(self) -> None:
        """Write the question down, stream the answer, and write the answer down, whole or as far as it came."""
        started_s = self._node.clock.monotonic_s()
        chat = await self._chat()
        await self._write(chat, "user", self._body.prompt, "")
        await self._emit({"event": "started", "chat": chat, "model": self._model})
        entry = ""
        try:
            await self._stream(chat, started_s)
        finally:
            with trio.move_on_after(KEEP_S, shield=True):
                for part in lines_of("".join(self._text)):
                    entry = await self._write(chat, "assistant", part, self._model)
        await self._emit(self._facts(chat, entry, self._node.clock.monotonic_s() - started_s))

    async def _chat(self) -> ChatId:
        chats, threads = self._node.chats, self._node.threads
        if self._body.chat is not None:
            return await threads.database(chats.find, self._body.chat)
        return await threads.database(chats.new_chat, _title(self._body.prompt))

    async def _write(self, chat: ChatId, role: str, text: str, model: str) -> str:
        entry = await self._node.threads.database(self._node.chats.add_message, chat, role, text, model)
        self._kept_ms = self._node.clock.now_ms()
        self._node.sync.changed()
        return entry.id

    async def _stream(self, chat: ChatId, started_s: float) -> None:
        view = await self._node.threads.database(self._node.chats.show, chat)
        messages = [{"role": line.role, "content": line.content.reveal()} for line in view.messages]
        while True:
            try:
                await self._ask(messages, started_s)
                return
            except PromptTooLong:
                if len(messages) == 1:
                    raise
                messages = messages[(len(messages) + 1) // 2 :]  # what was said long ago gives way

    async def _ask(self, messages: list[dict[str, str]], started_s: float) -> None:
        async with self._node.models.generate(self._request(messages)) as pieces:
            async for piece in pieces:
                self._ending = piece.ending or self._ending
                if not piece.text:
                    continue
                self._first_s = self._first_s or self._node.clock.monotonic_s() - started_s
                if not piece.thinking:
                    self._text.append(piece.text)
                await self._emit({"event": "piece", "text": piece.text, "thinking": piece.thinking})

    def _request(self, messages: Sequence[Mapping[str, str]]) -> GenerateRequest:
        body = self._body
        return GenerateRequest(
            self._model,
            messages=messages,
            system=body.system,
            thinking=None if body.think is None else bool(body.think),
            effort=body.think if isinstance(body.think, str) else "",
            format=body.format,
            options=body.options,
            keep_alive_s=parse_keep_alive(body.keep_alive),
            client="control",
        )

    def _facts(self, chat: ChatId, entry: str, total_s: float) -> dict[str, object]:
        ending = self._ending
        return {
            "event": "done",
            "model": self._model,
            "chat": chat,
            "entry": entry,
            "answer": "".join(self._text),
            "reason": ending.reason if ending else "stop",
            "prompt_tokens": ending.prompt_tokens if ending else 0,
            "cached_tokens": ending.cached_tokens if ending else 0,
            "answer_tokens": ending.eval_tokens if ending else 0,
            "tokens_per_s": ending.eval_tokens / (ending.eval_ns / 1e9) if ending and ending.eval_ns else 0.0,
            "load_s": ending.load_ns / 1e9 if ending else 0.0,
            "first_token_s": self._first_s,
            "total_s": total_s,
            "at_ms": self._kept_ms,
        }


def lines_of(text: str) -> Iterator[str]:
    """Yield `text` in parts that fit into a line of a chat each; nothing of nothing."""
    data = text.encode()
    while data:
        part = data[:MAX_CONTENT_BYTES].decode(errors="ignore")  # a character that was cut is the next part's first
        yield part
        data = data[len(part.encode()) :]


def _title(prompt: str) -> str:
    """Return a chat's first title: the beginning of its first line, within the bytes that a title may have."""
    title = clean_text(prompt, TITLE_CHARS)
    return title.encode()[:MAX_TITLE_BYTES].decode(errors="ignore") or "chat"
