"""A reference: mlx-lm in a process of its own, without a node, on the same files in the same precision.

    python -m tests.bench.mlx_reference MODEL_DIRECTORY MOST_TOKENS

Each line of input is one user message as a JSON string; each is answered with one line of timings. The answer is
greedy, in float32 on Linux as the node does it, with the fast BLAS where there is one.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from node.models.blas import preload_blas


def load_timer(directory: Path, most_tokens: int) -> Callable[[str], dict[str, Any]]:
    """Load the model and give what answers: `{"first_s", "last_s", "tokens", "text"}`, seconds since it was asked."""
    preload_blas()
    import mlx.core as mx
    from mlx_lm import load, stream_generate

    loaded: Any = load(str(directory))
    model, tokenizer = loaded[0], loaded[1]
    if sys.platform == "linux":
        model.set_dtype(mx.float32)

    def time_answer(question: str) -> dict[str, Any]:
        started_s = time.perf_counter()
        messages = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, enable_thinking=False)
        pieces = [
            (time.perf_counter() - started_s, piece.text)
            for piece in stream_generate(model, tokenizer, prompt, max_tokens=most_tokens)
        ]
        text = "".join(text for _, text in pieces)
        return {"first_s": pieces[0][0], "last_s": pieces[-1][0], "tokens": len(pieces), "text": text}

    return time_answer


if __name__ == "__main__":
    answer = load_timer(Path(sys.argv[1]), int(sys.argv[2]))
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()
