"""Adapters over one base: each row of a mixed batch answers as mlx-lm does with that row's adapter alone."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from node.models.blas import preload_blas
from node.models.demo import demo_directory
from node.models.errors import ModelRefused

if TYPE_CHECKING:
    from node.models.engine.lora import LoraBank

pytestmark = pytest.mark.model

LINEAR = ["self_attn.q_proj", "mlp.down_proj"]
TOKENS = [[(7 * at * at + 31 * row + 3) % 599 for at in range(20)] for row in range(4)]
# Products are added up in another order than alone; a wrong adapter is off by whole units.
CLOSE = 2e-4


def load_base(kind: str = "demo") -> Any:
    """Return a model in float32: the demo model, or a tiny one of experts or with biases and packed weights."""
    preload_blas()
    import mlx.core as mx
    import mlx.nn as nn
    from mlx_lm.models import qwen2, qwen3_moe
    from mlx_lm.utils import load_model

    if kind == "demo":
        model, _ = load_model(demo_directory())
        model.set_dtype(mx.float32)
        return model
    mx.random.seed(5)
    shape: dict[str, Any] = {
        **{"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "num_attention_heads": 2},
        **{"num_key_value_heads": 2, "vocab_size": 600, "rms_norm_eps": 1e-6, "rope_theta": 1e4},
        **{"max_position_embeddings": 128, "tie_word_embeddings": False, "head_dim": 32},
    }
    if kind == "experts":
        shape |= {"num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 1, "mlp_only_layers": []}
        shape |= {"moe_intermediate_size": 32, "norm_topk_prob": True, "model_type": "qwen3_moe"}
        model = qwen3_moe.Model(_args(qwen3_moe)(shape))
    else:  # qwen2 has biases on its projections
        model = qwen2.Model(_args(qwen2)({**shape, "model_type": "qwen2"}))
    if kind == "packed":
        quantize: Any = nn.quantize  # type: ignore[attr-defined]  # exported by a wildcard
        quantize(model, group_size=32, bits=4)
    mx.eval(model.parameters())
    return model


def _args(module: Any) -> Callable[[dict[str, Any]], Any]:
    return module.ModelArgs.from_dict  # type: ignore[no-any-return]  # mlx-lm publishes no types


def make_adapter(model: Any, directory: Path, seed: int, *, kind: str = "lora", rank: int = 4, **config: Any) -> Path:
    """Write an adapter of noise as mlx-lm writes one, and leave `model` as it was."""
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_unflatten
    from mlx_lm.tuner.utils import linear_to_lora_layers

    parameters = {"rank": rank, "scale": 4.0, "dropout": 0.0, "keys": config.pop("keys", LINEAR)}
    document = {"fine_tune_type": kind, "num_layers": config.pop("num_layers", 2), "lora_parameters": parameters}
    before = dict(model.named_modules())
    linear_to_lora_layers(model, document["num_layers"], parameters, use_dora=kind == "dora")
    over = [path for path, module in model.named_modules() if "lora_a" in module]
    mx.random.seed(seed)
    weights = {}
    parts: Any = tree_flatten(model.parameters())
    for name, value in parts:
        leaf = name.rpartition(".")[2]
        if leaf in ("lora_a", "lora_b"):
            weights[name] = 0.2 * mx.random.normal(value.shape)
        elif leaf == "m" and name.rpartition(".")[0] in over:
            weights[name] = value * (1 + 0.5 * mx.random.uniform(shape=value.shape))
    model.update_modules(tree_unflatten([(path, before[path]) for path in over]))
    directory.mkdir(parents=True)
    mx.save_safetensors(str(directory / "adapters.safetensors"), weights)
    (directory / "adapter_config.json").write_text(json.dumps(document))
    return directory


def alone(kind: str, directory: Path | None, tokens: Sequence[int]) -> Any:
    """Return the logits of mlx-lm's own model with its own adapter loading, one row."""
    import mlx.core as mx
    from mlx_lm.tuner.utils import load_adapters

    model = load_base(kind)
    if directory is not None:
        model = load_adapters(model, str(directory))
    model.eval()
    return model(mx.array([list(tokens)]))[0]


def bank_of(model: Any, **adapters: Path) -> "LoraBank":
    from mlx_lm.tuner.utils import load_adapters

    from node.models.engine.lora import LoraBank

    bank = LoraBank(model, load_adapters)
    for name, directory in adapters.items():
        bank.add(name, directory)
    return bank


def difference(one: Any, other: Any) -> float:
    return largest(one - other)


def largest(values: Any) -> float:
    import mlx.core as mx

    number: Any = mx.max(mx.abs(values)).item()
    return float(number)


def require_rows_as_alone(kind: str, model: Any, bank: "LoraBank", names: Sequence[str], **adapters: Path) -> None:
    import mlx.core as mx

    bank.select(names)
    together = model(mx.array(TOKENS[: len(names)]))
    bare = alone(kind, None, TOKENS[0])
    for row, name in enumerate(names):
        said = alone(kind, adapters.get(name), TOKENS[row])
        assert difference(together[row], said) < CLOSE * max(1.0, largest(said)), (row, name)
        if name and row == 0:
            assert difference(bare, said) > 0.1, "the adapter changes nothing, so nothing was tested"


ADAPTERS: list[tuple[str, str, Callable[[Any, Path], dict[str, Path]]]] = [
    (
        "linear layers of three ranks",
        "demo",
        lambda model, path: {
            "a": make_adapter(model, path / "a", 1),
            "b": make_adapter(model, path / "b", 2, rank=16, keys=[*LINEAR, "self_attn.v_proj"]),
            "c": make_adapter(model, path / "c", 3, rank=1, num_layers=-1, keys=["mlp.up_proj"]),
        },
    ),
    (
        "DoRA beside LoRA",
        "demo",
        lambda model, path: {
            "a": make_adapter(model, path / "a", 1, kind="dora"),
            "b": make_adapter(model, path / "b", 2),
            "c": make_adapter(model, path / "c", 3, kind="dora", rank=8),
        },
    ),
    (
        "every module of a layer, as without keys",
        "demo",
        lambda model, path: {
            "a": make_adapter(model, path / "a", 1, keys=None),
            "b": make_adapter(model, path / "b", 2, keys=None, kind="dora"),
            "c": make_adapter(model, path / "c", 3),
        },
    ),
    (
        "the embedding, which is also the last layer",
        "demo",
        lambda model, path: {
            "a": make_adapter(model, path / "a", 1, keys=["model.embed_tokens"]),
            "b": make_adapter(model, path / "b", 2, keys=["model.embed_tokens", *LINEAR], kind="dora"),
            "c": make_adapter(model, path / "c", 3),
        },
    ),
    (
        "experts",
        "experts",
        lambda model, path: {
            "a": make_adapter(model, path / "a", 1, keys=["mlp.switch_mlp.up_proj", "mlp.switch_mlp.down_proj"]),
            "b": make_adapter(model, path / "b", 2, keys=["mlp.switch_mlp.gate_proj", "self_attn.q_proj"]),
            "c": make_adapter(model, path / "c", 3, keys=["self_attn.q_proj", "mlp.gate"]),
        },
    ),
    (
        "layers with biases",
        "biases",
        lambda model, path: {
            "a": make_adapter(model, path / "a", 1, kind="dora", keys=["self_attn.q_proj"]),
            "b": make_adapter(model, path / "b", 2, keys=["self_attn.q_proj"]),
            "c": make_adapter(model, path / "c", 3, keys=["self_attn.k_proj"]),
        },
    ),
    (
        "packed weights",
        "packed",
        lambda model, path: {
            "a": make_adapter(model, path / "a", 1),
            "b": make_adapter(model, path / "b", 2),
            "c": make_adapter(model, path / "c", 3, rank=2),
        },
    ),
]


@pytest.mark.parametrize(("kind", "make"), [case[1:] for case in ADAPTERS], ids=[case[0] for case in ADAPTERS])
def test_each_row_is_computed_as_mlx_lm_does_with_its_adapter_alone(
    tmp_path: Path, kind: str, make: Callable[[Any, Path], dict[str, Path]]
) -> None:
    model = load_base(kind)
    adapters = make(model, tmp_path)
    bank = bank_of(model, **adapters)
    for names in (["a", "b", "", "c"], ["b", "b", "a", "a"], ["a"], ["b"], ["c"], ["", ""], ["", "c"], ["c", "c"]):
        require_rows_as_alone(kind, model, bank, names, **adapters)


def test_the_bank_grows_and_shrinks_between_passes(tmp_path: Path) -> None:
    model = load_base()
    made = {name: make_adapter(model, tmp_path / name, at, rank=2 + at) for at, name in enumerate("abcd")}
    bank = bank_of(model, a=made["a"])
    require_rows_as_alone("demo", model, bank, ["a", ""], a=made["a"])
    before = bank.nbytes
    for name in "bcd":
        bank.add(name, made[name])
        bank.add(name, made[name])
    require_rows_as_alone("demo", model, bank, ["d", "a", "b", "c"], **made)
    for name in "abc":
        bank.drop(name)
        bank.drop(name)
    require_rows_as_alone("demo", model, bank, ["d", "", "d"], d=made["d"])
    bank.drop("d")
    assert (bank.names, bank.nbytes) == ((), 0)
    assert before > 0
    bank.select(["", ""])
    assert not [path for path, module in model.named_modules() if "base" in module], "the model is as it came"


def test_one_row_alone_is_exactly_what_mlx_lm_computes(tmp_path: Path) -> None:
    import mlx.core as mx

    model = load_base()
    made = make_adapter(model, tmp_path / "a", 1)
    bank = bank_of(model, a=made)
    bank.select(["a"])
    assert difference(model(mx.array(TOKENS[:1]))[0], alone("demo", made, TOKENS[0])) == 0
    bank.select([""])
    assert difference(model(mx.array(TOKENS[:1]))[0], alone("demo", None, TOKENS[0])) == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda config: config["lora_parameters"].update(keys=[*LINEAR, "self_attn.o_proj"]), "o_proj"),
        (lambda config: config["lora_parameters"].update(keys=LINEAR[:1]), "not an adapter parameter"),
        (lambda config: config["lora_parameters"].update(rank=8), "rank"),
        (lambda config: config["lora_parameters"].update(keys=["self_attn.q_norm"]), "RMSNorm"),
        (lambda config: config.update(fine_tune_type="full"), "full"),
    ],
    ids=["a tensor is missing", "a tensor is extra", "another rank", "a layer that takes none", "a full fine-tune"],
)
def test_an_adapter_that_does_not_fit_is_refused_and_the_others_go_on(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    model = load_base()
    good = make_adapter(model, tmp_path / "good", 1)
    bad = make_adapter(model, tmp_path / "bad", 2)
    config = json.loads((bad / "adapter_config.json").read_text())
    change(config)
    (bad / "adapter_config.json").write_text(json.dumps(config))
    bank = bank_of(model, good=good)
    with pytest.raises(ModelRefused, match=says):
        bank.add("bad", bad)
    with pytest.raises(ModelRefused, match="not loaded"):
        bank.select(["bad"])
    require_rows_as_alone("demo", model, bank, ["good", "", "good"], good=good)
    with pytest.raises(ModelRefused, match="without a name"):
        bank.add("", good)
    with pytest.raises(ModelRefused, match="adapter"):
        bank.add("nowhere", tmp_path)
