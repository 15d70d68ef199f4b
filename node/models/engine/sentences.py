"""What a model of sentence embeddings says about itself: how its words become one vector, and how long a text may be.

Source: the files of the sentence-transformers library, which publishers write: `modules.json` lists the steps,
`N_Pooling/config.json` says how vectors of tokens become one, `sentence_*_config.json` gives the longest input. What
is asked for there and is not done here is refused by its name: a vector made otherwise would be a wrong one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from node.models.errors import ModelRefused
from store.embedding_files import MODULES, SENTENCE_CONFIGS, embeds, is_step_config

MAX_FILE_BYTES: Final = 1 << 20
_PROMPTS: Final = "config_sentence_transformers.json"
_NO_STEP_CONFIG: Final = frozenset({"Transformer", "Normalize"})


class Pooling(StrEnum):
    """How the vectors of a text's tokens become one."""

    MEAN = "mean"
    CLS = "cls"
    LAST = "last"
    MAX = "max"


# As the library writes them: one switch for each way, or in newer files one word. The mean divided by the root of the
# length points where the mean does, and length is taken out at the end.
_SWITCHES: Final[Mapping[str, Pooling | None]] = {
    "pooling_mode_cls_token": Pooling.CLS,
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_max_tokens": Pooling.MAX,
    "pooling_mode_mean_sqrt_len_tokens": Pooling.MEAN,
    "pooling_mode_lasttoken": Pooling.LAST,
    "pooling_mode_weightedmean_tokens": None,
}
_WORDS: Final[Mapping[str, Pooling]] = {
    "cls": Pooling.CLS,
    "mean": Pooling.MEAN,
    "max": Pooling.MAX,
    "mean_sqrt_len_tokens": Pooling.MEAN,
    "lasttoken": Pooling.LAST,
}


@dataclass(frozen=True)
class Sentences:
    """How a model embeds: `max_tokens` bounds a text (None: what the model has places for), `prefix` goes before it."""

    pooling: Pooling
    max_tokens: int | None = None
    lower_case: bool = False
    prefix: str = ""
    notes: tuple[str, ...] = ()


def is_embedding_model(directory: Path, model_type: str) -> bool:
    """Return whether the model in `directory` is one that embeds, and does not write."""
    return embeds(model_type, [MODULES] if (directory / MODULES).is_file() else [])


def read_sentences(directory: Path) -> Sentences:
    """Return what the model in `directory` says; the mean of all tokens where it says nothing.

    Raises:
        ModelRefused: a file cannot be read, or asks for what is not done here.
    """
    max_tokens, lower_case = _read_limits(directory)
    if not (directory / MODULES).is_file():
        note = "the model does not say how it embeds: the mean of all its tokens is taken"
        return Sentences(Pooling.MEAN, max_tokens, lower_case, notes=(note,))
    return Sentences(_read_steps(directory), max_tokens, lower_case, _read_prefix(directory))


def _read_steps(directory: Path) -> Pooling:
    pooling = None
    steps = _read(directory, MODULES)
    for step in steps if isinstance(steps, list) else [None]:
        kind = step.get("type") if isinstance(step, dict) else None
        path = step.get("path") if isinstance(step, dict) else None
        if not isinstance(kind, str) or not isinstance(path, str):
            raise ModelRefused(f"{MODULES}: expected a list of steps, each with a type and a path")
        name = kind.rpartition(".")[2]
        if name == "Transformer" and path:
            raise ModelRefused(f"{MODULES}: the model lies in the folder {path[:40]!r}, expected beside it")
        if name == "Pooling" and pooling is None and is_step_config(f"{path}/config.json"):
            pooling = _read_pooling(_read(directory, f"{path}/config.json"))
        elif name not in _NO_STEP_CONFIG:
            raise ModelRefused(f"{MODULES}: the step {name[:40]!r} in {path[:40]!r} is not known here")
    if pooling is None:
        raise ModelRefused(f"{MODULES}: no step makes one vector of a text")
    return pooling


def _read_pooling(config: Any) -> Pooling:
    if not isinstance(config, dict):
        raise ModelRefused("the pooling's config.json is no JSON object")
    if config.get("include_prompt") is False:
        raise ModelRefused("pooling without the tokens of a prompt is not known here")
    word = config.get("pooling_mode")
    if word is not None:
        words = word if isinstance(word, list) else [word]
        found = [_WORDS.get(str(word)) for word in words]
    else:
        words = [name for name in config if name.startswith("pooling_mode_") and config[name]]
        found = [_SWITCHES.get(name) for name in words]
    ways = set(found)
    if len(ways) != 1 or (way := ways.pop()) is None:
        named = ", ".join(str(word).removeprefix("pooling_mode_")[:40] for word in words[:4]) or "none"
        raise ModelRefused(f"pooling {named} is not known here, expected one of {', '.join(_WORDS)}")
    return way


def _read_limits(directory: Path) -> tuple[int | None, bool]:
    limits = []
    name = next((name for name in SENTENCE_CONFIGS if (directory / name).is_file()), None)
    config = _read_object(directory, name) if name else {}
    limits.append(config.get("max_seq_length"))
    if (directory / "tokenizer_config.json").is_file():
        limits.append(_read_object(directory, "tokenizer_config.json").get("model_max_length"))
    given = [limit for limit in limits if type(limit) is int and limit > 0]
    # The publisher's own limit counts; the tokenizer's only where there is none.
    return (given[0] if given else None), config.get("do_lower_case") is True


def _read_prefix(directory: Path) -> str:
    if not (directory / _PROMPTS).is_file():
        return ""
    config = _read_object(directory, _PROMPTS)
    prompts, chosen = config.get("prompts"), config.get("default_prompt_name")
    if chosen is None:
        return ""
    prefix = prompts.get(chosen) if isinstance(prompts, dict) and isinstance(chosen, str) else None
    if not isinstance(prefix, str):
        raise ModelRefused(f"{_PROMPTS}: names a prompt that it does not have")
    return prefix


def _read_object(directory: Path, name: str) -> dict[str, Any]:
    value = _read(directory, name)
    if not isinstance(value, dict):
        raise ModelRefused(f"{name}: expected a JSON object")
    return value


def _read(directory: Path, name: str) -> Any:
    path = directory / name
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ModelRefused(f"{name} has more than {MAX_FILE_BYTES} bytes")
        return json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelRefused(f"{name}: {type(error).__name__}") from error
