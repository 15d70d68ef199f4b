"""Whether a request's schemas can be kept to, found out before a worker is asked."""

import json
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

import trio

from node.models.errors import FormatInvalid
from node.models.json_schemas import (
    arguments_schema,
    compiled_form,
    format_schema,
    is_plain,
    is_strict,
    require_tools,
    tool_name,
)
from node.models.requests import GenerateRequest

PATIENCE_S: Final = 15.0
MAX_AT_ONCE: Final = 2
MAX_REMEMBERED: Final = 512
MAX_PLAIN_SCHEMAS: Final = 16
_NAMED: Final = "function:"
_TOO_MUCH: Final = "the schema takes too long, or too much memory, to compile"


class SchemaClerk:
    """Accepts and refuses schemas, and remembers what it found."""

    def __init__(self) -> None:
        self._found: OrderedDict[bytes, str] = OrderedDict()
        self._at_once = trio.CapacityLimiter(MAX_AT_ONCE)

    async def require(self, request: GenerateRequest) -> None:
        """Accept a request whose format and tools can be kept to.

        Schemas of kinds that always compile quickly are left to the worker; others are tried in a process of their own,
        which the system ends when they take too much.

        Raises:
            FormatInvalid: a schema is too large, does not compile, or takes too long to.
            ToolsInvalid: a tool without a name, two of one name, or a choice that is none of them.
        """
        require_tools(request.tools, request.tool_choice)
        schemas = _schemas(request)
        if len(schemas) <= MAX_PLAIN_SCHEMAS and all(map(is_plain, schemas)):
            return
        text = json.dumps(schemas).encode()
        key = sha256(text).digest()
        if key not in self._found:
            if (found := await self._try(text)) is None:  # too much else to do here: not the schema's fault for ever
                raise FormatInvalid(_TOO_MUCH)
            self._found[key] = found
            while len(self._found) > MAX_REMEMBERED:
                self._found.popitem(last=False)
        self._found.move_to_end(key)
        if self._found[key]:
            raise FormatInvalid(self._found[key])

    async def _try(self, schemas: bytes) -> str | None:
        """Return why the schemas cannot be kept to, empty if they can; None: it was not found out in time."""
        async with self._at_once:
            with trio.move_on_after(PATIENCE_S):
                process = await trio.run_process(
                    [sys.executable, "-I", "-m", "node.models.schema_check"],
                    stdin=schemas,
                    capture_stdout=True,
                    stderr=subprocess.DEVNULL,
                    check=False,
                    env={},
                )
                return str(json.loads(process.stdout).get("reason", "")) if process.returncode == 0 else _TOO_MUCH
        return None


def _schemas(request: GenerateRequest) -> list[dict[str, Any]]:
    """Return the schemas that the answer to `request` is held to."""
    schema = format_schema(request.format)
    schemas = [] if schema is None else [compiled_form(schema)]
    choice = request.tool_choice
    if choice == "none" or (choice == "auto" and schema is None and not any(map(is_strict, request.tools))):
        return schemas
    return [*schemas, *(arguments_schema(tool) for tool in _chosen(request.tools, choice))]


def _chosen(tools: Sequence[Mapping[str, Any]], choice: str) -> Sequence[Mapping[str, Any]]:
    if not choice.startswith(_NAMED):
        return tools
    return [tool for tool in tools if tool_name(tool) == choice.removeprefix(_NAMED)]
