"""`tilenode`: reads the command line, runs one verb, and turns every failure into message, hint and exit code."""

import argparse
import importlib
import io
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import cast

from node.cli.exit_codes import ExitCode
from node.cli.invocation import Invocation
from node.cli.render import Screen
from node.cli.verbs import build_parser
from node.config import find_home, read_environment
from node.errors import Interrupted

Verb = Callable[[Invocation], int]


def run(argv: Sequence[str] | None = None) -> int:
    """Return the exit code of the command line `argv`, by default the process's own."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character is no reason to fail
    arguments = build_parser().parse_args(argv)
    environment = read_environment()
    screen = Screen(json_wanted=arguments.json, color=environment.color)
    try:
        home = find_home(environment, arguments.home)
        return _load_verb(arguments)(Invocation(arguments, home, environment, screen))
    except BrokenPipeError:
        # The reader (`head`, a pager) went away; Python would otherwise complain once more while it exits.
        sys.stderr.close()
        return ExitCode.OK
    except (KeyboardInterrupt, EOFError):
        if sys.stderr.isatty():
            print(file=sys.stderr)  # the terminal has just shown ^C on the line
        return screen.fail(Interrupted())
    except Exception as error:  # noqa: BLE001 - the outermost frame: nobody is shown a traceback without --debug
        if arguments.debug:
            traceback.print_exc()
        return screen.fail(error)


def _load_verb(arguments: argparse.Namespace) -> Verb:
    """Return the function of the verb that was named; its module is imported only now."""
    module, _, function = str(arguments.verb).partition(":")
    return cast(Verb, getattr(importlib.import_module(f"node.cli.{module}"), function))


if __name__ == "__main__":
    sys.exit(run())
