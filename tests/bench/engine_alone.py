"""A reference: the node's own engine in a process of its own, without a node, a worker or HTTP around it.

    python -m tests.bench.engine_alone MODEL_DIRECTORY MOST_TOKENS

Each line of input is a JSON list of user messages that are answered together, greedily; each is answered with one line,
seconds per token of one stream after the first.
"""

import json
import sys
from pathlib import Path

from node.models.blas import preload_blas
from tests.bench.engine_reference import Sides


def main(directory: str, most_tokens: int) -> None:
    """Answer line by line until the input ends."""
    preload_blas()
    sides = Sides(Path(directory))
    engine = sides.engine
    for line in sys.stdin:
        prompts = [
            engine.encode_chat(engine.render([{"role": "user", "content": text}], [], None, False))
            for text in json.loads(line)
        ]
        took = sides.ours(prompts, most_tokens, stops=engine.stops)
        steps = max(map(len, took.tokens)) - 1
        sys.stdout.write(f"{(took.last_s - took.first_s) / steps}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
