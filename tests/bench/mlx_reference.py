"""A reference: mlx-lm in a process of its own, without a node, on the same files in the same precision.

    python -m tests.bench.mlx_reference MODEL_DIRECTORY < questions.json      one JSON list of timings

Each question is one user message; the answer is greedy, in float32, with the fast BLAS where there is one.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from node.models.blas import preload_blas


def time_answers(directory: Path, questions: list[str], most_tokens: int) -> list[dict[str, Any]]:
    """For each question `{"first_s", "last_s", "tokens", "text"}`: seconds since it was asked."""
    preload_blas()
    import mlx.core as mx
    from mlx_lm import load, stream_generate

    loaded: Any = load(str(directory))
    model, tokenizer = loaded[0], loaded[1]
    if sys.platform == "linux":
        model.set_dtype(mx.float32)
    timings = []
    for question in questions:
        started_s = time.perf_counter()
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, enable_thinking=False
        )
        pieces = [
            (time.perf_counter() - started_s, piece.text)
            for piece in stream_generate(model, tokenizer, prompt, max_tokens=most_tokens)
        ]
        text = "".join(text for _, text in pieces)
        timings.append({"first_s": pieces[0][0], "last_s": pieces[-1][0], "tokens": len(pieces), "text": text})
    return timings


if __name__ == "__main__":
    request = json.load(sys.stdin)
    answers = time_answers(Path(sys.argv[1]), request["questions"], request["most_tokens"])
    sys.stdout.write(json.dumps(answers) + "\n")
