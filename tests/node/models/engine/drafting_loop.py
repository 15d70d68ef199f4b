"""One row with and without a draft, in the plainest loop there is: what the engine does must come to the same."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from node.models.demo import demo_directory
from node.models.engine.caches import make_row_caches, trim
from node.models.engine.drafting import ModelDrafter


@dataclass
class Dice:
    """A row's sampler: the likeliest token, or a draw with a key of the row's own for each place."""

    temperature: float
    key: Any = None

    @classmethod
    def of(cls, temperature: float, seed: int) -> "Dice":
        return cls(temperature, mx.random.key(seed))

    def __call__(self, logits: mx.array) -> mx.array:
        if self.temperature == 0:
            return mx.argmax(logits, axis=-1)
        self.key, draw = mx.random.split(self.key)
        return mx.random.categorical(logits / self.temperature, axis=-1, key=draw)

    def copy(self) -> "Dice":
        return Dice(self.temperature, self.key)


@dataclass
class Said:
    """What a row said, and what it took."""

    tokens: list[int] = field(default_factory=list)
    steps: int = 0
    guessed: int = 0
    right: int = 0
    given_up: bool = False
    seconds: float = 0.0


def say(
    model: Any,
    prompt: Sequence[int],
    count: int,
    dice: Dice,
    drafter: ModelDrafter | None = None,
    stop: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Said:
    """Generate `count` tokens after `prompt`, the engine's way."""
    caches = make_row_caches(model)
    said, history = Said(), list(prompt)
    model(mx.array([history[:-1]]), cache=caches)
    mx.eval([cache.state for cache in caches])
    began = clock()
    while len(said.tokens) < count:
        guesses: list[int] = []
        if drafter is not None and not said.given_up:
            found = drafter.guess(history, count - len(said.tokens) - 1, dice.copy())
            said.given_up, guesses = found is None, found or []
        logits = model(mx.array([[history[-1], *guesses]]), cache=caches)
        said.steps, said.guessed = said.steps + 1, said.guessed + len(guesses)
        for place in range(len(guesses) + 1):
            token: Any = dice(logits[:, place, :]).item()
            history.append(token)
            said.tokens.append(token)
            if place == len(guesses) or token != guesses[place]:
                trim(caches, len(guesses) - place)
                break
            said.right += 1
            if token == stop:
                break
        if stop is not None and said.tokens[-1] == stop:
            break
    if drafter is not None:
        drafter.rest()
    said.seconds = clock() - began
    return said


def load_demo(directory: Path | None = None) -> Any:
    from mlx_lm.utils import load_model

    model, _ = load_model(directory or demo_directory())
    model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    return model


def shorten(target: Path, layers: int, source: Path | None = None) -> Path:
    """Write a model of the first `layers` of `source`, the demo model by default, with its tokenizer."""
    source = source or demo_directory()
    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file() and path.name not in ("model.safetensors", "config.json"):
            shutil.copyfile(path, target / path.name)
    config = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))
    weights: Any = mx.load(str(source / "model.safetensors"))
    kept = {
        name: array
        for name, array in weights.items()
        if not name.startswith("model.layers.") or int(name.split(".")[2]) < layers
    }
    mx.save_safetensors(str(target / "model.safetensors"), kept)
    return target


def deepen(target: Path, layers: int, inner: int = 512) -> Path:
    """Write the demo model with `layers` layers of width `inner`, filled up with zeros: it says the same, slower."""
    source = demo_directory()
    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file() and path.name not in ("model.safetensors", "config.json"):
            shutil.copyfile(path, target / path.name)
    config = json.loads((source / "config.json").read_text())
    own = int(config["num_hidden_layers"])
    (target / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers, "intermediate_size": inner}))
    loaded: Any = mx.load(str(source / "model.safetensors"))
    weights: Any = dict(loaded)
    for name, array in list(weights.items()):
        if name.startswith(f"model.layers.{own - 1}."):
            still = name.endswith(("o_proj.weight", "down_proj.weight"))
            for layer in range(own, layers):
                copied = name.replace(f"layers.{own - 1}.", f"layers.{layer}.")
                weights[copied] = mx.zeros_like(array) if still else array
    for name, array in list(weights.items()):
        spare = inner - int(config["intermediate_size"])
        if name.endswith(("gate_proj.weight", "up_proj.weight")):
            weights[name] = mx.pad(array, [(0, spare), (0, 0)])
        elif name.endswith("down_proj.weight"):
            weights[name] = mx.pad(array, [(0, 0), (0, spare)])
    mx.save_safetensors(str(target / "model.safetensors"), weights)
    return target
