"""Generation options: defaults, then the Modelfile's PARAMETERs, then the request's own; every value checked."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from node.models.errors import CapabilityMissing, OptionInvalid
from protocol.worker.messages import MAX_SEED, MAX_STOP_BYTES, MAX_STOPS, MAX_TOKENS, Sampling

DEFAULT_NUM_CTX: Final = 4096
UNTIL_FULL: Final = -1

# Name -> lowest and highest allowed value.
_FRACTIONS: Final = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repeat_penalty": (0.001, 100.0),
    "presence_penalty": (-100.0, 100.0),
    "frequency_penalty": (-100.0, 100.0),
}
_INTEGERS: Final = {
    "top_k": (-(2**31), 2**31 - 1),
    "repeat_last_n": (-1, 2**31 - 1),
    "num_ctx": (1, MAX_TOKENS),
    "num_predict": (-2, MAX_TOKENS),
    "seed": (-(2**63), MAX_SEED),
}
# They steer how another runtime loads a model; this one has nothing for them to steer, and answers do not change.
_WITHOUT_EFFECT: Final = frozenset(
    {
        *("numa", "num_batch", "num_gpu", "main_gpu", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mmap"),
        *("use_mlock", "embedding_only", "num_thread", "num_keep", "penalize_newline", "mirostat_tau", "mirostat_eta"),
    }
)
# They would change answers and are not there yet: only the value that switches them off is taken.
_NOT_YET: Final = {"typical_p": 1.0, "tfs_z": 1.0, "mirostat": 0}


@dataclass(frozen=True)
class Wishes:
    """What one request asks of the generation. `seed` None means: any; `unknown` are option names nobody knows."""

    sampling: Sampling
    seed: int | None
    num_ctx: int = DEFAULT_NUM_CTX
    num_predict: int = UNTIL_FULL
    stop: tuple[str, ...] = ()
    unknown: tuple[str, ...] = field(default=())


def resolve_options(
    defaults: Mapping[str, object],
    parameters: Iterable[tuple[str, str | int | float]],
    options: Mapping[str, object],
) -> Wishes:
    """Return what applies: `options` over the Modelfile's `parameters` over `defaults` over the built-in ones.

    None as a value means that the option was not given. `stop` lines of a Modelfile add up; a request's `stop`
    replaces them.

    Raises:
        OptionInvalid: a value of another type or out of its bounds.
        CapabilityMissing: an option that would change the answer and is not supported.
    """
    values: dict[str, object] = {**defaults, **_of_modelfile(parameters)}
    values.update({name: value for name, value in options.items() if value is not None})
    unknown = tuple(sorted(name for name in values if not _take_known(name, values[name])))
    fractions = {name: _fraction(name, values[name]) for name in _FRACTIONS if name in values}
    integers = {name: _integer(name, values[name]) for name in _INTEGERS if name in values}
    seed = integers.pop("seed", -1)
    num_ctx = integers.pop("num_ctx", DEFAULT_NUM_CTX)
    num_predict = integers.pop("num_predict", UNTIL_FULL)
    if "top_k" in integers:
        integers["top_k"] = max(0, integers["top_k"])
    sampling = Sampling(**fractions, **integers)  # type: ignore[arg-type]  # the names decide which value is whole
    return Wishes(sampling, seed if seed >= 0 else None, num_ctx, num_predict, _stops(values.get("stop")), unknown)


def _of_modelfile(parameters: Iterable[tuple[str, str | int | float]]) -> dict[str, object]:
    values: dict[str, object] = {}
    stops: list[object] = []
    for name, value in parameters:
        if name == "stop":
            stops.append(value)
        else:
            values[name] = value
    return {**values, "stop": stops} if stops else values


def _take_known(name: str, value: object) -> bool:
    if name in _NOT_YET and value != _NOT_YET[name]:
        raise CapabilityMissing("this version of tilenode", f"the option {name}")
    return name in _FRACTIONS or name in _INTEGERS or name in _WITHOUT_EFFECT or name in _NOT_YET or name == "stop"


def _fraction(name: str, value: object) -> float:
    lo, hi = _FRACTIONS[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not lo <= value <= hi:
        raise OptionInvalid(name, value, f"a number from {lo:g} to {hi:g}")
    return float(value)


def _integer(name: str, value: object) -> int:
    lo, hi = _INTEGERS[name]
    # JSON knows one kind of number, and clients send 40.0 for 40.
    whole = int(value) if isinstance(value, float) and math.isfinite(value) and value == int(value) else value
    if isinstance(whole, bool) or not isinstance(whole, int) or not lo <= whole <= hi:
        raise OptionInvalid(name, value, f"a whole number from {lo} to {hi}")
    return whole


def _stops(value: object) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        raise OptionInvalid("stop", value, f"at most {MAX_STOPS} texts")
    for stop in stops:
        if not isinstance(stop, str) or len(stop.encode()) > MAX_STOP_BYTES:
            raise OptionInvalid("stop", stop, f"text of at most {MAX_STOP_BYTES} bytes")
    return tuple(stop for stop in stops if stop)
