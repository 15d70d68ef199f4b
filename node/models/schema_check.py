"""The process that tries whether schemas compile: `python -I -m node.models.schema_check`.

It reads a JSON list of schemas and answers `{}` or `{"reason": …}`. Compiling can take a schema's writer's pleasure of
time and memory, and its language's runtime cannot be interrupted: here the system bounds both.
"""

import json
import resource
import sys
from typing import Any, Final

import llguidance

from node.models.confinement import confine
from node.models.errors import FormatInvalid
from node.models.json_grammar import compiled, json_rule, parser_limits

MAX_CPU_S: Final = 2
MAX_MEMORY_BYTES: Final = 2 * 1024 * 1024 * 1024


def main() -> int:
    """Answer one list of schemas; return the exit code."""
    confine()
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
    if sys.platform == "linux":  # other kernels do not enforce it
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    schemas: list[dict[str, Any]] = json.load(sys.stdin)
    try:
        rules = [f"r{place}: {json_rule(schema)}" for place, schema in enumerate(schemas)]
        start = " | ".join(f"r{place}" for place in range(len(schemas)))
        compiled(llguidance.LLTokenizer("byte"), "\n".join([f"start: {start}", *rules]), parser_limits())
        answer: dict[str, str] = {}
    except FormatInvalid as error:
        answer = {"reason": error.reason}
    json.dump(answer, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
