"""How models are served: what the TILENODE_… variables say, read once at the node's start."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from node.api.durations import parse_go_duration
from node.api.errors import BodyInvalid
from node.errors import VariableInvalid

MAX_LOADED: Final = "TILENODE_MAX_LOADED_MODELS"
NUM_PARALLEL: Final = "TILENODE_NUM_PARALLEL"
MAX_QUEUE: Final = "TILENODE_MAX_QUEUE"
MAX_MEMORY: Final = "TILENODE_MAX_MEMORY"
KEEP_ALIVE: Final = "TILENODE_KEEP_ALIVE"
LOAD_TIMEOUT: Final = "TILENODE_LOAD_TIMEOUT"
PREFIX_CACHE: Final = "TILENODE_PREFIX_CACHE"
KV_CACHE: Final = "TILENODE_KV_CACHE"
VARIABLES: Final = (MAX_LOADED, NUM_PARALLEL, MAX_QUEUE, MAX_MEMORY, KEEP_ALIVE, LOAD_TIMEOUT, PREFIX_CACHE, KV_CACHE)

MOST_ROWS: Final = 256
_BYTES: Final = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?([KMGT]i?)B?", re.ASCII | re.IGNORECASE)
_POWERS: Final = {"K": 1, "M": 2, "G": 3, "T": 4}
_OFF: Final = frozenset({"0", "off", "no", "false"})
_KV_BITS: Final = {"full": 0, "f16": 0, "8": 8, "q8": 8, "q8_0": 8, "4": 4, "q4": 4, "q4_0": 4}


@dataclass(frozen=True)
class Serving:
    """How models are served; `max_memory_bytes` 0 leaves that to the node, a negative keep-alive is for ever.

    `prefix_cache_bytes` is what prompts that were read may take on the disk, 0 for nothing. Keys and values of contexts
    have `kv_bits` bits, 0 for as they are computed.
    """

    max_loaded: int = 3
    num_parallel: int = 16
    max_queue: int = 64
    max_memory_bytes: int = 0
    keep_alive_s: float = 300.0
    load_timeout_s: float = 600.0
    prefix_cache_bytes: int = 4 << 30
    kv_bits: int = 0


def read_serving(environ: Mapping[str, str]) -> Serving:
    """Return what `environ` says about serving models; an empty variable says nothing.

    Raises:
        VariableInvalid: a variable has a value that means nothing here.
    """
    plain = Serving()
    return Serving(
        max_loaded=_whole(environ, MAX_LOADED, plain.max_loaded, 1, 64),
        num_parallel=_whole(environ, NUM_PARALLEL, plain.num_parallel, 1, MOST_ROWS),
        max_queue=_whole(environ, MAX_QUEUE, plain.max_queue, 0, 100_000),
        max_memory_bytes=_bytes(environ, MAX_MEMORY, plain.max_memory_bytes),
        keep_alive_s=_duration(environ, KEEP_ALIVE, plain.keep_alive_s),
        load_timeout_s=_timeout(environ, LOAD_TIMEOUT, plain.load_timeout_s),
        prefix_cache_bytes=_bytes_or_off(environ, PREFIX_CACHE, plain.prefix_cache_bytes),
        kv_bits=_kv_bits(environ),
    )


def _whole(environ: Mapping[str, str], name: str, plain: int, lo: int, hi: int) -> int:
    text = environ.get(name, "").strip()
    if not text:
        return plain
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and lo <= int(text) <= hi):
        raise VariableInvalid(name, text, f"a whole number from {lo} to {hi}")
    return int(text)


def _bytes(environ: Mapping[str, str], name: str, plain: int) -> int:
    text = environ.get(name, "").strip()
    if not text:
        return plain
    found = _BYTES.fullmatch(text)
    if found is None or float(found[1]) == 0:
        raise VariableInvalid(name, text, "an amount of memory, such as 12GB or 512MiB")
    base = 1024 if found[2].lower().endswith("i") else 1000
    return int(float(found[1]) * base ** _POWERS[found[2][0].upper()])


def _bytes_or_off(environ: Mapping[str, str], name: str, plain: int) -> int:
    return 0 if environ.get(name, "").strip().lower() in _OFF else _bytes(environ, name, plain)


def _kv_bits(environ: Mapping[str, str]) -> int:
    text = environ.get(KV_CACHE, "").strip().lower()
    if text and text not in _KV_BITS:
        raise VariableInvalid(KV_CACHE, text, "8, 4 or full")
    return _KV_BITS.get(text, 0)


def _duration(environ: Mapping[str, str], name: str, plain: float) -> float:
    text = environ.get(name, "").strip()
    if not text:
        return plain
    if re.fullmatch(r"-?[0-9]{1,9}", text, re.ASCII):
        return float(text)
    try:
        return parse_go_duration(text)
    except BodyInvalid:
        raise VariableInvalid(name, text, "a number of seconds or a duration, such as 300 or 1h30m") from None


def _timeout(environ: Mapping[str, str], name: str, plain: float) -> float:
    seconds = _duration(environ, name, plain)
    if not 1 <= seconds <= 24 * 3600:
        raise VariableInvalid(name, environ[name], "a time from 1s to 24h")
    return seconds
