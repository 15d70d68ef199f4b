"""One answer from beginning to end, inside the worker: prompt, tokens, text, and the account of what it took."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from node.models.engine.engine import Engine, Prefilled
from node.models.engine.text_stream import Kind, Segment, StopStrings, TagSplitter
from node.models.errors import (
    CapabilityMissing,
    ModelError,
    ModelRefused,
    OptionInvalid,
    PromptTooLong,
    TemplateInvalid,
)
from protocol.worker.messages import MAX_WHY_BYTES, Done, Failed, FromWorker, Generate, Progress, Text, ToolCall


@dataclass
class _Account:
    """What a request took so far; times are monotonic nanoseconds."""

    prompt: list[int]
    started_ns: int
    first_ns: int | None = None
    generated: list[int] = field(default_factory=list)


class Answerer:
    """Answers requests with one engine, one at a time; batches will be formed here, between engine and requests."""

    def __init__(
        self,
        engine: Engine,
        send: Callable[[FromWorker], None],
        is_cancelled: Callable[[int], bool],
        now_ns: Callable[[], int],
    ) -> None:
        self.engine = engine
        self._send = send
        self._is_cancelled = is_cancelled
        self._now_ns = now_ns

    def answer(self, request: Generate) -> None:
        """Answer `request` with messages that end in `Done` or `Failed`."""
        try:
            self._answer(request)
        except ModelError as error:
            self._send(_failed(request.request, error))
        except Exception as error:  # noqa: BLE001 - MLX and tokenizers raise anything; one request fails, the worker lives
            self._send(Failed(request.request, "internal", type(error).__name__))

    def _answer(self, request: Generate) -> None:
        started_ns = self._now_ns()
        tools = json.loads(request.tools_json)
        prompt, opened_thinking = self._prompt(request, tools)
        account = _Account(prompt, started_ns)
        stops = StopStrings(request.stop)
        splitter = self._splitter(request, bool(tools), opened_thinking)
        detokenizer = self.engine.detokenizer()
        reason = "length"
        for step in self.engine.tokens(
            prompt, request.sampling, request.num_ctx, lambda: self._is_cancelled(request.request)
        ):
            if isinstance(step, Prefilled):
                self._send(Progress(request.request, step.done, step.total))
                continue
            account.first_ns = account.first_ns or self._now_ns()
            account.generated.append(step.value)
            if step.last:
                reason = "stop"
                break
            detokenizer.add_token(step.value)
            self._show(request, tools, splitter.feed(stops.feed(detokenizer.last_segment)), account)
            if stops.stopped:
                reason = "stop"
                break
            if 0 < request.num_predict <= len(account.generated):
                break
        if self._is_cancelled(request.request) and reason != "stop":
            reason = "cancelled"
        detokenizer.finalize()
        rest = splitter.feed(stops.feed(detokenizer.last_segment) + stops.finish()) + splitter.finish()
        self._show(request, tools, rest, account)
        self._send(self._done(request, reason, account))

    def _prompt(self, request: Generate, tools: list[dict[str, Any]]) -> tuple[list[int], bool]:
        history = list(request.context)
        if request.prompt is not None:
            if history:
                return history + self.engine.encode_chat(request.prompt), False
            return self.engine.encode_prompt(request.prompt), False
        messages = json.loads(request.messages_json or "[]")
        text = self.engine.render(messages, tools, request.template, request.thinking)
        tags = self.engine.think_tags
        opened = tags is not None and text.rstrip().endswith(tags[0])
        return history + self.engine.encode_chat(text), opened

    def _splitter(self, request: Generate, with_tools: bool, opened_thinking: bool) -> TagSplitter:
        think_tags = self.engine.think_tags if request.thinking or opened_thinking else None
        tool_tags = self.engine.tool_tags if with_tools else None
        return TagSplitter(think_tags, tool_tags, inside_thinking=opened_thinking)

    def _show(self, request: Generate, tools: list[dict[str, Any]], segments: list[Segment], account: _Account) -> None:
        count = len(account.generated)
        for segment in segments:
            if segment.kind is Kind.TOOL_CALL:
                self._call_tools(request, tools, segment.text, count)
            else:
                self._send(Text(request.request, segment.text, segment.kind is Kind.THINKING, count))

    def _call_tools(self, request: Generate, tools: list[dict[str, Any]], text: str, count: int) -> None:
        calls = self.engine.parse_tool_call(text, tools)
        for name, arguments_json in calls:
            self._send(ToolCall(request.request, name, arguments_json))
        if not calls:
            # What is no call is still something the model said; hiding it would leave an empty answer.
            self._send(Text(request.request, text, False, count))

    def _done(self, request: Generate, reason: str, account: _Account) -> Done:
        ended_ns = self._now_ns()
        first_ns = account.first_ns or ended_ns
        return Done(
            request=request.request,
            reason=reason,
            prompt_tokens=len(account.prompt),
            prompt_ns=first_ns - account.started_ns,
            eval_tokens=len(account.generated),
            eval_ns=ended_ns - first_ns,
            context=tuple(account.prompt + account.generated),
        )


def open_answerer(
    directory: str,
    send: Callable[[FromWorker], None],
    is_cancelled: Callable[[int], bool],
    now_ns: Callable[[], int],
) -> Answerer:
    """Return an answerer with the model in `directory` loaded.

    Raises:
        ModelRefused: the model's files cannot be served.
    """
    return Answerer(Engine.load(Path(directory)), send, is_cancelled, now_ns)


def _failed(request: int, error: ModelError) -> Failed:
    match error:
        case PromptTooLong():
            return Failed(request, "prompt-too-long", str(error), error.prompt_tokens, error.context_tokens)
        case OptionInvalid():
            return Failed(request, "option", _short(error.expected))
        case TemplateInvalid():
            return Failed(request, "template", _short(error.reason))
        case CapabilityMissing():
            return Failed(request, "capability", _short(error.capability))
        case ModelRefused():
            return Failed(request, "model", _short(error.reason))
    return Failed(request, "internal", _short(str(error)))


def _short(text: str) -> str:
    # A template words its refusal itself; lone surrogates and length must not stop the message.
    return text.encode(errors="replace").decode()[: MAX_WHY_BYTES // 4]
