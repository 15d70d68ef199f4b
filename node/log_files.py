"""The node's own log files: one JSON object a line, rotated, fixed event names and fields, never content."""

import json
import logging
import logging.handlers
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from node.peer.budget import Budget
from node.ports import SystemClock

MAX_FILE_BYTES: Final = 2_000_000
KEPT_FILES: Final = 5
# Of one event about one peer.
LINES_AT_ONCE: Final = 100.0
LINES_PER_S: Final = 0.05
LOG_FILE: Final = "node.jsonl"
# What every LogRecord has anyway; everything else on a record is a field of the event.
_STANDARD_FIELDS: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_LIBRARIES: Final = ("libp2p", "hypercorn", "httpx", "multiaddr", "anyio", "asyncio")


class JsonLines(logging.Formatter):
    """One JSON object per record: time, level, logger, event and its fields.

    Of an exception only its class and place are written: messages can quote what other people sent.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return `record` as one line of JSON."""
        fields = {name: value for name, value in record.__dict__.items() if name not in _STANDARD_FIELDS}
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **fields,
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__
            line["at"] = _place(record)
        return json.dumps(line, default=str)  # in ASCII: what is quoted in a field cannot command a terminal


class PerPeer(logging.Filter):
    """Lets each peer cause only so many lines of one event; the next line that is let through says how many were not.

    A hostile linked device could otherwise make the files rotate until what it did is not in them any more.
    """

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        super().__init__()
        self._monotonic_s = monotonic_s
        self._budgets: dict[tuple[str, str], Budget] = {}
        self._dropped: Counter[tuple[str, str]] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is written."""
        peer = getattr(record, "peer", None)
        if peer is None:
            return True
        line, now_s = (str(peer), record.getMessage()), self._monotonic_s()
        if not self._budgets.setdefault(line, Budget(LINES_PER_S, LINES_AT_ONCE, now_s)).take(now_s):
            self._dropped[line] += 1
            return False
        if dropped := self._dropped.pop(line, 0):
            record.dropped = dropped
        return True


def _place(record: logging.LogRecord) -> str:
    trace = record.exc_info[2] if record.exc_info else None
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""


def open_log_files(directory: Path) -> None:
    """Send the node's log to `directory`.

    The network library logs at length and quotes what peers send: of it only errors are kept.
    """
    file = logging.handlers.RotatingFileHandler(
        directory / LOG_FILE, maxBytes=MAX_FILE_BYTES, backupCount=KEPT_FILES, encoding="utf-8"
    )
    file.setFormatter(JsonLines())
    file.addFilter(PerPeer(SystemClock().monotonic_s))
    root = logging.getLogger()
    root.handlers[:] = [file]
    root.setLevel(logging.WARNING)
    logging.getLogger("tilenode").setLevel(logging.INFO)
    for name in _LIBRARIES:
        library = logging.getLogger(name)
        library.setLevel(logging.ERROR)
        library.propagate = True  # libp2p takes its own records out of the tree; they would end up on standard error
