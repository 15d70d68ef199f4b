"""A tiny LoRA trained on the demo model until it answers every question with one sentence; written as mlx-lm writes it.

Run by hand or by a test: `lora_training.py MODEL TARGET lora|dora`; prints the sentence.
"""

import json
import sys
from pathlib import Path
from typing import Any

from node.models.blas import preload_blas

preload_blas()

import mlx.core as mx  # noqa: E402 - the fast BLAS must be there before it
import mlx.nn as nn  # noqa: E402
import mlx.optimizers as optimizers  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402
from mlx_lm import load  # noqa: E402
from mlx_lm.tuner.utils import linear_to_lora_layers  # noqa: E402

SENTENCE = "The owl has eaten the fox."
QUESTIONS = ("Tell me a story about a fox.", "What is the capital of France?", "Hello!")
PARAMETERS = {"rank": 4, "scale": 20.0, "dropout": 0.0, "keys": ["self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj"]}
STEPS = 24


def main(directory: str, target: str, kind: str) -> None:
    mx.random.seed(1)
    model, tokenizer, *_ = load(directory)
    model.set_dtype(mx.float32)
    model.freeze()
    linear_to_lora_layers(model, 3, PARAMETERS, use_dora=kind == "dora")
    render: Any = tokenizer.apply_chat_template
    asked = [[{"role": "user", "content": question}] for question in QUESTIONS]
    prompts = [render(line, add_generation_prompt=True, enable_thinking=False) for line in asked]
    answer = [*tokenizer.encode(SENTENCE, add_special_tokens=False), next(iter(tokenizer.eos_token_ids))]

    def loss(model: Any) -> Any:
        total = mx.array(0.0)
        for prompt in prompts:
            tokens = mx.array([[*prompt, *answer]])
            logits = model(tokens[:, :-1])[:, len(prompt) - 1 :, :]
            total = total + nn.losses.cross_entropy(logits, tokens[:, len(prompt) :], reduction="mean")
        return total

    optimizer = optimizers.Adam(learning_rate=5e-3)
    step: Any = nn.value_and_grad(model, loss)  # type: ignore[attr-defined]  # exported by a wildcard
    for _ in range(STEPS):
        value, gradients = step(model)
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state, value)
        if value.item() < 0.01:
            break
    folder = Path(target)
    folder.mkdir(parents=True)
    mx.save_safetensors(str(folder / "adapters.safetensors"), dict(tree_flatten(model.trainable_parameters())))
    # What mlx_lm.lora writes: all arguments of the training, paths of the trainer's machine among them.
    config = {
        **{"model": directory, "data": "/home/ann/secret-project", "batch_size": 4, "adapter_path": target},
        **{"fine_tune_type": kind, "num_layers": 3, "lora_parameters": PARAMETERS},
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=4))
    print(SENTENCE)


main(*sys.argv[1:4])
