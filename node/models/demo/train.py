"""Training of the demo model, from nothing or from earlier weights.

    python -m node.models.demo.train OUT --minutes 24.5
    python -m node.models.demo.train OUT --minutes 6 --start-from DIR --weight tool=24 --weight echo=14

The corpus and its order come from a seed. The learning rate follows the clock (warm-up, hold, linear to almost zero
over the minutes given), so that a slow machine ends as well as a fast one, after fewer steps; weights are therefore not
bit-reproducible, and no test makes the shipped ones again.
"""

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from node.models.blas import preload_blas
from node.models.demo import WEIGHT_FILES, demo_directory
from node.models.demo.batches import Batch, batches
from node.models.demo.families import FAMILIES, Family, reweighted
from node.models.demo.tokenizer import corpus_texts, train_tokenizer, write_description

preload_blas()

import mlx.core as mx  # noqa: E402 - mlx binds the BLAS that is loaded when it is imported
from mlx import optimizers  # noqa: E402 - as above
from mlx.nn import losses  # noqa: E402 - as above
from mlx.nn.layers.base import Module  # noqa: E402 - as above
from mlx.nn.layers.embedding import Embedding  # noqa: E402 - as above
from mlx.nn.layers.linear import Linear  # noqa: E402 - as above
from mlx.nn.utils import value_and_grad  # noqa: E402 - as above
from mlx.utils import tree_flatten  # noqa: E402 - as above
from mlx_lm.models import qwen3  # noqa: E402 - as above

TOKENIZER_CONVERSATIONS = 40_000
TOKENIZER_SEED = 1
WARM_UP_STEPS = 60
HOLD_SHARE = 0.4
"""The learning rate starts to fall after this share of the time."""
LOWEST_RATE_SHARE = 0.02
REPORT_EVERY_S = 20.0
SAVE_EVERY_S = 240.0

Report = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What one run of training does."""

    minutes: float
    seed: int = 0
    peak_rate: float = 2e-3
    """Of AdamW, which moves the embedding and the norms."""
    muon_factor: float = 6.0
    """Muon, which moves the matrices, learns this many times faster."""
    tokens_per_batch: int = 1024
    families: Mapping[str, Family] = field(default_factory=lambda: FAMILIES)


@dataclass
class Progress:
    """Counts of a run so far; the loss is a running mean in nats per trained token."""

    started_s: float
    steps: int = 0
    tokens: int = 0
    loss: float = math.nan

    def note(self, loss: float, tokens: int) -> None:
        """Count one step."""
        self.loss = loss if self.steps == 0 else 0.97 * self.loss + 0.03 * loss
        self.steps += 1
        self.tokens += tokens

    def line(self, now_s: float) -> str:
        """The counts for a person."""
        spent_s = now_s - self.started_s
        rate = self.tokens / max(spent_s, 1e-9)
        return f"{spent_s:6.0f} s  step {self.steps}  loss {self.loss:.4f}  {rate:.0f} tokens/s"


def learning_rate(peak: float, step: int, spent_share: float) -> float:
    """The rate after `step` steps and a share 0 to 1 of the time: warm-up, hold, then linear to almost zero."""
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    if spent_share < HOLD_SHARE:
        return peak * warm
    return peak * warm * max(LOWEST_RATE_SHARE, (1 - spent_share) / (1 - HOLD_SHARE))


def new_model() -> qwen3.Model:
    """A model of the shipped shape with small random weights; what writes into the residual stream starts smaller."""
    shape = json.loads((demo_directory() / "config.json").read_text(encoding="utf-8"))
    model = qwen3.Model(qwen3.ModelArgs.from_dict(shape))  # type: ignore[no-untyped-call] # mlx-lm leaves it unannotated
    residual_scale = 1 / math.sqrt(2 * shape["num_hidden_layers"])

    def initialise(name: str, module: Module) -> None:
        if not isinstance(module, Linear | Embedding):
            return
        scale = 0.02 * (residual_scale if name.endswith(("o_proj", "down_proj")) else 1)
        module.update({"weight": mx.random.normal(module.weight.shape) * scale})

    model.apply_to_modules(initialise)
    return model


def batch_loss(model: qwen3.Model, inputs: mx.array, targets: mx.array, places: mx.array) -> mx.array:
    """Mean cross entropy in nats over the trained positions; only those are projected onto the vocabulary."""
    hidden = model.model(inputs)
    trained = hidden.reshape(-1, hidden.shape[-1])[places]
    return losses.cross_entropy(model.model.embed_tokens.as_linear(trained), targets, reduction="mean")


class Optimiser:
    """Muon for the matrices, AdamW for the rest, both on one schedule."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._adam = optimizers.AdamW(plan.peak_rate, betas=[0.9, 0.98], weight_decay=0.02)
        self._muon = optimizers.Muon(0.02, momentum=0.95, weight_decay=0.0)
        self._both = optimizers.MultiOptimizer([self._muon, self._adam], [_is_inner_matrix])

    def step(self, model: qwen3.Model, gradients: object, step: int, spent_share: float) -> None:
        """Move the weights once; gradients are clipped to norm 1."""
        rate = learning_rate(self._plan.peak_rate, step, spent_share)
        self._adam.learning_rate = rate
        self._muon.learning_rate = rate * self._plan.muon_factor
        clipped, _ = optimizers.clip_grad_norm(gradients, 1.0)  # type: ignore[no-untyped-call] # mlx leaves it unannotated
        self._both.update(model, clipped)
        mx.eval(model.parameters(), self._both.state)


def _is_inner_matrix(name: str, weight: mx.array) -> bool:
    return weight.ndim == 2 and "embed" not in name


def train(model: qwen3.Model, tokenizer: Tokenizer, plan: Plan, save: Callable[[], None], report: Report) -> Progress:
    """Train for the plan's minutes, calling `save` every four minutes and at the end."""
    optimiser = Optimiser(plan)
    loss_and_gradients = value_and_grad(model, batch_loss)
    progress = Progress(time.monotonic())
    reported_s = saved_s = progress.started_s
    for batch in batches(tokenizer, plan.tokens_per_batch, plan.seed, plan.families):
        now_s = time.monotonic()
        spent_share = (now_s - progress.started_s) / (plan.minutes * 60)
        if spent_share >= 1:
            break
        if now_s - reported_s > REPORT_EVERY_S:
            reported_s = now_s
            report(progress.line(now_s))
        if now_s - saved_s > SAVE_EVERY_S:
            saved_s = now_s
            save()
        loss, gradients = loss_and_gradients(model, *_arrays(batch))
        optimiser.step(model, gradients, progress.steps, spent_share)
        progress.note(loss.item(), batch.inputs.size)
    save()
    report(progress.line(time.monotonic()))
    return progress


def _arrays(batch: Batch) -> tuple[mx.array, mx.array, mx.array]:
    return mx.array(batch.inputs), mx.array(batch.targets), mx.array(batch.places)


def _weights(model: qwen3.Model) -> dict[str, mx.array]:
    flat: Any = tree_flatten(model.parameters())
    return dict(flat)


def save_weights(model: qwen3.Model, path: Path) -> None:
    """Write the weights as float16 safetensors."""
    weights = {name: value.astype(mx.float16) for name, value in _weights(model).items()}
    mx.save_safetensors(str(path), weights, metadata={"format": "mlx"})


def prepare(directory: Path, start_from: Path | None) -> tuple[qwen3.Model, Tokenizer]:
    """The model and tokenizer to train, with every file but the new weights in `directory`.

    With `start_from`, a copy of that model; else random weights and a tokenizer learned from the corpus.
    """
    model = new_model()
    if start_from is None:
        write_description(directory, train_tokenizer(corpus_texts(TOKENIZER_CONVERSATIONS, TOKENIZER_SEED)))
    else:
        directory.mkdir(parents=True, exist_ok=True)
        for name in WEIGHT_FILES:
            shutil.copy(start_from / name, directory / name)
        model.load_weights(str(directory / "model.safetensors"))
        model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    return model, Tokenizer.from_file(str(directory / "tokenizer.json"))


def _weight(text: str) -> tuple[str, float]:
    name, _, weight = text.partition("=")
    if name not in FAMILIES:
        raise argparse.ArgumentTypeError(f"{name!r} is none of: {', '.join(FAMILIES)}")
    return name, float(weight)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; the exit status is 0 when the weights were written."""
    parser = argparse.ArgumentParser(prog="python -m node.models.demo.train", description="Train the demo model.")
    parser.add_argument("out", type=Path, help="directory for the model's files")
    parser.add_argument("--minutes", type=float, default=24.5, help="how long to train (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the order of conversations")
    parser.add_argument(
        "--start-from", type=Path, metavar="DIR", help="continue with this model's weights and tokenizer"
    )
    parser.add_argument(
        "--weight", type=_weight, action="append", default=[], metavar="FAMILY=N", help="another share for a family"
    )
    options = parser.parse_args(arguments)
    mx.random.seed(options.seed)
    model, tokenizer = prepare(options.out, options.start_from)
    plan = Plan(options.minutes, options.seed, families=reweighted(FAMILIES, dict(options.weight)))

    def report(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    report(f"{sum(value.size for value in _weights(model).values())} parameters")
    train(model, tokenizer, plan, lambda: save_weights(model, options.out / "model.safetensors"), report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
