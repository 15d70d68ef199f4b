"""Quantized keys and values: mlx-lm's own cache gives the same greedy tokens, and a batch gives those of its rows."""

import time
from typing import Any

import pytest

from node.models.blas import preload_blas
from protocol.worker.messages import Sampling
from tests.node.models.engine.tiny_models import greedy, load_model, read, words

pytestmark = pytest.mark.model
MODELS: dict[str, Any] = {}


def model_of(kind: str) -> tuple[Any, Any]:
    if kind not in MODELS:
        MODELS[kind] = load_model(kind)
    return MODELS[kind]  # type: ignore[no-any-return]  # what load_model gives


def quantized_rows(kind: str, bits: int, packed: bool = True) -> Any:
    preload_blas()
    from node.models.engine.quantized_cache import quantized

    return lambda: quantized(model_of(kind)[1](), bits, packed=packed)


def lm_rows(kind: str, bits: int) -> Any:
    from mlx_lm.models.cache import KVCache, QuantizedKVCache

    def make() -> list[Any]:
        return [
            QuantizedKVCache(64 if kind == "demo" else 32, bits) if isinstance(cache, KVCache) else cache
            for cache in model_of(kind)[1]()
        ]

    return make


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", ["demo", "qwen3_next", "gemma3_text"])
def test_the_tokens_are_those_of_the_stock_cache(kind: str, bits: int, packed: bool) -> None:
    model, _ = model_of(kind)
    for seed in range(3):
        prompt = words(seed, 90 + 100 * seed)
        stock = greedy(model, prompt, lm_rows(kind, bits)())
        assert greedy(model, prompt, quantized_rows(kind, bits, packed)()) == stock


def test_it_takes_less_memory() -> None:
    model, new_caches = model_of("demo")
    plain, packed = new_caches(), quantized_rows("demo", 4)()
    for caches in (plain, packed):
        read(model, words(1, 512), caches)
    assert 5 * sum(cache.nbytes for cache in packed) < sum(cache.nbytes for cache in plain)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_batch_that_changes_answers_as_its_rows_do_alone(bits: int) -> None:
    import mlx.core as mx

    model, _ = model_of("demo")
    make = quantized_rows("demo", bits)
    prompts = [words(seed, count) for seed, count in ((1, 70), (2, 300), (3, 256), (4, 20))]
    alone = [greedy(model, prompt, make(), count=18) for prompt in prompts]
    said: dict[int, list[int]] = {row: [] for row in range(4)}
    rows = []
    for prompt in prompts:
        caches = make()
        read(model, prompt[:-1], caches)
        rows.append(caches)

    def merged(members: list[int]) -> list[Any]:
        return [type(rows[0][0]).merge([rows[row][layer] for row in members]) for layer in range(len(rows[0]))]

    def step(batch: list[Any], members: list[int], count: int) -> None:
        for _ in range(count):
            last = [said[row][-1] if said[row] else prompts[row][-1] for row in members]
            logits = model(mx.array(last)[:, None], cache=batch)[:, -1]
            tokens: Any = mx.argmax(logits, axis=-1).tolist()
            for row, token in zip(members, tokens, strict=True):
                said[row].append(token)

    batch = merged([0, 1])
    step(batch, [0, 1], 3)
    for layer, other in zip(batch, merged([2, 3]), strict=True):
        layer.extend(other)
    step(batch, [0, 1, 2, 3], 4)
    for layer in batch:
        layer.filter([0, 2, 3])
    step(batch, [0, 2, 3], 5)
    rows[0] = [layer.extract(0) for layer in batch]
    for layer in batch:
        layer.filter(mx.array([1, 2]))
    step(batch, [2, 3], 6)
    again = merged([0])
    step(again, [0], 6)
    assert {row: said[row] for row in said} == {row: alone[row][: len(said[row])] for row in said}


def test_prompts_padded_on_their_right_are_read_together() -> None:
    import mlx.core as mx

    from node.models.engine.quantized_cache import QuantizedBatch

    model, new_caches = model_of("demo")
    prompts = [words(1, 40), words(2, 75)]
    alone = [greedy(model, prompt, quantized_rows("demo", 8)()) for prompt in prompts]
    batch = [QuantizedBatch([0, 0], 8, True) for _ in new_caches()]
    read_before = [prompt[:-1] for prompt in prompts]
    padding = [74 - len(tokens) for tokens in read_before]
    for layer in batch:
        layer.prepare(lengths=[len(tokens) for tokens in read_before], right_padding=padding)
    model(mx.array([tokens + [0] * more for tokens, more in zip(read_before, padding, strict=True)]), cache=batch)
    for layer in batch:
        layer.finalize()
    for row, prompt in enumerate(prompts):
        tokens = greedy(model, prompt, [layer.extract(row) for layer in batch], len(prompt) - 1)
        assert tokens == alone[row]


def test_a_model_is_given_what_it_takes() -> None:
    preload_blas()
    import mlx.core as mx

    from node.models.engine.quantized_cache import choose_caches

    model, new_caches = model_of("demo")
    made = choose_caches(model, new_caches, 4)
    assert made is not None
    assert {type(cache).__name__ for cache in made()} == {"QuantizedRow"}
    assert choose_caches(*model_of("mamba"), 4) is None

    def wants_arrays(tokens: mx.array, cache: list[Any]) -> mx.array:
        keys, values = cache[0].update_and_fetch(mx.ones((1, 2, tokens.shape[1], 64)), mx.ones((1, 2, 1, 64)))
        return mx.array(keys.shape[0] + values.shape[0])

    unpacked = choose_caches(wants_arrays, new_caches, 8)
    assert unpacked is not None
    assert not unpacked()[0]._packed

    def odd_heads(tokens: mx.array, cache: list[Any]) -> mx.array:
        cache[0].update_and_fetch(mx.ones((1, 2, tokens.shape[1], 40)), mx.ones((1, 2, tokens.shape[1], 40)))
        return tokens

    assert choose_caches(odd_heads, new_caches, 8) is None


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", ["demo", "qwen3_next", "gemma3_text"])
def test_the_engine_answers_many_with_packed_contexts_as_each_alone(kind: str, bits: int) -> None:
    preload_blas()
    from node.models.engine.batch import Batch
    from node.models.engine.prefix import KeptPrefixes
    from node.models.engine.rows import Row
    from tests.node.models.engine.batches import Heard

    model, _ = model_of(kind)
    make, heard = quantized_rows(kind, bits), Heard()
    prefixes = KeptPrefixes(make, "packed", 1 << 28)
    batch = Batch(model, 500, make, heard, time.monotonic, head_tokens=64, prefixes=prefixes)
    rows = [
        Row(number, words(seed, 60 + 37 * seed), Sampling(temperature=0.0), most=9 + number, stops=frozenset())
        for number, seed in enumerate([1, 2, 3, 4, 2, 1, 5, 3])
    ]
    for row in rows:
        batch.add(row)
        batch.step()
    while batch.rows:
        batch.step()
    for row in rows:
        assert heard.values(row) == greedy(model, row.prompt, make(), count=row.most)
    assert prefixes.hits > 0
