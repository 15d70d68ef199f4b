"""What a person meets on a terminal: the first run, a conversation, Ctrl-C, and a link with questions on both sides."""

import fcntl
import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from node.cli.demo_node import running
from node.config import child_environment
from tests.end_to_end.nodes import NodeProcess

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

ANSWER_S = 60.0
_STYLE = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[=>])")


class Terminal:
    """A terminal with one program on it."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "node.cli.main", *arguments],
            env={**environment, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=_take_terminal,  # a session without a terminal of its own gets no Ctrl-C
        )
        os.close(theirs)
        self.shown = ""

    def see(self, text: str) -> str:
        """Return what is shown up to `text`, once it is."""
        deadline = time.monotonic() + ANSWER_S
        while text not in self.shown:
            ready, _, _ = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{text!r} is not shown: {self.shown}"
            try:
                self.shown += _STYLE.sub("", os.read(self._ours, 65536).decode(errors="replace"))
            except OSError:  # the program has ended
                assert text in self.shown, f"{text!r} was not shown: {self.shown}"
        before, _, self.shown = self.shown.partition(text)
        return before

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._ours, keys.encode())

    def end(self) -> int:
        """Return the exit code once the program has ended."""
        try:
            while os.read(self._ours, 65536):
                pass
        except OSError:
            pass
        os.close(self._ours)
        return self.process.wait(ANSWER_S)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextmanager
def on_terminal(*arguments: str, environment: dict[str, str]) -> Iterator[Terminal]:
    terminal = Terminal(arguments, environment)
    try:
        yield terminal
    finally:
        if terminal.process.poll() is None:
            terminal.process.kill()
            terminal.process.wait()


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    passphrase = tmp_path / "passphrase"
    passphrase.touch(mode=0o600)
    passphrase.write_text("correct horse\n")
    settings = child_environment(tmp_path / "home", passphrase)
    yield settings
    subprocess.run([sys.executable, "-m", "node.cli.main", "stop"], env=settings, capture_output=True, check=False)


def test_the_first_run_leads_to_a_conversation(environment: dict[str, str]) -> None:
    with on_terminal(environment=environment) as terminal:
        terminal.see("What shall other devices call this one?")
        terminal.type("kitchen\r")
        terminal.see("made kitchen (did:key:z6Mk")
        terminal.see("its keys are in the vault")
        terminal.see("Chat with the embedded model `demo` now? [Y/n]")
        terminal.type("\r")
        terminal.see(">>>")
        terminal.type("What is the capital of France?\r")
        terminal.see("Paris.")
        terminal.see(">>>")
        terminal.type("\x03")  # at the prompt, Ctrl-C drops the line and nothing else
        terminal.type("/nonsense\r")
        terminal.see("no command /nonsense")
        terminal.type("/bye\r")
        assert terminal.end() == 0


def test_ctrl_c_stops_an_answer_and_not_the_program(environment: dict[str, str]) -> None:
    with on_terminal("run", "demo", environment=environment) as terminal:
        terminal.see(">>>")
        terminal.type("Count from 1 to 20.\r")
        terminal.see("1, 2")
        terminal.type("\x03")
        terminal.see(">>>")
        terminal.type("What is the capital of Italy?\r")
        terminal.see("Rome.")
        terminal.see(">>>")
        terminal.type("\x04")
        assert terminal.end() == 0


def test_a_conversation_is_set_up_shown_saved_and_carried_on(environment: dict[str, str]) -> None:
    with on_terminal("run", "demo", environment=environment) as terminal:
        terminal.see(">>>")
        terminal.type("/set parameter temperature 0\r")
        terminal.see("temperature is 0")
        terminal.type("/set parameter warmth 0\r")
        terminal.see("error: no parameter 'warmth'")
        terminal.type("/set system Always answer in upper case.\r")
        terminal.see("the system prompt is set")
        terminal.type("/set think false\r")
        terminal.see("the model does not think")
        terminal.type("/set verbose\r")
        terminal.see("figures are printed")
        terminal.type("What colour is grass?\r")
        terminal.see("GREEN.")
        terminal.see("tokens read")
        terminal.type("/show\r")
        shown = terminal.see("Always answer in upper case.")
        assert "model      demo" in shown
        assert "temperature 0" in shown
        terminal.type("/save shouting\r")
        terminal.see("saved as shouting:latest")
        terminal.type("/clear\r")
        terminal.see("begins another chat")
        terminal.type("/load nobody\r")
        terminal.see("model 'nobody' not found")
        terminal.type("/load shoutin\r")
        terminal.see("did you mean shouting:latest?")
        terminal.type("/set parameter temperature hot\r")
        terminal.see("write: /set parameter temperature VALUE")
        terminal.type("/load shouting\r")
        terminal.see("the next answer is shouting:latest's")
        terminal.type("/show system\r")
        terminal.see("Always answer in upper case.")
        terminal.type("/show parameters\r")
        terminal.see("temperature 0")
        terminal.type("/bye\r")
        assert terminal.end() == 0


def test_text_between_quotes_is_sent_as_it_stands(environment: dict[str, str]) -> None:
    with on_terminal("run", "demo", environment=environment) as terminal:
        terminal.see(">>>")
        terminal.type('"""\r')
        terminal.see("...")
        terminal.type("What is the capital\r")
        terminal.see("...")
        terminal.type('of France?"""\r')
        terminal.see("Paris.")
        terminal.type("/clear\r")
        terminal.see("begins another chat")
        terminal.type("/set parameter temperature 0\r")
        terminal.see("temperature is 0")
        terminal.type("/set format json\r")
        terminal.see("answers keep to the format")
        terminal.type("Give me JSON with name Ann and age 30.\r")
        terminal.see('{"name": "Ann", "age": 30}')
        terminal.type("/bye\r")
        assert terminal.end() == 0
    said = subprocess.run(
        [sys.executable, "-m", "node.cli.main", "chats", "list", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    chat = json.loads(said.stdout)["chats"][-1]["id"]
    kept = subprocess.run(
        [sys.executable, "-m", "node.cli.main", "chats", "show", chat, "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(kept.stdout)["lines"][0]["content"] == "What is the capital\nof France?"


def test_a_passphrase_is_asked_for_once_and_again_when_it_was_wrong(environment: dict[str, str]) -> None:
    asking = {name: value for name, value in environment.items() if name != "TILENODE_PASSPHRASE_FILE"}
    with on_terminal("account", "create", "--vault", "--nickname", "kitchen", environment=asking) as terminal:
        terminal.see("Passphrase of the vault: ")
        terminal.type("correct horse\r")
        terminal.see("The same once more: ")
        terminal.type("correct horse\r")
        terminal.see("made kitchen")
        assert terminal.end() == 0
    with on_terminal("run", "demo", "What is the capital of France?", environment=asking) as terminal:
        terminal.see("Passphrase of the vault: ")
        terminal.type("wrong\r")
        terminal.see("the passphrase does not open it")
        terminal.see("Passphrase of the vault: ")
        terminal.type("correct horse\r")
        before = terminal.see("Paris.")
        assert "correct horse" not in before
        assert terminal.end() == 0


@pytest.mark.parametrize("answer", ["y", "n"])
def test_both_people_see_the_other_and_the_same_digits_and_are_asked(
    environment: dict[str, str], tmp_path: Path, answer: str
) -> None:
    other = NodeProcess(tmp_path, "study")
    with running([other]), on_terminal("link", "enable", environment=environment) as listener:
        other.start()
        ticket = listener.see("The ticket works once").rpartition("link enable")[2].strip().replace("\r\n", "")
        with on_terminal("link", "enable", ticket, environment=other._environment) as joiner:
            ours, theirs = listener.see("[y/N]"), joiner.see("[y/N]")
            assert "device   study" in ours
            digits = re.findall(r"digits +(\d{3} \d{3})", ours + theirs)
            assert len(digits) == 2
            assert digits[0] == digits[1]
            joiner.type("y\r")
            listener.type(f"{answer}\r")
            if answer == "y":
                listener.see("linked study")
                joiner.see("linked ")
                assert (listener.end(), joiner.end()) == (0, 0)
            else:
                listener.see("error:")
                joiner.see("hint:")
                assert (listener.end(), joiner.end()) == (23, 23)
