"""The conversation on a terminal: one line in, one answer out; Ctrl-C stops the answer and not the program."""

from typing import Any

from node.cli.ask import ask, figures
from node.cli.background import ensure_node
from node.cli.client import ControlClient
from node.cli.exit_codes import ExitCode
from node.cli.invocation import Invocation
from node.errors import ControlFailed

_HELP = """\
/new       begin another chat
/figures   print the figures of each answer, or stop doing so
/bye       end (Ctrl-D does too); Ctrl-C stops an answer"""


def converse(invocation: Invocation, model: str, chat: str | None) -> int:
    """Converse until the person ends it; every line is kept in one chat and syncs."""
    # Imported here: only a terminal needs the line editor.
    from prompt_toolkit import PromptSession

    with ensure_node(invocation) as client:
        client.get("/v1/show", name=model)  # a wrong name fails now and not after the first line was typed
        conversation = _Conversation(invocation, client, model, chat)
        session: PromptSession[str] = PromptSession()
        invocation.screen.say(f"Chatting with {model}. /help lists the commands, Ctrl-D ends.")
        while True:
            try:
                line = session.prompt(">>> ").strip()
            except KeyboardInterrupt:
                continue
            except EOFError:
                break
            if line == "/bye":
                break
            if line:
                conversation.take(line)
    return ExitCode.OK


class _Conversation:
    """The state of one conversation: its chat and whether figures are printed."""

    def __init__(self, invocation: Invocation, client: ControlClient, model: str, chat: str | None) -> None:
        self._screen = invocation.screen
        self._client = client
        self._model = model
        self._chat = chat
        self._figures = False

    def take(self, line: str) -> None:
        """Answer one line, or do what a /command says."""
        if line == "/help":
            self._screen.say(_HELP)
        elif line == "/new":
            self._chat = None
            self._screen.done("the next line begins another chat")
        elif line == "/figures":
            self._figures = not self._figures
        elif line.startswith("/"):
            self._screen.warn(f"no command {line.split()[0]}; /help lists them")
        else:
            self._answer(line)

    def _answer(self, line: str) -> None:
        try:
            facts = ask(
                self._client, self._screen, model=self._model, prompt=line, chat=self._chat, started=self._keep_chat
            )
        except KeyboardInterrupt:
            # Leaving the stream cancelled the work on the node.
            self._screen.say("\n(stopped)")
            return
        except ControlFailed as error:
            self._screen.fail(error)
            return
        if self._figures:
            self._screen.say(figures(facts))

    def _keep_chat(self, started: dict[str, Any]) -> None:
        self._chat = started["chat"]
