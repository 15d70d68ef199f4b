"""Named errors of `node.models`: what can go wrong between a question and its answer.

node.errors.NodeError
└── ModelError
    ├── ModelNotFound        no such model in the store
    ├── RequestRefused       the request cannot be served as it stands
    │   ├── OptionInvalid
    │   ├── CapabilityMissing
    │   ├── FormatInvalid        no answer can be made to keep to the wanted format
    │   ├── ToolsInvalid         the tools, or the choice among them
    │   ├── TemplateInvalid
    │   │   └── TemplateForeign
    │   ├── RequestTooLarge      more than any worker takes
    │   ├── PromptTooLong
    │   ├── ContextTooLarge      it can never fit into the memory for contexts
    │   ├── AdapterMissing       no such adapter is loaded
    │   ├── InputTooLong         of a text to embed
    │   └── InputInvalid         of what is to be embedded
    ├── ServerBusy           the queue of this model is full
    │   └── ModelResting     it failed several times in a row and is tried again later
    ├── NothingProved        no model could be asked without letting another one go
    ├── ModelTooLarge        it needs more memory than models may take
    ├── ModelRefused         the model's files cannot be served
    ├── ConversionRefused    the model's weights cannot be converted as asked
    └── WorkerFailed         the model worker process let this request down
        ├── WorkerNotStarted
        ├── WorkerCrashed
        ├── WorkerStalled
        ├── WorkerStopped
        └── AnswerFailed
"""

import math
import signal
import sys

from node.errors import NodeError


class ModelError(NodeError):
    """Base of every error between a question and its answer."""


class ModelNotFound(ModelError):
    """No model of this name is in the store."""

    def __init__(self, name: str, nearest: str | None = None) -> None:
        super().__init__(f"model '{name}' not found")
        self.name = name
        self.hint = f"try pulling it first: tilenode pull {name} --from PEER; `tilenode list` shows what is here"
        if nearest is not None:
            self.hint = f"did you mean {nearest}? If not, {self.hint}"


class RequestRefused(ModelError):
    """The request cannot be served as it stands; another one can."""


class OptionInvalid(RequestRefused):
    """An option has a value outside what it allows."""

    def __init__(self, option: str, value: object, expected: str) -> None:
        super().__init__(f"option {option}: got {str(value)[:40]!r}, expected {expected}")
        self.option = option
        self.expected = expected


class CapabilityMissing(RequestRefused):
    """The model, or this version of tilenode, cannot do what was asked."""

    def __init__(self, subject: str, capability: str) -> None:
        super().__init__(f"{subject} does not support {capability}")
        self.subject = subject
        self.capability = capability


class FormatInvalid(RequestRefused):
    """The wanted format is no JSON schema, or one that answers cannot be held to."""

    hint = "take the named keyword out of the schema, or make the schema smaller"

    def __init__(self, reason: str) -> None:
        super().__init__(f"format: {reason}")
        self.reason = reason


class ToolsInvalid(RequestRefused):
    """The tools cannot be offered as they stand: two of one name, one without a name, a choice that names none."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"tools: {reason}")
        self.reason = reason


class TemplateInvalid(RequestRefused):
    """The chat template is not valid Jinja, went over its limits, or refused these messages."""

    hint = "a TEMPLATE in the Modelfile replaces the model's own; it is Jinja and receives messages and tools"

    def __init__(self, reason: str) -> None:
        super().__init__(f"chat template: {reason}")
        self.reason = reason


class TemplateForeign(TemplateInvalid):
    """A TEMPLATE in the language of another program's Modelfiles."""

    hint = "write TEMPLATE in Jinja, as the model's publisher does, or take it out: then the model's own is used"

    def __init__(self, where: str) -> None:
        super().__init__(f"written in Go's template language ({where}), expected Jinja")
        self.where = where


class RequestTooLarge(RequestRefused):
    """The conversation, its tools or its history are more than any model could read."""

    hint = "shorten the conversation"

    def __init__(self, max_bytes: int, max_tokens: int) -> None:
        super().__init__(f"what is asked has more than {max_bytes} bytes of text, or {max_tokens} tokens of context")
        self.max_bytes = max_bytes
        self.max_tokens = max_tokens


class PromptTooLong(RequestRefused):
    """The prompt leaves no room for an answer in the context window."""

    hint = "raise the option num_ctx (up to what the model was trained for) or shorten the conversation"

    def __init__(self, prompt_tokens: int, context_tokens: int) -> None:
        super().__init__(f"the prompt has {prompt_tokens} tokens, the context window has {context_tokens}")
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens


class ContextTooLarge(RequestRefused):
    """The prompt alone needs more memory than contexts may take here."""

    hint = "ask with a shorter prompt, or start the node with more for models: TILENODE_MAX_MEMORY=24GB"

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(f"the prompt has {tokens} tokens, and there is memory for contexts of {limit}")
        self.tokens = tokens
        self.limit = limit


class AdapterMissing(RequestRefused):
    """The worker has no such adapter: it was let go, or never loaded."""

    hint = "ask again: the adapter is loaded anew"

    def __init__(self, adapter: str) -> None:
        super().__init__("the adapter of this model is not loaded")
        self.adapter = adapter


class InputTooLong(RequestRefused):
    """A text to embed has more tokens than the model reads, or than there is memory for, and may not be cut."""

    hint = "divide the text, or let it be cut with truncate: true"

    def __init__(self, what: str, limit: int) -> None:
        # The first words are the ones that existing clients look for.
        super().__init__(f"the input length exceeds the context length: {what}, at most {limit} are read")
        self.what = what
        self.limit = limit


class InputInvalid(RequestRefused):
    """What is to be embedded is nothing that can be: empty, token ids that the model does not have."""

    hint = "send texts; token ids of another model mean nothing (LangChain: check_embedding_ctx_length=False)"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ServerBusy(ModelError):
    """Too many requests wait for this model already."""

    hint = "wait for the running answers to finish, then ask again"

    def __init__(self, waiting: int) -> None:
        # The wording, two spaces included, is the one that existing clients look for.
        super().__init__("server busy, please try again.  maximum pending requests exceeded")
        self.waiting = waiting


class ModelResting(ServerBusy):
    """The model's worker failed several times in a row; it is tried again when it has rested."""

    def __init__(self, model: str, failures: int, seconds: float) -> None:
        ModelError.__init__(
            self, f"model {model} failed {failures} times in a row and is tried again in {math.ceil(seconds)} s"
        )
        self.waiting = 0
        self.failures = failures
        self.seconds = seconds
        self.hint = f"ask again in {math.ceil(seconds)} s; if it keeps failing, it may need more memory than there is"


class NothingProved(ModelError):
    """Nothing is known to be wrong, but no model could be asked without letting another one go."""

    hint = "ask again when fewer models are in memory, or ask one of those that are"

    def __init__(self) -> None:
        super().__init__("no model that is in memory writes text, and there is no room for another one")


class ModelTooLarge(ModelError):
    """The model can never be loaded here: it needs more memory than models may take."""

    hint = "take a smaller or quantized model, or start the node with more for models: TILENODE_MAX_MEMORY=24GB"

    def __init__(self, model: str, needed_bytes: int, budget_bytes: int) -> None:
        super().__init__(
            f"model {model} needs {needed_bytes / 1e9:.1f} GB of memory, models may take {budget_bytes / 1e9:.1f} GB"
        )
        self.needed_bytes = needed_bytes
        self.budget_bytes = budget_bytes


class ModelRefused(ModelError):
    """The model's files cannot be served: unknown architecture, a missing tensor, damaged weights."""

    hint = "`tilenode verify NAME` checks the files against their digests"

    def __init__(self, reason: str, model: str = "") -> None:
        super().__init__(f"{f'model {model}' if model else 'the model'} cannot be loaded: {reason}")
        self.reason = reason


class ConversionRefused(ModelError):
    """The model's weights cannot be converted as asked; raised only in the process that converts."""


class WorkerFailed(ModelError):
    """The model worker process let this request down; the next request starts a fresh one."""


class WorkerNotStarted(WorkerFailed):
    """The system did not let the model worker process start."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the model worker cannot be started: {reason}")
        self.reason = reason


class WorkerCrashed(WorkerFailed):
    """The model worker process ended while it was needed."""

    hint = "ask again: a fresh worker starts; if it happens each time, the model may need more memory than there is"

    def __init__(self, returncode: int, during: str) -> None:
        super().__init__(f"the model worker {describe_exit(returncode)} while {during}")
        self.returncode = returncode
        self.during = during
        if returncode > 0:
            self.hint = f"to see what stops it, run: {sys.executable} -I -m node.models.worker --check"


class WorkerStalled(WorkerFailed):
    """The model worker gave no sign of life for too long and was stopped."""

    hint = "ask again: a fresh worker starts; if it happens each time, the model is too slow for this machine"

    def __init__(self, silent_s: float, during: str) -> None:
        super().__init__(f"the model worker gave no sign of life for {silent_s:.0f} s while {during} and was stopped")
        self.silent_s = silent_s
        self.during = during


class WorkerStopped(WorkerFailed):
    """The model was let go on purpose while a request still needed it."""

    hint = "ask again: the model is loaded anew"

    def __init__(self, during: str) -> None:
        super().__init__(f"the model was unloaded while {during}")
        self.during = during


class AnswerFailed(WorkerFailed):
    """Something in the worker failed that nobody foresaw; the worker lives on."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the answer failed: {reason}")
        self.reason = reason


def describe_exit(returncode: int) -> str:
    """Return how a process ended, in words that follow its name."""
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    return f"was ended by {name}"
