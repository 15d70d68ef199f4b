"""What people and scripts read: one line after a success, message and hint after a failure, JSON on request."""

import json
import os
import re
import shlex
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TextIO

from node.cli.exit_codes import HINTS, ExitCode, exit_code_of

SCHEMA: Final = 1
_GREEN: Final = "\x1b[32m"
_RED: Final = "\x1b[31m"
_YELLOW: Final = "\x1b[33m"
_DIM: Final = "\x1b[2m"
_RESET: Final = "\x1b[0m"
_OWN_COLORS: Final = re.compile("(\x1b\\[(?:0|2|31|32|33)m)")
_COMMANDING: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
_BIDI: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# JSON leaves these as they are, and a terminal obeys them: from DEL on, controls, separators, half characters, bidi.
_UNPRINTABLE: Final = re.compile(f"[\x7f-\x9f\u2028\u2029\ud800-\udfff{''.join(sorted(_BIDI))}]")
_PLAIN_NAME: Final = re.compile(r"\w[\w.-]*( [\w.-]+)*")
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 86400


class Screen:
    """Standard output and error as this run may use them: colour only on a terminal, facts as JSON on request."""

    def __init__(self, *, json_wanted: bool = False, color: bool = True) -> None:
        self.json_wanted = json_wanted
        self._color = color
        self._progress_width = 0

    @property
    def interactive(self) -> bool:
        """True where a question can be asked and answered."""
        return sys.stdin.isatty() and sys.stdout.isatty() and not self.json_wanted

    def say(self, text: str = "") -> None:
        """Print a line for people."""
        if not self.json_wanted:
            self._end_progress()
            print(printable(text), flush=True)

    def piece(self, text: str) -> None:
        """Print a part of a line, as an answer grows."""
        if not self.json_wanted:
            print(printable(text), end="", flush=True)

    def done(self, what: str, next_step: str = "", command: str = "") -> None:
        """Print the one line after a success: what happened and the next useful command."""
        tail = f" To {next_step}, run: {command}" if command else ""
        self.say(f"{self._paint(_GREEN, '✓', sys.stdout)} {what}.{tail}")

    def facts(self, facts: Mapping[str, object]) -> None:
        """Print `facts` as one JSON object when `--json` asks for it."""
        if self.json_wanted:
            self.event(facts)

    def event(self, event: Mapping[str, object]) -> None:
        """Print one line of JSON that says its schema."""
        text = json.dumps({"schema": SCHEMA, **event}, ensure_ascii=False)
        print(_UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text), flush=True)

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print rows under a head, each column as wide as its longest cell."""
        lines = [list(head), *[list(row) for row in rows]]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        for number, line in enumerate(lines):
            text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            self.say(self._paint(_DIM, text, sys.stdout) if number == 0 else text)

    def warn(self, text: str) -> None:
        """Print a line that wants attention to standard error."""
        self._end_progress()
        print(printable(f"{self._paint(_YELLOW, '!', sys.stderr)} {text}"), file=sys.stderr, flush=True)

    def progress(self, text: str) -> None:
        """Replace the progress line; nothing without a terminal."""
        if self.json_wanted or not sys.stderr.isatty():
            return
        line = printable(text)[: max(20, _terminal_columns() - 1)]
        print("\r" + line.ljust(self._progress_width), end="", file=sys.stderr, flush=True)
        self._progress_width = len(line)

    def fail(self, error: BaseException) -> ExitCode:
        """Print what failed and its hint, and return the exit code."""
        code = exit_code_of(error)
        self._end_progress()
        if self.json_wanted:
            self.event({"error": describe_error(error)})
        print(printable(f"{self._paint(_RED, 'error:', sys.stderr)} {_message(error)}"), file=sys.stderr)
        for hint in filter(None, [hint_of(error)]):
            print(printable(f"hint: {hint}"), file=sys.stderr)
        sys.stderr.flush()
        return code

    def dim(self, text: str) -> str:
        """Return `text` in a quieter colour."""
        return self._paint(_DIM, text, sys.stdout)

    def _end_progress(self) -> None:
        if self._progress_width:
            print("\r" + " " * self._progress_width + "\r", end="", file=sys.stderr, flush=True)
            self._progress_width = 0

    def _paint(self, color: str, text: str, stream: TextIO) -> str:
        return f"{color}{text}{_RESET}" if self._color and stream.isatty() else text


def printable(text: str) -> str:
    """Return `text` without what would command the terminal: control and bidi characters, but for our own colours.

    Answers, names and errors may come from other devices and from models.
    """
    return "".join(part if number % 2 else _harmless(part) for number, part in enumerate(_OWN_COLORS.split(text)))


def _harmless(text: str) -> str:
    if text.isprintable():  # no control, format or separating character but the space: nearly every line
        return text
    return "".join(
        char for char in text if char in "\n\t" or (char not in _BIDI and unicodedata.category(char) not in _COMMANDING)
    )


def describe_error(error: BaseException) -> dict[str, object]:
    """Return an error as it is told to programs: kind, message, hint, exit code."""
    return {
        "kind": getattr(error, "kind", None) or type(error).__name__,
        "message": _message(error),
        "hint": hint_of(error),
        "exit_code": int(exit_code_of(error)),
    }


def hint_of(error: BaseException) -> str:
    """Return what to do about `error`: its own hint, else the one of its exit code."""
    code = exit_code_of(error)
    hint = getattr(error, "hint", "")
    if hint or not isinstance(error, Exception):
        return str(hint)
    return HINTS.get(code, "")


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def format_bytes(count: int) -> str:
    """Return a size as people read it, in decimal units: `5.8 MB`."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def format_age(seconds: float) -> str:
    """Return how long ago something was, in its largest unit."""
    if seconds < _MINUTE_S:
        return f"{max(0, int(seconds))} s ago"
    if seconds < _HOUR_S:
        return f"{int(seconds // _MINUTE_S)} min ago"
    if seconds < 2 * _DAY_S:
        return f"{int(seconds // _HOUR_S)} h ago"
    return f"{int(seconds // _DAY_S)} days ago"


def format_did(did: str) -> str:
    """Return the short form of a DID that people compare: `did:key:z6Mk…8WkA`."""
    return f"{did[:12]}…{did[-4:]}" if len(did) > 20 else did


def as_argument(nickname: str, did: str) -> str:
    """Return how to name a device in a command that a person may copy: its nickname only where that is a plain name.

    Nicknames are what other devices say: one that a shell would act on, or that looks like an option, is not repeated.
    """
    return shlex.quote(nickname) if _PLAIN_NAME.fullmatch(nickname) else did


def format_address(multiaddr: str) -> str:
    """Return a TCP multiaddr as people write it, `host:port`; the peer id in it is the device's own."""
    parts = multiaddr.split("/")
    if len(parts) < 5 or parts[1] not in ("ip4", "ip6") or parts[3] != "tcp":
        return multiaddr
    return f"[{parts[2]}]:{parts[4]}" if parts[1] == "ip6" else f"{parts[2]}:{parts[4]}"


def _terminal_columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        return 80
