"""`env`: the variables by which usual programs find this node in place of somebody's service."""

import json
import shlex
from collections.abc import Mapping
from typing import Final

from node.cli.client import ControlClient
from node.cli.exit_codes import ExitCode
from node.cli.invocation import Invocation

# Nobody checks it: programs of this machine need no key, and clients do not start without one.
ANY_KEY: Final = "tilenode"


def print_variables(invocation: Invocation) -> int:
    """Print the variables as the shell sets them, for `eval "$(tilenode env)"`.

    Raises:
        NodeNotRunning: where the API answers is known only while it does.
    """
    api = str(ControlClient(invocation.home).get("/v1/status")["api"])
    found = variables(api)
    invocation.screen.facts({"variables": found})
    for name, value in found.items():
        invocation.screen.say(_assignment(invocation.arguments.shell, name, value))
    return ExitCode.OK


def variables(api: str) -> Mapping[str, str]:
    """Return name → value for the clients of Ollama, OpenAI and Anthropic; `api` is where this node answers."""
    return {
        "OLLAMA_HOST": api,
        "OPENAI_BASE_URL": f"{api}/v1",
        "OPENAI_API_KEY": ANY_KEY,
        "ANTHROPIC_BASE_URL": api,
        "ANTHROPIC_AUTH_TOKEN": ANY_KEY,
    }


def _assignment(shell: str, name: str, value: str) -> str:
    match shell:
        case "fish":
            return f"set -gx {name} {shlex.quote(value)}"
        case "powershell":
            return f"$env:{name} = {json.dumps(value)}"
        case "dotenv":
            return f"{name}={shlex.quote(value)}"
    return f"export {name}={shlex.quote(value)}"
