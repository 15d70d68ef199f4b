"""From what a worker says to what the APIs tell: pieces of an answer, its ending, and errors by their names."""

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass

from node.models.answers import Answer, Answers
from node.models.errors import (
    AdapterMissing,
    AnswerFailed,
    CapabilityMissing,
    ContextTooLarge,
    FormatInvalid,
    ModelError,
    ModelRefused,
    OptionInvalid,
    PromptTooLong,
    TemplateInvalid,
)
from node.models.library import ServedModel
from node.models.requests import Call, Ending, Piece
from node.models.supervisor import Worker
from protocol.worker import logprobs
from protocol.worker.messages import Done, Failed, Progress, Text, ToolCall
from protocol.worker.words import joined


@dataclass(frozen=True)
class Asked:
    """A request that a worker has; `load_ns` is how long the worker and its model were waited for."""

    answers: Answers
    worker: Worker
    load_ns: int


async def pieces_of(
    answers: Answers, worker: Worker, model: str, end: Callable[[Done], Ending]
) -> AsyncGenerator[Piece, None]:
    """Yield the pieces of an answer of `worker`; the last one has the ending.

    Words that came while the reader was busy elsewhere are one piece.

    Raises:
        ModelError: the worker could not answer, or is gone.
    """
    prompt_tokens = 0
    while taken := await answers.take():
        for answer in _joined(taken):
            match answer:
                case Text():
                    if answer.logprobs_json and not logprobs.is_well_formed(answer.logprobs_json):
                        raise AnswerFailed("its worker sent log-probabilities that are none")
                    yield Piece(answer.text, answer.thinking, answer.tokens, prompt_tokens, answer.logprobs_json)
                case ToolCall():
                    yield Piece(call=Call(answer.name, answer.arguments_json), prompt_tokens=prompt_tokens)
                case Done():
                    yield Piece(ending=end(answer), tokens=answer.eval_tokens, prompt_tokens=answer.prompt_tokens)
                    return
                case Failed():
                    raise error_of(answer, model)
                case Progress():
                    prompt_tokens = answer.total
    raise worker.failure()


async def done_of(asked: Asked, model: ServedModel) -> Done:
    """Return the end of a request that has no other answer."""
    while taken := await asked.answers.take():
        match taken[-1]:
            case Done() as done:
                return done
            case Failed() as failed:
                raise error_of(failed, model.name)
    raise asked.worker.failure()


def _joined(answers: Sequence[Answer]) -> Iterator[Answer]:
    """Yield the answers with neighbouring words put together."""
    last: Text | None = None
    for answer in answers:
        both = joined(last, answer) if last is not None and isinstance(answer, Text) else None
        if last is not None and both is None:
            yield last
        if isinstance(answer, Text):
            last = both or answer
        else:
            last = None
            yield answer
    if last is not None:
        yield last


def ending_of(done: Done, total_ns: int, load_ns: int) -> Ending:
    """Return how an answer ended."""
    return Ending(
        reason=done.reason,
        prompt_tokens=done.prompt_tokens,
        eval_tokens=done.eval_tokens,
        total_ns=total_ns,
        load_ns=load_ns,
        prompt_ns=done.prompt_ns,
        eval_ns=done.eval_ns,
        context=done.context,
        cached_tokens=done.cached_tokens,
        stopped_by=done.stopped_by or "",
    )


def error_of(failed: Failed, model: str) -> ModelError:
    """Return the named error that a worker's failure is; `model` is the name that was asked for."""
    match failed.kind:
        case "prompt-too-long":
            return PromptTooLong(failed.tokens, failed.limit)
        case "template":
            return TemplateInvalid(failed.why)
        case "capability":
            return CapabilityMissing(f'"{model}"', failed.why)
        case "option":
            return OptionInvalid("context", "a token id", failed.why)
        case "format":
            return FormatInvalid(failed.why)
        case "memory":
            return ContextTooLarge(failed.tokens, failed.limit)
        case "adapter":
            return AdapterMissing(failed.why)
        case "model":
            return ModelRefused(failed.why)
    return AnswerFailed(failed.why)
