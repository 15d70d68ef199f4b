"""The node's log files: JSON lines, private, and no message of an exception in them."""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.log_files import LOG_FILE, PerPeer, open_log_files


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    root = logging.getLogger()
    kept, level = list(root.handlers), root.level
    yield
    for handler in root.handlers:
        if handler not in kept:
            handler.close()
    root.handlers[:] = kept
    root.setLevel(level)


def _lines(directory: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (directory / LOG_FILE).read_text().splitlines()]


def test_an_event_is_one_line_of_json_with_its_fields(tmp_path: Path) -> None:
    open_log_files(tmp_path)
    logging.getLogger("tilenode.link").info("linked", extra={"peer": "did:key:z6Mk"})
    (line,) = _lines(tmp_path)
    assert (line["event"], line["logger"], line["level"]) == ("linked", "tilenode.link", "info")
    assert line["peer"] == "did:key:z6Mk"


def test_what_a_field_quotes_does_not_command_a_terminal(tmp_path: Path) -> None:
    open_log_files(tmp_path)
    hostile = "layers[0].annotations[\x9b2J\u202e\x7f\u2028]"
    logging.getLogger("tilenode.heads").warning("offer_refused", extra={"reason": hostile})
    assert (tmp_path / LOG_FILE).read_text().isascii()
    assert [line["reason"] for line in _lines(tmp_path)] == [hostile]


def test_an_exception_is_named_and_placed_but_not_quoted(tmp_path: Path) -> None:
    open_log_files(tmp_path)
    try:
        raise ValueError("what a peer sent: CANARY")
    except ValueError:
        logging.getLogger("tilenode.net").exception("stream_failed")
    (line,) = _lines(tmp_path)
    assert line["exception"] == "ValueError"
    assert "test_log_files.py" in str(line["at"])
    assert "CANARY" not in json.dumps(line)


def test_one_peer_does_not_fill_the_files(tmp_path: Path) -> None:
    open_log_files(tmp_path)
    log = logging.getLogger("tilenode.net")
    for _ in range(1_000):
        log.warning("stream_handler_failed", extra={"peer": "did:key:hostile"})
    log.warning("stream_handler_failed", extra={"peer": "did:key:friend"})
    log.info("linked", extra={"peer": "did:key:hostile"})
    log.warning("ready")
    counts = Counter((line["event"], line.get("peer")) for line in _lines(tmp_path))
    assert 100 <= counts.pop(("stream_handler_failed", "did:key:hostile")) <= 102
    assert counts == {
        ("stream_handler_failed", "did:key:friend"): 1,
        ("linked", "did:key:hostile"): 1,
        ("ready", None): 1,
    }


def test_what_was_left_out_is_counted() -> None:
    now_s = 0.0
    rule = PerPeer(lambda: now_s)
    made = [logging.makeLogRecord({"msg": "stream_refused", "peer": "did:key:hostile"}) for _ in range(151)]
    assert [rule.filter(record) for record in made[:-1]] == [True] * 100 + [False] * 50
    now_s = 3_600.0
    assert rule.filter(made[-1])
    assert made[-1].__dict__["dropped"] == 50


def test_libraries_are_heard_only_when_something_broke(tmp_path: Path) -> None:
    open_log_files(tmp_path)
    logging.getLogger("libp2p.network").warning("chatter")
    logging.getLogger("libp2p.network").error("broken")
    assert [line["event"] for line in _lines(tmp_path)] == ["broken"]
