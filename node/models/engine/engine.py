"""The one place that knows mlx-lm: load a model strictly, render prompts, and turn text into tokens and back.

Every call must come from the thread that loaded the model. Internal signatures of mlx-lm change between patch
releases; this file is where that is absorbed.
"""

import json
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import psutil
from mlx.utils import tree_flatten
from mlx_lm import utils

from node.models.blas import use_one_thread
from node.models.engine.caches import make_row_caches
from node.models.engine.config_file import context_tokens, one_line, read_config
from node.models.engine.cpu_math import speed_up_cpu
from node.models.engine.forms import Forms
from node.models.engine.insertion import Insertion
from node.models.engine.quantized_cache import choose_caches
from node.models.engine.reading import OPERATIONS_A_NUMBER
from node.models.errors import CapabilityMissing, ModelRefused, OptionInvalid, PromptTooLong, TemplateInvalid
from node.models.limits import TimeUsedUp, bounded
from node.models.templates import render_chat
from protocol.worker.messages import MAX_NAME_BYTES

# mlx-lm publishes no types for most of what is used here.
_mlx_lm: Final[Any] = utils
# Of the memory that is free, what float32 weights may take; the rest is for the cache and everybody else.
FLOAT32_SHARE: Final = 0.6
# Up to so many bytes of weights, one thread is as fast as several: a product then takes some 30 microseconds.
ONE_THREAD_BYTES: Final = 16 * 1024 * 1024
# Counts the changes of what `cpu_math` computes: what was read before such a change is not what would be read now.
ARITHMETIC: Final = 2


class Engine:
    """A loaded model with its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any, config: Mapping[str, Any]) -> None:
        self.model = model
        self._tokenizer = tokenizer
        # A tokenizer of the fast kind cannot be asked by two threads at once, and text is made on another than this.
        self.lock = threading.RLock()
        self._token_bytes: dict[int, bytes] = {}
        self._detokenizer = tokenizer.detokenizer
        self.stops = frozenset(int(token) for token in tokenizer.eos_token_ids)
        self.insertion = Insertion.of(tokenizer.get_vocab())
        self.architecture = str(config["model_type"])
        self.vocabulary = _vocabulary(model, config, tokenizer)
        self.context_tokens = context_tokens(config)
        self.forms = Forms(tokenizer, self.vocabulary, self.parse_tool_call)
        self.can_think = self.forms.can_think(self._own_template(False))
        self.can_use_tools = self.forms.can_use_tools
        self.has_template = bool(tokenizer.has_chat_template)

    @classmethod
    def load(cls, directory: Path) -> "Engine":
        """Return the model in `directory`, every tensor checked against what its architecture needs.

        Raises:
            ModelRefused: unknown architecture, missing or extra tensors, damaged files, code instead of a model.
        """
        speed_up_cpu()
        config = read_config(directory)
        _require_architecture(config)
        try:
            model, config = _mlx_lm.load_model(directory, lazy=True, strict=True, trust_remote_code=False)
            model = _in_fast_type(model)
            mx.eval(model.parameters())
            if mx.get_active_memory() <= ONE_THREAD_BYTES:
                use_one_thread()
            tokenizer = _mlx_lm.load_tokenizer(
                directory, {"trust_remote_code": False}, eos_token_ids=config.get("eos_token_id")
            )
            return cls(model, tokenizer, config)
        except ModelRefused:
            raise
        except Exception as error:  # a model's files can make mlx-lm raise anything; the load is refused
            raise ModelRefused(one_line(error)) from error

    @property
    def shape(self) -> str:
        """What tells what this model reads from what the same model reads elsewhere."""
        parameters: dict[str, mx.array] = dict(tree_flatten(self.model.parameters()))
        types = sorted({str(array.dtype) for array in parameters.values()})
        programs = f"mlx {version('mlx')}, mlx-lm {version('mlx-lm')}, own {ARITHMETIC}"
        return f"{programs}, {mx.default_device()}, {' '.join(types)}"

    @property
    def memory_bytes(self) -> int:
        """Bytes that MLX holds now."""
        return int(mx.get_active_memory())

    @property
    def head_tokens(self) -> int:
        """How many tokens of a prompt may be read with a prediction for each, before that takes longer than a pass."""
        width = getattr(getattr(self.model, "args", None), "hidden_size", None)
        head = self.vocabulary * width if isinstance(width, int) else _mlx_lm.get_total_parameters(self.model)
        return max(1, OPERATIONS_A_NUMBER * int(_mlx_lm.get_total_parameters(self.model)) // max(1, head))

    def row_maker(self, kv_bits: int) -> Callable[[], list[Any]]:
        """Return what makes the caches of one row, with keys and values in `kv_bits` bits (0: as they are computed)."""

        def make() -> list[Any]:
            return make_row_caches(self.model)

        return (choose_caches(self.model, make, kv_bits) if kv_bits else None) or make

    def load_adapters(self, model: Any, directory: str) -> Any:
        """Lay the adapter in `directory` over `model`, as mlx-lm does it."""
        return _mlx_lm.load_adapters(model, directory)

    def read_one(self, caches: list[Any]) -> None:
        """Read one token into `caches`."""
        self.model(mx.array([[0]]), cache=caches)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        template: str | None,
        thinking: bool,
        effort: str = "",
    ) -> str:
        """Return the prompt text for `messages`; `template` replaces the model's own, `effort` is how hard to think.

        Raises:
            TemplateInvalid: the template is broken, went over its limits or refused the messages.
            CapabilityMissing: the model has no chat template, and none was given.
        """
        chosen = template or self._own_template(bool(tools))
        try:
            with bounded():
                if chosen is None:
                    return self._render_by_code(messages, tools, thinking)
                return render_chat(
                    chosen,
                    messages,
                    tools=tools,
                    thinking=thinking,
                    special_tokens=self._special_tokens(),
                    now=datetime.now().astimezone(),
                    effort=effort,
                )
        except TimeUsedUp as error:
            raise TemplateInvalid(str(error)) from error

    def encode_chat(self, text: str) -> list[int]:
        """Return the tokens of a rendered chat; the template wrote its own special tokens."""
        return self._encode(text, False)

    def encode_prompt(self, text: str) -> list[int]:
        """Return the tokens of a prompt that no template touched, with the model's beginning-of-text token."""
        begin = self._tokenizer.bos_token
        add = begin is None or not text.startswith(begin)
        return self._encode(text, add)

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        with self.lock:
            found: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return found

    def detokenizer(self, *, goes_on: bool = False) -> Any:
        """Return a fresh streaming detokenizer: `add_token`, `finalize`, `last_segment`.

        With `goes_on` its words stand directly behind others, and a space before the first of them is kept.
        """
        fresh = copy(self._detokenizer)  # making one lists the whole vocabulary; all share that list
        fresh.reset()
        if goes_on and not isinstance(getattr(type(fresh), "text", None), property):
            # It trims the space at the beginning of a text, and knows the beginning by there being no text yet.
            fresh.text, fresh.offset = "\n", 1
        return fresh

    def token_bytes(self, token: int) -> bytes:
        """Return what a token says by itself; nothing for those that end an answer."""
        if token not in self._token_bytes:
            try:
                said = self.forms.token_bytes(token)
            except CapabilityMissing:  # what it says at the beginning of a text is the next best
                detokenizer = self.detokenizer()
                detokenizer.add_token(token)
                detokenizer.finalize()
                said = str(detokenizer.text).encode()
            self._token_bytes[token] = said
        return self._token_bytes[token]

    def parse_tool_call(self, text: str, tools: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
        """Return (name, arguments as JSON text) of each call in `text`, what stood between the tool tags; empty: none.

        A model can write anything there; what the parser of its family does not take is no call.
        """
        try:
            parsed = self._tokenizer.tool_parser(text, list(tools))
            calls = parsed if isinstance(parsed, list) else [parsed]
            return [(_call_name(call), _call_arguments(call)) for call in calls]
        except (ValueError, LookupError, TypeError, AttributeError, SyntaxError, RecursionError):
            return []

    def require_prompt(self, prompt: Sequence[int], window: int) -> None:
        """Accept a prompt that can be answered within `window` tokens.

        Raises:
            CapabilityMissing: it is empty.
            OptionInvalid: a token id beyond the vocabulary.
            PromptTooLong: it leaves no room for an answer.
        """
        if not prompt:
            raise CapabilityMissing(self.architecture, "an empty prompt")
        if min(prompt) < 0 or max(prompt) >= self.vocabulary:
            raise OptionInvalid("context", max(prompt), f"token ids below {self.vocabulary}")
        if len(prompt) >= window:
            raise PromptTooLong(len(prompt), window)

    def _own_template(self, with_tools: bool) -> str | None:
        template = self._tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("tool_use" if with_tools else "default") or template.get("default")
        return template if isinstance(template, str) else None

    def _render_by_code(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], thinking: bool
    ) -> str:
        # Some families have no Jinja template: mlx-lm renders them with code of its own, never the publisher's.
        if not self.has_template:
            raise CapabilityMissing(self.architecture, "chat")
        try:
            rendered = self._tokenizer.apply_chat_template(
                list(messages),
                tools=list(tools) or None,
                add_generation_prompt=True,
                tokenize=False,
                enable_thinking=thinking,
            )
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise TemplateInvalid(one_line(error)) from error
        return str(rendered)

    def _special_tokens(self) -> dict[str, str]:
        return {name: str(text) for name, text in self._tokenizer.special_tokens_map.items() if isinstance(text, str)}


def load_trunk(directory: Path) -> tuple[Any, dict[str, Any]]:
    """Return a decoder for its vectors instead of its words, and its config: `trunk.model(ids, cache=caches)`.

    It has no head, whether its files have one or not. Publishers of embeddings write the tensors' names without the
    `model.` that mlx-lm expects before them.

    Raises:
        ModelRefused: as `Engine.load`; or it reads in both directions, which mlx-lm does not know.
    """
    speed_up_cpu()
    config = read_config(directory)
    _require_architecture(config)
    if config.get("use_bidirectional_attention") or config.get("is_causal") is False:
        raise ModelRefused(f"{config['model_type']!r} that reads in both directions is not known here")
    try:
        model, config = _mlx_lm.load_model(
            directory,
            lazy=True,
            strict=True,
            trust_remote_code=False,
            model_config={"tie_word_embeddings": True},
            get_model_classes=_headless,
        )
        model = _in_fast_type(model)
        mx.eval(model.parameters())
    except ModelRefused:
        raise
    except Exception as error:  # a model's files can make mlx-lm raise anything; the load is refused
        raise ModelRefused(one_line(error)) from error
    if not callable(getattr(model, "model", None)):
        raise ModelRefused(f"embedding with the architecture {config['model_type']!r} is not known here")
    return model, config


def _headless(config: dict[str, Any]) -> tuple[Any, Any]:
    model_class, arguments_class = _mlx_lm._get_classes(config)

    class Headless(model_class):  # type: ignore[misc, valid-type]  # its base is known only now
        def sanitize(self, weights: dict[str, mx.array]) -> Any:
            if not any(name.startswith("model.") for name in weights):
                weights = {f"model.{name}": tensor for name, tensor in weights.items()}
            weights = {name: tensor for name, tensor in weights.items() if not name.startswith("lm_head.")}
            return super().sanitize(weights) if hasattr(model_class, "sanitize") else weights

    return Headless, arguments_class


def _require_architecture(config: dict[str, Any]) -> None:
    try:
        _mlx_lm._get_classes(config)
    except (ValueError, AttributeError, ImportError) as error:
        raise ModelRefused(f"unknown architecture {config['model_type']!r}") from error


def _in_fast_type(model: Any) -> Any:
    # On CPUs half precision is emulated: float32 with OpenBLAS is 10 to 60 times faster. Metal keeps the native type.
    if mx.default_device() != mx.cpu or sys.platform != "linux":
        return model
    room = psutil.virtual_memory().available * FLOAT32_SHARE
    if _mlx_lm.get_total_parameters(model) * 4 > room:
        return model
    if any(path.endswith(".scales") for path in dict(tree_flatten(model.parameters()))):
        model = _mlx_lm.dequantize_model(model)
    model.set_dtype(mx.float32)
    return model


def _vocabulary(model: Any, config: Mapping[str, Any], tokenizer: Any) -> int:
    nested = config.get("text_config")
    for source in (config, nested if isinstance(nested, dict) else {}):
        if isinstance(size := source.get("vocab_size"), int):
            return size
    size = getattr(getattr(model, "args", None), "vocab_size", None)
    return size if isinstance(size, int) else len(tokenizer)


def _call_name(call: Mapping[str, Any]) -> str:
    name = call["name"]
    if not isinstance(name, str) or not 0 < len(name.encode()) <= MAX_NAME_BYTES:
        raise ValueError("a tool call without a name that can be told")
    return name


def _call_arguments(call: Mapping[str, Any]) -> str:
    arguments = call.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(arguments, dict):
        raise ValueError("tool arguments that are no object")
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    text.encode()  # half a character is a ValueError here, and would be a broken stream later
    return text
