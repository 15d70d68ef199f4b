"""`run`: one answer to one prompt, or a conversation on a terminal."""

import sys
from typing import Final

from node.cli.ask import ask, figures
from node.cli.background import ensure_node
from node.cli.exit_codes import ExitCode
from node.cli.invocation import Invocation
from node.errors import UsageInvalid

MAX_PROMPT_BYTES: Final = 1024 * 1024


def run_model(invocation: Invocation) -> int:
    """Answer PROMPT or what a pipe brings and end; on a terminal without a prompt, converse."""
    arguments = invocation.arguments
    if not arguments.prompt and invocation.screen.interactive:
        # Imported here: the line editor is only for terminals.
        from node.cli.repl import converse

        return converse(invocation, arguments.name, arguments.chat)
    prompt = " ".join(arguments.prompt) or _read_prompt()
    with ensure_node(invocation) as client:
        facts = ask(client, invocation.screen, model=arguments.name, prompt=prompt, chat=arguments.chat)
    invocation.screen.facts(facts)
    if arguments.verbose:
        invocation.screen.say(figures(facts))
    return ExitCode.OK


def _read_prompt() -> str:
    content = sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1)
    if len(content) > MAX_PROMPT_BYTES:
        raise UsageInvalid(f"the prompt has more than {MAX_PROMPT_BYTES} bytes", "shorten it")
    try:
        prompt = content.decode().strip()
    except UnicodeDecodeError as error:
        raise UsageInvalid(
            f"the prompt is not UTF-8 at byte {error.start}", "convert it first: iconv -t UTF-8"
        ) from error
    if not prompt:
        raise UsageInvalid("no prompt", 'give one: tilenode run demo "Hello!"')
    return prompt
