"""mlx-lm itself, called directly: reads a JSON list of prompts (message lists), prints its greedy answers as JSON."""

import json
import sys
from typing import Any

from mlx_lm import load, stream_generate


def main(directory: str, adapter: str | None = None) -> None:
    model, tokenizer, *_ = load(directory, adapter_path=adapter)
    render: Any = tokenizer.apply_chat_template
    answers = []
    for messages in json.load(sys.stdin):
        prompt = render(messages, add_generation_prompt=True, enable_thinking=False)
        pieces = stream_generate(model, tokenizer, prompt, max_tokens=200)
        answers.append("".join(piece.text for piece in pieces))
    print(json.dumps(answers))


main(*sys.argv[1:3])
