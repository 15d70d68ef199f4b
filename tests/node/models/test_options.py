"""Which options apply, and what is refused."""

import pytest

from node.models.errors import CapabilityMissing, OptionInvalid
from node.models.options import resolve_options
from protocol.modelfile import parse_modelfile
from protocol.parameters import PARAMETERS
from protocol.worker.messages import MAX_SEED


def test_silence_means_the_usual_values() -> None:
    wishes = resolve_options({}, (), {})
    assert (wishes.sampling.temperature, wishes.sampling.top_k, wishes.sampling.top_p) == (0.8, 40, 0.9)
    assert (wishes.num_ctx, wishes.num_predict, wishes.stop, wishes.seed) == (4096, -1, (), None)


def test_the_request_goes_over_the_modelfile_and_that_over_the_defaults() -> None:
    wishes = resolve_options(
        {"temperature": 1.0, "top_p": 1.0, "top_k": 0},
        (("temperature", 0.5), ("top_k", 7)),
        {"temperature": 0, "min_p": None},
    )
    assert (wishes.sampling.temperature, wishes.sampling.top_k, wishes.sampling.top_p) == (0.0, 7, 1.0)


def test_stops_of_a_modelfile_add_up_and_those_of_a_request_replace_them() -> None:
    parameters = (("stop", "a"), ("stop", "b"))
    assert resolve_options({}, parameters, {}).stop == ("a", "b")
    assert resolve_options({}, parameters, {"stop": "c"}).stop == ("c",)
    assert resolve_options({}, parameters, {"stop": []}).stop == ()


def test_whole_numbers_may_come_as_floats() -> None:
    assert resolve_options({}, (), {"top_k": 40.0, "num_ctx": 2048.0}).num_ctx == 2048


@pytest.mark.parametrize(("given", "seed"), [(-1, None), (0, 0), (MAX_SEED, MAX_SEED), (42.0, 42)])
def test_seeds(given: object, seed: int | None) -> None:
    assert resolve_options({}, (), {"seed": given}).seed == seed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", "hot"),
        ("temperature", True),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_p", 1.1),
        ("min_p", -1),
        ("top_k", 1.5),
        ("top_k", 2**40),
        ("num_ctx", 0),
        ("num_ctx", 2**40),
        ("num_predict", -3),
        ("seed", 2**70),
        ("seed", "x"),
        ("repeat_last_n", -2),
        ("repeat_penalty", 0),
        ("stop", 5),
        ("stop", [5]),
        ("stop", ["x"] * 33),
        ("stop", "x" * 1025),
        ("stop", {"a": 1}),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(OptionInvalid, match=f"option {name}"):
        resolve_options({}, (), {name: value})


def test_an_option_that_would_change_the_answer_is_refused_unless_it_is_off() -> None:
    assert resolve_options({}, (), {"mirostat": 0, "typical_p": 1.0}).unknown == ()
    with pytest.raises(CapabilityMissing, match="typical_p"):
        resolve_options({}, (), {"typical_p": 0.7})


def test_options_for_another_runtime_are_taken_and_unknown_ones_are_named() -> None:
    assert resolve_options({}, (), {"num_gpu": 99, "num_thread": 4, "temprature": 0}).unknown == ("temprature",)


def test_every_parameter_at_its_ends_is_taken_when_the_model_answers() -> None:
    for name, known in PARAMETERS.items():
        for value in ("x" * 1024,) if known.kind is str else (known.low, known.high):
            text = value if isinstance(value, str) else repr(known.kind(value))
            parsed = parse_modelfile(f"FROM a\nPARAMETER {name} {text}")
            assert not resolve_options({}, parsed.parameters, {}).unknown
