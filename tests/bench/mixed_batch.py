"""Eight requests at once that each want something of their own, beside eight that want nothing of the kind."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tests.bench.chat_client import NO_END, Body, ask_at_once, question, together
from tests.bench.random_model import write_tensors
from tests.bench.run import Run
from tests.bench.serving import MODELS, Pair, api_address, middle, serve, story
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
    """Of each model, turn by turn, eight plain requests and eight of each kind, of the same length, to one node."""
    for name, what, make in MODELS[: 1 if run.sizes.quick else None]:
        directory = run.scratch / f"mixed-{name}"
        make(directory)
        node = serve(run, NAME, directory)
        for place in range(ADAPTERS):
            recipe = directory.with_suffix(f".{place}.Modelfile")
            adapter = _write_adapter(run.scratch / f"adapter-{name}-{place}", directory, place)
            recipe.write_text(f"FROM {NAME}\nADAPTER {adapter}\n")
            node.command("create", f"{NAME}-{place}", "-f", str(recipe))
        run.progress(f"requests with wishes of their own beside plain ones: {what}")
        yield from _beside_plain(run, what, api_address(node))
        node.command("stop", NAME)


def _beside_plain(run: Run, what: str, address: str) -> Iterator[Row]:
    for _, wish in (("", _plain), *WISHES):
        _rate(run, address, wish)  # models and adapters are loaded
    pairs: dict[str, list[Pair]] = {name: [] for name, _ in WISHES}
    for _ in range(run.sizes.many_turns):
        plain = _rate(run, address, _plain)
        for name, wish in WISHES:
            pairs[name].append((_rate(run, address, wish), plain))
    for name, found in pairs.items():
        limit = None if run.sizes.quick else LIMIT
        remark = f"{run.sizes.most_tokens} tokens each, the middle one of {len(found)} turns"
        ours, plain = middle(found)
        figure = f"{STREAMS} at once with {name}, {what}"
        yield Row(figure, ours, "tokens/s", "higher", "8 plain ones", plain, remark, limit)


def _rate(run: Run, address: str, wish: Wish) -> float:
    bodies = [
        wish(question(NAME, story(place), run.sizes.most_tokens, logit_bias=NO_END), place) for place in range(STREAMS)
    ]
    return together(ask_at_once(address, bodies))


def _write_adapter(directory: Path, base: Path, seed: int) -> Path:
    """Write a LoRA adapter of noise for the model in `base`."""
    directory.mkdir()
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    source = np.random.default_rng(seed)
    hidden, head, layers = config["hidden_size"], config["head_dim"], config["num_hidden_layers"]
    keys = {
        "self_attn.q_proj": config["num_attention_heads"] * head,
        "self_attn.v_proj": config["num_key_value_heads"] * head,
    }
    tensors = {}
    for layer in range(layers):
        for key, width in keys.items():
            name = f"model.layers.{layer}.{key}"
            tensors[f"{name}.lora_a"] = source.standard_normal((hidden, RANK), np.float32) / 100
            tensors[f"{name}.lora_b"] = source.standard_normal((RANK, width), np.float32) / 100
    write_tensors(directory / "adapters.safetensors", tensors)
    parameters = {"rank": RANK, "scale": 10.0, "dropout": 0.0, "keys": list(keys)}
    facts = {"fine_tune_type": "lora", "num_layers": layers, "lora_parameters": parameters}
    (directory / "adapter_config.json").write_text(json.dumps(facts), encoding="utf-8")
    return directory
