"""The conversation on a terminal: lines in, answers out; Ctrl-C stops the answer and not the program.

What is typed goes to the model as it was typed: only lines that are a /command mean something here.
"""

from collections.abc import Callable
from typing import Final

from prompt_toolkit import PromptSession
from prompt_toolkit.history import InMemoryHistory

from node.cli.ask import Manner
from node.cli.background import ensure_node
from node.cli.client import ControlClient
from node.cli.conversation import Conversation
from node.cli.exit_codes import ExitCode
from node.cli.invocation import Invocation
from node.cli.run import require_prompt
from node.errors import ControlFailed, UsageInvalid

FENCE: Final = '"""'
PROMPT: Final = ">>> "
MORE: Final = "... "
REMEMBERED_CHATS: Final = 5

ReadLine = Callable[[str], str]


def converse(invocation: Invocation, manner: Manner, chat: str | None) -> int:
    """Converse until the person ends it; every line is kept in one chat and syncs."""
    screen = invocation.screen
    with ensure_node(invocation, warm=True) as client:
        client.get("/v1/show", name=manner.model)  # a wrong name fails now and not after the first line was typed
        conversation = Conversation(screen, client, manner, chat)
        session: PromptSession[str] = PromptSession(history=_history(client))
        screen.say(f"Chatting with {manner.model}. /help lists the commands, Ctrl-D ends.")
        while not conversation.ended:
            try:
                typed, as_it_stands = read_text(session.prompt)
            except KeyboardInterrupt:
                continue
            except EOFError:
                break
            try:
                require_prompt(typed)
                if as_it_stands:
                    conversation.answer(typed)
                else:
                    conversation.take(typed)
            except (ControlFailed, UsageInvalid) as error:
                screen.fail(error)
    return ExitCode.OK


def read_text(read_line: ReadLine) -> tuple[str, bool]:
    """Return what was typed, and whether it stood between two `\"\"\"`: then it is no command, whatever it says.

    A fence opens at the beginning of a line, or after a /command, and may close many lines later.
    """
    line = read_line(PROMPT)
    head, fence, text = line.partition(FENCE)
    if not fence or (head.strip() and not head.startswith("/")):
        return line, False  # quotes in the middle of a sentence are the person's own
    while not text.endswith(FENCE):
        text += "\n" + read_line(MORE)
    text = text.removesuffix(FENCE).removeprefix("\n").removesuffix("\n")
    return (head + text, False) if head.strip() else (text, True)


def _history(client: ControlClient) -> InMemoryHistory:
    # From the encrypted chats, and never into a file of its own.
    history = InMemoryHistory()
    for chat in reversed(client.get("/v1/chats")["chats"][:REMEMBERED_CHATS]):
        for line in client.get("/v1/chat", id=chat["id"])["lines"]:
            if line["role"] == "user":
                history.append_string(line["content"])
    return history
