"""Eight requests at once that each want something of their own, beside eight that want nothing of the kind."""

import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tests.bench.chat_client import Body, ask_at_once, question, together
from tests.bench.random_model import SMALL, write_model, write_tensors
from tests.bench.run import Run
from tests.bench.serving import CONTEXT_TOKENS, api_address, serve, story
from tests.bench.table import Row

STREAMS = 8
ADAPTERS = 4
RANK = 8
LIMIT = 0.85
NAME = "mixed"
# It never ends within the tokens of an answer.
SCHEMA = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99999}, "minItems": 2_000}
Wish = Callable[[Body, int], Body]


def _seeded(body: Body, place: int) -> Body:
    return {**body, "temperature": 1, "top_p": 0.95, "seed": place}


def _schema(body: Body, _place: int) -> Body:
    return {
        **body,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "numbers", "schema": SCHEMA, "strict": True},
        },
    }


def _logprobs(body: Body, _place: int) -> Body:
    return {**body, "logprobs": True, "top_logprobs": 5}


def _adapter(body: Body, place: int) -> Body:
    return {**body, "model": f"{NAME}-{place % ADAPTERS}"}


def _plain(body: Body, _place: int) -> Body:
    return body


WISHES: tuple[tuple[str, Wish], ...] = (
    ("a seed each", _seeded),
    ("a JSON schema", _schema),
    ("log-probabilities", _logprobs),
    (f"{ADAPTERS} adapters", _adapter),
)


def measure(run: Run) -> Iterator[Row]:
    """Turn by turn eight plain requests and eight of each kind, of the same length, to one node."""
    directory = run.scratch / "mixed"
    write_model(directory, SMALL, "F32", CONTEXT_TOKENS)
    node = serve(run, NAME, directory)
    for place in range(ADAPTERS):
        recipe = directory.with_suffix(f".{place}.Modelfile")
        recipe.write_text(f"FROM {NAME}\nADAPTER {_write_adapter(run.scratch / f'adapter-{place}', place)}\n")
        node.command("create", f"{NAME}-{place}", "-f", str(recipe))
    address = api_address(node)
    run.progress("requests with wishes of their own beside plain ones")
    kinds: tuple[tuple[str, Wish], ...] = (("", _plain), *WISHES)
    for _, wish in kinds:
        _rate(run, address, wish)  # models and adapters are loaded
    rates: dict[str, list[float]] = {name: [] for name, _ in kinds}
    for _ in range(run.sizes.turns):
        for name, wish in kinds:
            rates[name].append(_rate(run, address, wish))
    plain = statistics.median(rates[""])
    for name, _ in WISHES:
        limit = None if run.sizes.quick else LIMIT
        remark = f"26 M, {run.sizes.most_tokens} tokens each, median of {run.sizes.turns} turns"
        figure = f"{STREAMS} at once with {name}"
        yield Row(figure, statistics.median(rates[name]), "tokens/s", "higher", "8 plain ones", plain, remark, limit)
    node.command("stop", NAME)


def _rate(run: Run, address: str, wish: Wish) -> float:
    bodies = [wish(question(NAME, story(place), run.sizes.most_tokens), place) for place in range(STREAMS)]
    return together(ask_at_once(address, bodies))


def _write_adapter(directory: Path, seed: int) -> Path:
    directory.mkdir()
    source = np.random.default_rng(seed)
    keys = {"self_attn.q_proj": SMALL["num_attention_heads"] * 64, "self_attn.v_proj": 4 * 64}
    tensors = {}
    for layer in range(SMALL["num_hidden_layers"]):
        for key, width in keys.items():
            name = f"model.layers.{layer}.{key}"
            tensors[f"{name}.lora_a"] = source.standard_normal((SMALL["hidden_size"], RANK), np.float32) / 100
            tensors[f"{name}.lora_b"] = source.standard_normal((RANK, width), np.float32) / 100
    write_tensors(directory / "adapters.safetensors", tensors)
    parameters = {"rank": RANK, "scale": 10.0, "dropout": 0.0, "keys": list(keys)}
    config = {"fine_tune_type": "lora", "num_layers": SMALL["num_hidden_layers"], "lora_parameters": parameters}
    (directory / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory
