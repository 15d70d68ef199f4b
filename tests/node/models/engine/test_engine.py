"""The engine on the demo model: what it refuses to load, how it samples, where it stops."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from node.models.blas import preload_blas
from node.models.demo import demo_directory
from node.models.errors import ModelRefused, OptionInvalid, PromptTooLong
from protocol.worker.messages import Sampling

if TYPE_CHECKING:
    from node.models.engine.engine import Engine

pytestmark = pytest.mark.model

FOX = [{"role": "user", "content": "Tell me a story about a fox."}]


@pytest.fixture(scope="module")
def engine() -> "Engine":
    preload_blas()
    from node.models.engine.engine import Engine

    return Engine.load(demo_directory())


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A copy of the demo model, to be broken."""
    return Path(shutil.copytree(demo_directory(), tmp_path / "model"))


def generate(engine: "Engine", count: int, sampling: Sampling, num_ctx: int = 2048) -> list[int]:
    from tests.node.models.engine.batches import generate as generate_alone

    prompt = engine.encode_chat(engine.render(FOX, [], None, False))
    return generate_alone(engine, prompt, min(count, num_ctx - len(prompt)), sampling)


def change_config(directory: Path, **values: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def change_weights(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    import mlx.core as mx

    path = directory / "model.safetensors"
    weights: dict[str, Any] = dict(mx.load(str(path)))  # type: ignore[arg-type]  # a file of tensors loads as a map
    mx.eval(weights)
    change(weights)
    path.unlink()
    mx.save_safetensors(str(path), weights)


def load(directory: Path) -> "Engine":
    from node.models.engine.engine import Engine

    return Engine.load(directory)


def test_a_missing_tensor_is_refused_by_name(engine: "Engine", broken: Path) -> None:
    change_weights(broken, lambda weights: weights.pop("model.norm.weight"))
    with pytest.raises(ModelRefused, match=r"model\.norm\.weight"):
        load(broken)


def test_an_extra_tensor_is_refused_by_name(engine: "Engine", broken: Path) -> None:
    change_weights(broken, lambda weights: weights.update(extra=weights["model.norm.weight"]))
    with pytest.raises(ModelRefused, match="extra"):
        load(broken)


def test_weights_that_are_no_numbers_are_refused(engine: "Engine", broken: Path) -> None:
    def spoil(weights: dict[str, Any]) -> None:
        weights["model.norm.weight"] = weights["model.norm.weight"] * float("nan")

    change_weights(broken, spoil)
    with pytest.raises(ModelRefused, match="no numbers"):
        generate(load(broken), 1, Sampling(temperature=0))


def test_an_unknown_architecture_is_refused_by_name(engine: "Engine", broken: Path) -> None:
    change_config(broken, model_type="qwen99")
    with pytest.raises(ModelRefused, match="unknown architecture 'qwen99'"):
        load(broken)


@pytest.mark.parametrize("model_type", ["../x", "cache", None, 5, "a.b", "x" * 100])
def test_what_is_no_architecture_is_refused(engine: "Engine", broken: Path, model_type: object) -> None:
    change_config(broken, model_type=model_type)
    with pytest.raises(ModelRefused):
        load(broken)


def test_code_of_the_publisher_is_never_run(engine: "Engine", broken: Path) -> None:
    ran = broken / "ran"
    (broken / "evil.py").write_text(f"open({str(ran)!r}, 'w')")
    change_config(broken, model_file="evil.py", auto_map={"AutoTokenizer": ["evil.Evil", None]})
    with pytest.raises(ModelRefused, match="code of its own"):
        load(broken)
    change_config(broken, model_file=None)
    path = broken / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}))
    load(broken)
    assert not ran.exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_file_cut_short_is_refused(engine: "Engine", broken: Path, name: str) -> None:
    path = broken / name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelRefused):
        load(broken)


def test_a_directory_without_a_model_is_refused(engine: "Engine", tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"config\.json"):
        load(tmp_path)


def test_the_same_seed_gives_the_same_tokens_and_another_one_others(engine: "Engine") -> None:
    def wild(seed: int) -> list[int]:
        return generate(engine, 20, Sampling(temperature=5.0, top_k=0, top_p=1.0, seed=seed))

    assert wild(1) == wild(1)
    assert wild(1) != wild(2)


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}, {"temperature": 0.0}])
def test_the_narrowest_choice_is_the_greedy_one(engine: "Engine", narrow: dict[str, Any]) -> None:
    wide = {"temperature": 3.0, "top_k": 0, "top_p": 1.0, "seed": 3}
    greedy = generate(engine, 20, Sampling(temperature=0.0, seed=9))
    assert generate(engine, 20, Sampling(**{**wide, **narrow})) == greedy


@pytest.mark.parametrize("penalty", [{"repeat_penalty": 50.0}, {"presence_penalty": 90.0}, {"frequency_penalty": 90.0}])
def test_penalties_keep_tokens_from_coming_again(engine: "Engine", penalty: dict[str, Any]) -> None:
    def again(tokens: list[int]) -> int:
        return len(tokens) - len(set(tokens))

    greedy = generate(engine, 30, Sampling(temperature=0.0))
    penalised = generate(engine, 30, Sampling(temperature=0.0, repeat_last_n=-1, **penalty))
    assert again(penalised) < again(greedy)


def test_top_k_beyond_the_vocabulary_is_every_token(engine: "Engine") -> None:
    sampling: dict[str, Any] = {"temperature": 5.0, "top_p": 1.0, "seed": 4}
    assert generate(engine, 5, Sampling(top_k=10**6, **sampling)) == generate(engine, 5, Sampling(top_k=0, **sampling))


def test_an_answer_ends_where_the_window_does(engine: "Engine") -> None:
    prompt = len(engine.encode_chat(engine.render(FOX, [], None, False)))
    assert len(generate(engine, 99, Sampling(temperature=0.0), num_ctx=prompt + 5)) == 5


@pytest.mark.parametrize("size", [True, -1, 0, 1.5, "900", None])
def test_a_context_that_is_no_number_of_tokens_is_taken_for_unsaid(size: object) -> None:
    from node.models.engine.config_file import FALLBACK_CONTEXT_TOKENS, context_tokens

    assert context_tokens({"max_position_embeddings": size}) == FALLBACK_CONTEXT_TOKENS
    assert context_tokens({"max_position_embeddings": size, "n_ctx": 77}) == 77


def test_a_prompt_that_fills_the_window_is_refused(engine: "Engine") -> None:
    with pytest.raises(PromptTooLong) as caught:
        engine.require_prompt([5] * 300, 300)
    assert (caught.value.prompt_tokens, caught.value.context_tokens) == (300, 300)


def test_a_token_beyond_the_vocabulary_is_refused_before_it_crashes(engine: "Engine") -> None:
    with pytest.raises(OptionInvalid):
        engine.require_prompt([5, 2048], 300)


def test_what_is_no_tool_call_is_none(engine: "Engine") -> None:
    for text in ("", "{", "[]", "5", '{"name": 5}', '{"nome": "x"}', "null"):
        assert engine.parse_tool_call(text, []) == []
    told = ['{"name": "f", "arguments": {"a": 1}}', '{"name": "f", "arguments": "{\\"a\\": 1}"}']
    assert [engine.parse_tool_call(text, []) for text in told] == [[("f", '{"a": 1}')]] * 2


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": "x"}',
        '{"name": "f", "arguments": {"a": NaN}}',
        '{"name": "f", "arguments": {"a": "\\ud800"}}',
        '{"name": "\\ud800"}',
        '{"name": "' + "f" * 1025 + '"}',
        "[" * 5000,
    ],
)
def test_a_tool_call_that_could_not_be_told_is_none(engine: "Engine", text: str) -> None:
    assert engine.parse_tool_call(text, []) == []


def test_a_quantized_model_answers(engine: "Engine", tmp_path: Path) -> None:
    from mlx_lm import convert

    convert(str(demo_directory()), str(tmp_path / "q4"), quantize=True, q_bits=4, q_group_size=64)
    assert generate(load(tmp_path / "q4"), 10, Sampling(temperature=0)) == generate(engine, 10, Sampling(temperature=0))
