"""`run`: one answer to one prompt, or a conversation on a terminal."""

import json
import sys
from argparse import Namespace
from typing import Final

from node.cli.ask import Manner, ask, figures
from node.cli.background import ensure_node
from node.cli.exit_codes import ExitCode
from node.cli.invocation import Invocation
from node.errors import UsageInvalid
from protocol.feed import MAX_CONTENT_BYTES

# A question is a line of a chat.
MAX_PROMPT_BYTES: Final = MAX_CONTENT_BYTES
SWITCHES: Final = {"true": True, "false": False}


def run_model(invocation: Invocation) -> int:
    """Answer PROMPT or what a pipe brings and end; on a terminal without a prompt, converse."""
    arguments = invocation.arguments
    manner = _manner(arguments)
    if not arguments.prompt and invocation.screen.interactive:
        # Imported here: the line editor is only for terminals.
        from node.cli.repl import converse

        return converse(invocation, manner, arguments.chat)
    prompt = require_prompt(" ".join(arguments.prompt)) or _read_prompt()
    with ensure_node(invocation, warm=True) as client:
        facts = ask(client, invocation.screen, manner, prompt, chat=arguments.chat)
    invocation.screen.facts(facts)
    if manner.verbose:
        invocation.screen.say(figures(facts))
    return ExitCode.OK


def _manner(arguments: Namespace) -> Manner:
    return Manner(
        model=arguments.name,
        format=None if arguments.format is None else read_format(arguments.format),
        think=None if arguments.think is None else SWITCHES.get(arguments.think, arguments.think),
        hide_thinking=arguments.hidethinking,
        keep_alive=arguments.keepalive,
        verbose=arguments.verbose,
    )


def read_format(text: str) -> object:
    """Return what the answer keeps to: "json", or the JSON schema that `text` is.

    Raises:
        UsageInvalid: neither.
    """
    if text == "json":
        return text
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError):
        schema = None
    if not isinstance(schema, dict):
        raise UsageInvalid("the format is neither json nor a JSON schema", "such as: --format json")
    return schema


def require_prompt(text: str) -> str:
    """Return `text`, which was typed, if all its bytes were characters and it is not too long.

    Raises:
        UsageInvalid: some were not, and came as halves of characters; or it is longer than a line of a chat.
    """
    try:
        _require_size(text.encode())
    except UnicodeEncodeError as error:
        raise UsageInvalid(f"what was typed is not UTF-8 at character {error.start + 1}", "type it again") from error
    return text


def _read_prompt() -> str:
    content = sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1)
    _require_size(content)
    try:
        # Programs end their last line with a line feed; everything else is the person's.
        prompt = content.decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise UsageInvalid(
            f"the prompt is not UTF-8 at byte {error.start}", "convert it first: iconv -t UTF-8"
        ) from error
    if not prompt.strip():
        raise UsageInvalid("no prompt", 'give one: tilenode run demo "Hello!"')
    return prompt


def _require_size(content: bytes) -> None:
    if len(content) > MAX_PROMPT_BYTES:
        raise UsageInvalid(f"the prompt has more than {MAX_PROMPT_BYTES} bytes", "shorten it")
