"""Embeddings on the node's side: what a worker is asked, and its vectors gathered in order."""

import json
import sys
from array import array
from collections.abc import Sequence
from typing import Final

from node.models.answers import Answers
from node.models.errors import CapabilityMissing, InputInvalid, InputTooLong, ModelError
from node.models.pieces import error_of
from node.models.requests import EmbedRequest
from node.models.supervisor import Worker
from protocol.worker.messages import Done, Embed, Failed, Ready, Vectors

CAPABILITY: Final = "embedding"
# The numbers of all vectors of one request: 64 MiB as they come, several times that as text.
MAX_NUMBERS: Final = 16 * 1024 * 1024
MAX_INPUTS: Final = 16_384
_FLOAT_BYTES: Final = 4


def embed_of(request: EmbedRequest, ready: Ready, number: int) -> Embed:
    """Return what the worker is asked.

    Raises:
        CapabilityMissing: the model makes no vectors.
        InputInvalid: more inputs than can be answered at once.
    """
    if not ready.dimensions:
        raise CapabilityMissing(f'"{request.model}"', CAPABILITY)
    most = min(MAX_INPUTS, MAX_NUMBERS // ready.dimensions)
    if len(request.inputs) > most:
        raise InputInvalid(f"{len(request.inputs)} inputs, at most {most} of this model are embedded at once")
    inputs = json.dumps(list(request.inputs), ensure_ascii=False, separators=(",", ":"))
    return Embed(number, inputs, request.truncate)


async def vectors_of(answers: Answers, worker: Worker, request: EmbedRequest) -> tuple[Sequence[Sequence[float]], Done]:
    """Return the vectors that `worker` answers, in the order of the inputs, and how the request ended.

    Raises:
        ModelError: the worker could not answer, or is gone.
    """
    vectors: list[array[float]] = []
    while taken := await answers.take():
        for answer in taken:
            match answer:
                case Vectors():
                    vectors += _divided(answer)
                case Done():
                    return vectors, answer
                case Failed():
                    raise _error(answer, request)
    raise worker.failure()


def _divided(answer: Vectors) -> list["array[float]"]:
    size = answer.dimensions * _FLOAT_BYTES
    return [_floats(answer.data[start : start + size]) for start in range(0, len(answer.data), size)]


def _floats(data: bytes) -> "array[float]":
    floats = array("f", data)
    if sys.byteorder == "big":
        floats.byteswap()
    return floats


def _error(failed: Failed, request: EmbedRequest) -> ModelError:
    match failed.kind:
        case "prompt-too-long":
            return InputTooLong(failed.why, failed.limit)
        case "option":
            return InputInvalid(failed.why)
    return error_of(failed, request.model)
