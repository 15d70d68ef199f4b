"""The description of the routes that turn texts into vectors."""

from typing import Final, Literal

from typing_extensions import TypedDict

from node.api.docs.compatible_answers import OpenAITold
from node.api.docs.native_answers import Told
from node.api.docs.operation import Operation, Operations, answered
from node.api.embeddings import CompatibleBody, EmbedBody, EmbeddingsBody


class Vectors(TypedDict):
    """A vector of length 1 for each text, and what they took in nanoseconds and tokens."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class Vector(TypedDict):
    """The vector of one text; empty for an empty one."""

    embedding: list[float]


class NumberedVector(TypedDict):
    """A vector of length 1, as numbers or as base64 of 32-bit floats."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class ReadTokens(TypedDict):
    """What was read, in tokens."""

    prompt_tokens: int
    total_tokens: int


class VectorList(TypedDict):
    """A vector for each input."""

    object: Literal["list"]
    data: list[NumberedVector]
    model: str
    usage: ReadTokens


EMBEDDINGS: Final[Operations] = {
    ("/api/embed", "POST"): Operation(
        "turn texts into vectors of length 1; without any load the model",
        answered(Vectors),
        Told,
        body=EmbedBody,
        required=("model",),
        example={"model": "MODEL", "input": ["a text"]},
    ),
    ("/api/embeddings", "POST"): Operation(
        "turn one text into a vector; the older of Ollama's two routes",
        answered(Vector),
        Told,
        body=EmbeddingsBody,
        required=("model",),
        example={"model": "MODEL", "prompt": "a text"},
    ),
    ("/v1/embeddings", "POST"): Operation(
        "turn texts or token ids into vectors",
        answered(VectorList),
        OpenAITold,
        body=CompatibleBody,
        example={"model": "MODEL", "input": ["a text"]},
    ),
}
