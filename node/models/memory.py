"""How much memory models may take, and what each one takes: guessed before it is loaded, corrected by what is seen."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from node.models.library import ServedModel

# Of the machine's memory, what all models together may take unless somebody says otherwise.
DEFAULT_SHARE: Final = 0.75
# A context of this many tokens is what a request gets that names none.
PLAIN_CONTEXT_TOKENS: Final = 4096
# Where nothing is known of a model's contexts yet, what they are thought to take: of its weights, and at least.
CONTEXT_SHARE: Final = 0.25
LEAST_CONTEXT_BYTES: Final = 256 * 1024 * 1024
# What a model needs at the very least to answer one short question.
MINIMAL_CONTEXT_BYTES: Final = 16 * 1024 * 1024
# On Linux half-precision weights are computed in float32, where that fits: twice the bytes of the files.
FILE_GROWTH: Final = 2.0 if sys.platform == "linux" else 1.0
_CGROUP_LIMITS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True)
class Need:
    """Bytes that a model takes: its weights, and the contexts and kept prefixes of its requests."""

    weights: int
    contexts: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.contexts


@dataclass(frozen=True)
class Seen:
    """What an earlier worker of the same weights showed: bytes after loading, and bytes for one token of context."""

    weights: int
    kv_bytes_per_token: int


def guess_need(model: ServedModel, seen: Seen | None, rows: int) -> Need:
    """Return what `model` will take with `rows` requests at once, by what was `seen` of it, else by its files."""
    weights = seen.weights if seen else int(model.size_bytes * FILE_GROWTH)
    if seen and seen.kv_bytes_per_token:
        contexts = seen.kv_bytes_per_token * rows * PLAIN_CONTEXT_TOKENS
    else:
        contexts = int(weights * CONTEXT_SHARE)
    return Need(weights, max(LEAST_CONTEXT_BYTES, contexts))


def default_budget() -> int:
    """Return the bytes that all models together may take on this machine, or in this container. Blocking."""
    total = psutil.virtual_memory().total
    for path in _CGROUP_LIMITS:
        if path.exists() and (limit := path.read_text(encoding="ascii").strip()).isdecimal():
            total = min(total, int(limit))
    return int(total * DEFAULT_SHARE)


def resident_bytes(pid: int) -> int:
    """Return what a process holds in memory now; 0 when it is gone. Blocking, and quick."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
