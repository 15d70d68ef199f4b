"""The answers of one model, many at once: from a request to a row of the batch, and from the row to messages."""

import json
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import psutil

from node.models.engine.batch import Batch
from node.models.engine.caches import bytes_of, compute
from node.models.engine.config_file import one_line
from node.models.engine.drafting import ModelDrafter
from node.models.engine.engine import Engine
from node.models.engine.lora import LoraBank
from node.models.engine.prefix import KeptPrefixes, prefix_share
from node.models.engine.prefix_disk import PrefixDisk
from node.models.engine.rows import Chosen, Row
from node.models.engine.speech import Speech
from node.models.errors import (
    AdapterMissing,
    CapabilityMissing,
    ContextTooLarge,
    FormatInvalid,
    ModelError,
    ModelRefused,
    OptionInvalid,
    PromptTooLong,
    TemplateInvalid,
    ToolsInvalid,
)
from protocol.worker.messages import (
    MAX_WHY_BYTES,
    Done,
    Failed,
    FromWorker,
    Generate,
    Load,
    LoadAdapter,
    Progress,
    Ready,
    Status,
)

# Caches grow by so many tokens at a time.
_STEP: Final = 256
_NS: Final = 1_000_000_000


class Answerer:
    """Answers requests with one engine. All calls come from the thread that loaded it; messages leave from another."""

    def __init__(
        self,
        engine: Engine,
        load: Load,
        send: Callable[[Sequence[FromWorker]], None],
        now_ns: Callable[[], int],
        disk: PrefixDisk | None = None,
    ) -> None:
        """Take a loaded model, the node's wishes for it, what sends the messages of one step, and kept prefixes."""
        self.engine = engine
        self._max_rows = load.max_rows
        self._now_ns = now_ns
        fresh = engine.row_maker(load.kv_bits)
        share = prefix_share(load.memory_bytes, psutil.virtual_memory().total)
        shape = f"{engine.shape}, {load.kv_bits} bits"
        self._prefixes = KeptPrefixes(fresh, shape, share, disk)
        self._adapters = LoraBank(engine.model, engine.load_adapters)
        self._speech = Speech(engine, send, now_ns)
        self.kv_bytes_per_token = _bytes_per_token(engine, fresh)
        self._room = (load.memory_bytes - share) // self.kv_bytes_per_token if load.memory_bytes else 0
        self._batch = Batch(
            engine.model,
            engine.vocabulary,
            fresh,
            self,
            lambda: now_ns() / _NS,
            head_tokens=engine.head_tokens,
            adapters=self._adapters,
            prefixes=self._prefixes,
            drafter=_drafter(load, engine, lambda: now_ns() / _NS),
        )
        if not self._batch.can_share:
            self._max_rows = 1
        self._waiting: deque[Row] = deque()
        self._running: dict[int, Row] = {}
        self._leaving: set[str] = set()

    @property
    def busy(self) -> bool:
        """Whether something is being answered."""
        return bool(self._running)

    def ready(self, notes: tuple[str, ...]) -> Ready:
        """Return what the node is told once the model is loaded."""
        engine = self.engine
        return Ready(
            architecture=engine.architecture,
            context_tokens=engine.context_tokens,
            memory_bytes=engine.memory_bytes,
            can_think=engine.can_think,
            can_use_tools=engine.can_use_tools,
            has_template=engine.has_template,
            notes=notes,
            can_insert=engine.insertion is not None,
            kv_bytes_per_token=self.kv_bytes_per_token,
        )

    def take(self, request: Generate, *, cancelled: bool = False) -> None:
        """Begin to answer `request`; the messages for it end in `Done` or `Failed`."""
        try:
            self._take(request, cancelled)
        except ModelError as error:
            self._speech.tell(failure(request.request, error))
        except Exception as error:  # noqa: BLE001 - templates and tokenizers raise anything; one request fails, the worker lives
            self._speech.tell(Failed(request.request, "internal", type(error).__name__))

    def cancel(self, number: int) -> None:
        """End the request with this number, if it is being answered, before its next token."""
        if (row := self._running.get(number)) is not None:
            row.stopped = True
            self._speech.end(row, "cancelled")

    def load_adapter(self, message: LoadAdapter) -> None:
        """Read an adapter; the messages for it end in `Done` or `Failed`."""
        self._leaving.discard(message.adapter)
        try:
            self._adapters.add(message.adapter, Path(message.directory))
        except (ModelError, OSError) as error:  # somebody may delete the model in this very moment
            told = error if isinstance(error, ModelError) else ModelRefused(f"its adapter: {one_line(error)}")
            self._speech.tell(failure(message.request, told))
            return
        self._speech.tell(Done(message.request, "stop", 0, 0, 0, 0, ()))

    def drop_adapter(self, adapter: str) -> None:
        """Forget an adapter once nobody uses it."""
        self._leaving.add(adapter)
        self._drop_adapters()

    def step(self) -> None:
        """Go on by one step with everything that is being answered."""
        self._admit()
        try:
            self._batch.step()
        except Exception as error:  # noqa: BLE001 - MLX raises anything; what is being answered fails, the worker lives
            waiting = set(self._waiting)
            # Not only the rows that the batch knows: one may just have been read and not be among the others yet.
            for row in [row for row in self._running.values() if row not in waiting]:
                self._speech.fail(row, Failed(row.number, "internal", type(error).__name__))
            self._batch.reset()
        self._forget_ended()

    def idle(self) -> None:
        """Nobody is being answered: do what can wait."""
        self._prefixes.idle()

    def close(self) -> None:
        """Send what is to be sent, and write what is to be kept."""
        self._speech.close()
        self._prefixes.close()

    def read(self, row: Row) -> None:
        """Tell how far the reading of a prompt is."""
        self._speech.tell(Progress(row.number, row.read, len(row.prompt)))

    def chosen(self, tokens: Sequence[Chosen]) -> None:
        """Make text of what one step chose."""
        self._speech.say(tokens)

    def failed(self, row: Row, error: ModelError) -> None:
        """Tell that a row ended because of `error`."""
        self._speech.fail(row, failure(row.number, error))

    def _take(self, request: Generate, cancelled: bool) -> None:
        started_ns, engine = self._now_ns(), self.engine
        text, prompt = self._prompt(request)
        if request.count_only:
            self._speech.tell(Done(request.request, "stop", len(prompt), 0, 0, 0, ()))
            return
        window = min(request.num_ctx, engine.context_tokens)
        engine.require_prompt(prompt, window)
        self._require_options(request)
        if self._room and len(prompt) >= self._room:
            raise ContextTooLarge(len(prompt), self._room)
        most = min(window, self._room or window) - len(prompt)
        form = engine.forms.form(request, text)
        stops = engine.stops
        if request.suffix is not None and engine.insertion is not None:
            stops |= engine.insertion.stops
        row = Row(
            number=request.request,
            prompt=prompt,
            sampling=request.sampling,
            most=min(most, request.num_predict) if request.num_predict > 0 else most,
            stops=stops,
            adapter=request.adapter,
            constraint=form.constraint,
            likely=request.top_logprobs,
        )
        self._speech.begin(row, form, request.stop, started_ns, goes_on=request.prompt is not None)
        self._running[row.number] = row
        self._waiting.append(row)
        if cancelled:
            self.cancel(row.number)

    def _prompt(self, request: Generate) -> tuple[str, list[int]]:
        """Return the prompt as text and as tokens."""
        engine, history = self.engine, list(request.context)
        if request.prompt is not None:
            if request.suffix is not None:
                if engine.insertion is None:
                    raise CapabilityMissing(engine.architecture, "insert")
                return request.prompt, engine.insertion.prompt(request.prompt, request.suffix, engine.encode_chat)
            encode = engine.encode_chat if history else engine.encode_prompt
            return request.prompt, history + encode(request.prompt)
        messages: list[dict[str, Any]] = json.loads(request.messages_json or "[]")
        tools = engine.forms.tools_for_prompt(request)
        text = engine.render(messages, tools, request.template, request.thinking, request.effort)
        return text, history + engine.encode_chat(text)

    def _require_options(self, request: Generate) -> None:
        if request.adapter and request.adapter not in self._adapters.names:
            raise AdapterMissing(request.adapter)
        for token, _ in request.sampling.logit_bias:
            if token >= self.engine.vocabulary:
                raise OptionInvalid("logit_bias", token, f"token ids below {self.engine.vocabulary}")

    def _admit(self) -> None:
        began = False
        while self._waiting and len(self._batch.rows) < self._max_rows:
            row = self._waiting[0]
            if not row.stopped and not self._fits(row):
                break
            self._waiting.popleft()
            if not row.stopped:
                self._batch.add(row)
                began = True
        if began:
            self._tell_status()

    def _fits(self, row: Row) -> bool:
        """Return whether the caches of all rows, each padded to the longest, keep within their memory with `row`."""
        rows = [*self._batch.rows, row]
        longest = max(len(each.prompt) + each.most for each in rows)
        return not self._room or len(rows) == 1 or len(rows) * -(-longest // _STEP) * _STEP <= self._room

    def _forget_ended(self) -> None:
        """Forget the rows that are no longer being answered."""
        alive = {*self._batch.rows, *(row for row in self._waiting if not row.stopped)}
        ended = [row for row in self._running.values() if row not in alive]
        for row in ended:
            del self._running[row.number]
        if ended:
            self._drop_adapters()
            self._tell_status()

    def _drop_adapters(self) -> None:
        for adapter in self._leaving - {row.adapter for row in self._running.values()}:
            self._adapters.drop(adapter)
            self._leaving.discard(adapter)

    def _tell_status(self) -> None:
        self._speech.tell(
            Status(
                memory_bytes=self.engine.memory_bytes,
                prefix_bytes=self._prefixes.nbytes,
                rows=len(self._batch.rows),
                waiting=len(self._waiting),
                prefix_hits=self._prefixes.hits,
                prefix_misses=self._prefixes.misses,
            )
        )


def open_answerer(load: Load, send: Callable[[Sequence[FromWorker]], None], now_ns: Callable[[], int]) -> Answerer:
    """Return an answerer with the model that `load` names loaded.

    Raises:
        ModelRefused: the model's files cannot be served.
    """
    # It looks through its files while the model is read.
    disk = PrefixDisk(load.cache) if load.cache is not None else None
    return Answerer(Engine.load(Path(load.directory)), load, send, now_ns, disk)


def failure(request: int, error: ModelError) -> Failed:
    """Return the message that tells `error`."""
    match error:
        case PromptTooLong():
            return Failed(request, "prompt-too-long", str(error), error.prompt_tokens, error.context_tokens)
        case ContextTooLarge():
            return Failed(request, "memory", str(error), error.tokens, error.limit)
        case OptionInvalid():
            return Failed(request, "option", _short(error.expected))
        case TemplateInvalid():
            return Failed(request, "template", _short(error.reason))
        case CapabilityMissing():
            return Failed(request, "capability", _short(error.capability))
        case FormatInvalid() | ToolsInvalid():
            return Failed(request, "format", _short(error.reason))
        case AdapterMissing():
            return Failed(request, "adapter", _short(str(error)))
        case ModelRefused():
            return Failed(request, "model", _short(error.reason))
    return Failed(request, "internal", _short(str(error)))


def _drafter(load: Load, engine: Engine, now_s: Callable[[], float]) -> ModelDrafter | None:
    if load.draft is None:
        return None
    draft = Engine.load(Path(load.draft))
    return ModelDrafter(draft.model, draft.vocabulary, engine.vocabulary, now_s)


def _bytes_per_token(engine: Engine, fresh: Callable[[], list[Any]]) -> int:
    # What one token more takes is what a whole step takes, by its part; this also prepares the first pass of all.
    caches = fresh()
    engine.read_one(caches)
    compute(caches)
    return max(1, bytes_of(caches) // _STEP)


def _short(text: str) -> str:
    # A template words its refusal itself; lone surrogates and length must not stop the message.
    return text.encode(errors="replace").decode()[: MAX_WHY_BYTES // 4]
