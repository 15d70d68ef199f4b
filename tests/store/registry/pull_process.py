"""Pull a model and wait in the middle of its weights, so that the test can kill this process there."""

import sys
from pathlib import Path

from protocol.model_name import parse_model_name
from protocol.registry import parse_reference
from store.models import ModelStore
from store.registry.layers import Event
from store.registry.pull import pull_model


def main() -> None:
    root, reference, when = Path(sys.argv[1]), parse_reference(sys.argv[2]), float(sys.argv[3])

    def report(event: Event) -> None:
        total, completed = event.get("total"), event.get("completed")
        if isinstance(total, int) and isinstance(completed, int) and total > 1 << 20 and completed >= when * total:
            print(completed, flush=True)
            sys.stdin.read()  # until the kill

    pull_model(ModelStore(root), reference, parse_model_name("ann/demo"), report=report)


main()
