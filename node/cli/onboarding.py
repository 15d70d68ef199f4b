"""The first run: a nickname, an identity, where its keys live, then a chat with the embedded demo model."""

import socket

from node.cli.exit_codes import ExitCode
from node.cli.invocation import Invocation
from node.cli.render import format_did
from node.config import DEFAULT_MODEL
from node.errors import TerminalNeeded
from node.settings import Settings
from protocol.text import clean_name


def first_run(invocation: Invocation) -> int:
    """Make an identity where there is none, then chat."""
    settings = invocation.settings()
    if not invocation.screen.interactive:
        hint = "tilenode run demo PROMPT" if settings.did else "tilenode account create --nickname NAME"
        raise TerminalNeeded("what to do", f"name a command, for example: {hint}")
    if not settings.did:
        settings = _welcome(invocation)
        if not _yes(f"Chat with the embedded model `{DEFAULT_MODEL}` now?"):
            invocation.screen.done("everything is ready", "chat later", f"tilenode run {DEFAULT_MODEL}")
            return ExitCode.OK
    # Imported here: only a terminal needs the line editor.
    from node.cli.ask import Manner
    from node.cli.repl import converse

    return converse(invocation, Manner(DEFAULT_MODEL), None)


def _welcome(invocation: Invocation) -> Settings:
    from node.account import create_account

    screen = invocation.screen
    screen.say("Welcome to tilenode. This device gets an identity of its own; nothing leaves it.\n")
    suggestion = clean_name(socket.gethostname().partition(".")[0])
    nickname = input(f"What shall other devices call this one? [{suggestion}] ").strip() or suggestion
    given = invocation.passphrase_source()
    settings = create_account(
        invocation.home,
        nickname=nickname,
        passphrase=given or (lambda: invocation.ask_passphrase(new=True)),
        may_use_keychain=given is None,
    )
    screen.done(f"made {settings.nickname} ({format_did(settings.did)})")
    screen.say(f"  its keys are in the {settings.rung}: {settings.place}")
    screen.say(f"  everything else is in {invocation.home.root}\n")
    return settings


def _yes(question: str) -> bool:
    return input(f"{question} [Y/n] ").strip().lower() in ("", "y", "yes")
