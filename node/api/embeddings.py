"""Embeddings over HTTP: Ollama's two routes and OpenAI's one, over the models service."""

import base64
import math
import sys
from array import array
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from starlette.responses import Response

from node.api.body import parse_body
from node.api.clients import client_of
from node.api.durations import parse_keep_alive
from node.api.errors import BodyInvalid
from node.api.native import native_error
from node.api.openai_errors import openai_error
from node.api.streams import Emit, Streamed, WordError, to_json
from node.models.errors import InputInvalid
from node.models.requests import Embeddings, EmbedRequest
from node.models.service import Models

JSON: Final = "application/json"
MAX_COMPATIBLE_INPUTS: Final = 2048
# What is written at once: between two pieces the node does what else there is.
PIECE_BYTES: Final = 128 * 1024
_TEXTS: Final[list[Any]] = [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
_IDS: Final[Any] = {"type": "array", "items": {"type": "integer", "minimum": 0}}
Vector = Sequence[float]


class EmbedBody(BaseModel):
    """`POST /api/embed`. Options of a generation have no effect on vectors."""

    model_config = ConfigDict(extra="ignore", strict=True)
    model: str = ""
    input: Annotated[Any, WithJsonSchema({"anyOf": _TEXTS})] = None
    truncate: bool | None = None
    dimensions: int | None = Field(default=None, ge=0, le=65536)
    keep_alive: Any = None
    options: dict[str, Any] | None = None


class EmbeddingsBody(BaseModel):
    """`POST /api/embeddings`, the older of Ollama's two."""

    model_config = ConfigDict(extra="ignore", strict=True)
    model: str = ""
    prompt: str | None = None
    keep_alive: Any = None
    options: dict[str, Any] | None = None


class CompatibleBody(BaseModel):
    """`POST /v1/embeddings`. `truncate` is not OpenAI's: it cuts what is too long instead of refusing it."""

    model_config = ConfigDict(extra="forbid", strict=True)
    model: str
    input: Annotated[Any, WithJsonSchema({"anyOf": [*_TEXTS, _IDS, {"type": "array", "items": _IDS}]})]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1, le=65536)
    truncate: bool | None = None
    user: str | None = None


class EmbeddingRoutes:
    """The routes, over the models service."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def router(self) -> APIRouter:
        """Return the routes for mounting."""
        router = APIRouter()
        router.add_api_route("/api/embed", self.embed, methods=["POST"], response_model=None)
        router.add_api_route("/api/embeddings", self.embed_one, methods=["POST"], response_model=None)
        router.add_api_route("/v1/embeddings", self.embed_compatibly, methods=["POST"], response_model=None)
        return router

    async def embed(self, request: Request) -> Response:
        """Embed a text or several; without any the model is loaded."""
        body = parse_body(await request.body(), EmbedBody)
        asked = EmbedRequest(
            model=_required(body.model),
            inputs=_texts(body.input),
            truncate=body.truncate is not False,
            keep_alive_s=parse_keep_alive(body.keep_alive),
            client=client_of(request),
        )

        def frame(found: Embeddings) -> tuple[bytes, bytes]:
            ending = {
                "total_duration": found.total_ns,
                "load_duration": found.load_ns,
                "prompt_eval_count": found.tokens,
            }
            return b'{"model":' + to_json(body.model) + b',"embeddings":[', b"]," + to_json(ending)[1:]

        return self._answer(asked, body.dimensions, lambda _, vector: spell_floats(vector), frame, native_error)

    async def embed_one(self, request: Request) -> Response:
        """Embed one text; an empty one loads the model."""
        body = parse_body(await request.body(), EmbeddingsBody)
        asked = EmbedRequest(
            model=_required(body.model),
            inputs=[body.prompt] if body.prompt else [],
            keep_alive_s=parse_keep_alive(body.keep_alive),
            client=client_of(request),
        )

        def frame(found: Embeddings) -> tuple[bytes, bytes]:
            return b'{"embedding":' + (b"" if found.vectors else b"[]"), b"}"

        return self._answer(asked, None, lambda _, vector: spell_floats(vector), frame, native_error)

    async def embed_compatibly(self, request: Request) -> Response:
        """Embed a text or several, as text or as token ids."""
        body = parse_body(await request.body(), CompatibleBody)
        asked = EmbedRequest(
            model=_required(body.model),
            inputs=_texts_or_ids(body.input),
            truncate=bool(body.truncate),
            client=client_of(request),
        )
        spell = _spell_base64 if body.encoding_format == "base64" else spell_floats

        def item(number: int, vector: Vector) -> bytes:
            return b'{"object":"embedding","index":%d,"embedding":%s}' % (number, spell(vector))

        def frame(found: Embeddings) -> tuple[bytes, bytes]:
            usage = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
            ending = {"model": body.model, "usage": usage}
            return b'{"object":"list","data":[', b"]," + to_json(ending)[1:]

        return self._answer(asked, body.dimensions, item, frame, openai_error)

    def _answer(
        self,
        asked: EmbedRequest,
        dimensions: int | None,
        item: Callable[[int, Vector], bytes],
        frame: Callable[[Embeddings], tuple[bytes, bytes]],
        word_error: WordError,
    ) -> Response:
        """Return a response that embeds, and writes the vectors piece by piece between the two parts of `frame`."""

        async def produce(emit: Emit) -> None:
            found = await self._models.embed(asked)
            vectors = cut(found.vectors, dimensions)
            first, last = frame(found)
            async with aclosing(_pieces(first, last, vectors, item)) as pieces:
                async for piece in pieces:
                    await emit(piece)

        return Streamed(produce, JSON, word_error, lambda error: error)


async def _pieces(
    first: bytes, last: bytes, vectors: Sequence[Vector], item: Callable[[int, Vector], bytes]
) -> AsyncGenerator[bytes, None]:
    piece = bytearray(first)
    for number, vector in enumerate(vectors):
        piece += (b"," if number else b"") + item(number, vector)
        if len(piece) >= PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece + last)


def cut(vectors: Sequence[Vector], dimensions: int | None) -> Sequence[Vector]:
    """Return the first `dimensions` numbers of each vector, scaled to length 1 again; None or 0 for all of them.

    Raises:
        InputInvalid: the vectors have fewer.
    """
    if not dimensions or not vectors or dimensions == len(vectors[0]):
        return vectors
    if dimensions > len(vectors[0]):
        raise InputInvalid(f"dimensions: got {dimensions}, this model's vectors have {len(vectors[0])}")
    return _Cut(vectors, dimensions)


class _Cut(Sequence[Vector]):
    """Vectors that are cut when they are asked for."""

    def __init__(self, vectors: Sequence[Vector], dimensions: int) -> None:
        self._vectors = vectors
        self._dimensions = dimensions

    def __len__(self) -> int:
        return len(self._vectors)

    def __getitem__(self, number: Any) -> Any:
        beginning = self._vectors[number][: self._dimensions]
        length = math.hypot(*beginning) or 1.0
        return array("f", [value / length for value in beginning])


def spell_floats(vector: Vector) -> bytes:
    """Return `vector` as JSON, each number with the nine digits that tell any two 32-bit floats apart."""
    return b"[" + b",".join([text if b"." in (text := b"%.9g" % value) else _fraction(text) for value in vector]) + b"]"


def _fraction(text: bytes) -> bytes:
    # Clients take what has no point for a whole number.
    mantissa, mark, exponent = text.partition(b"e")
    return mantissa + b".0" + mark + exponent


def _spell_base64(vector: Vector) -> bytes:
    floats = array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return b'"' + base64.b64encode(floats.tobytes()) + b'"'


def _required(model: str) -> str:
    if not model:
        raise BodyInvalid("model is required", "model")
    return model


def _texts(value: object) -> Sequence[str]:
    if value is None or value == "":
        return []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BodyInvalid("invalid input type: expected a text or a list of texts", "input")
    return texts


def _texts_or_ids(value: object) -> Sequence[str | Sequence[int]]:
    if not isinstance(value, str | list) or not value:
        raise BodyInvalid("input: expected a text, a list of texts, token ids, or a list of those, not empty", "input")
    inputs: Sequence[Any] = value if isinstance(value, list) and not _is_id(value[0]) else [value]
    if len(inputs) > MAX_COMPATIBLE_INPUTS:
        raise BodyInvalid(f"input: {len(inputs)} inputs, at most {MAX_COMPATIBLE_INPUTS} at once", "input")
    for number, given in enumerate(inputs):
        if not given or not (isinstance(given, str) or (isinstance(given, list) and all(map(_is_id, given)))):
            raise BodyInvalid("expected a text or token ids, not empty", f"input.{number}")
    return inputs


def _is_id(value: object) -> bool:
    return type(value) is int
