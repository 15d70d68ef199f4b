"""Messages between the node and its model worker: the vectors of specs/0015-worker-protocol, and both directions."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import CodecInvalid, FieldInvalid, ProtocolError
from protocol.worker.codec import decode_from_worker, decode_to_worker, encode_from_worker, encode_to_worker
from protocol.worker.messages import Done, Generate, Sampling

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0015-worker-protocol"
CASES = json.loads((VECTORS / "messages.json").read_text())
DECODERS = {"to-worker": decode_to_worker, "from-worker": decode_from_worker}
REFUSALS: dict[str, type[ProtocolError]] = {"CodecInvalid": CodecInvalid, "FieldInvalid": FieldInvalid}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["comment"])
def test_vector(case: dict[str, Any]) -> None:
    data = bytes.fromhex(case["input"]["message"])
    decode = DECODERS[case["input"]["side"]]
    if case["expect"] != "ok":
        with pytest.raises(REFUSALS[case["expect"]]):
            decode(data)
        return
    message = decode(data)
    assert _plain(message) == case["output"]
    encoded = encode_to_worker(message) if case["input"]["side"] == "to-worker" else encode_from_worker(message)  # type: ignore[arg-type]  # the side decides
    assert encoded == data


FRACTION = st.floats(0, 1)


@given(
    sampling=st.builds(
        Sampling,
        temperature=st.floats(0, 100),
        top_k=st.integers(0, 2**31 - 1),
        top_p=FRACTION,
        min_p=FRACTION,
        repeat_penalty=st.floats(0.001, 100),
        repeat_last_n=st.integers(-1, 2**31 - 1),
        presence_penalty=st.floats(-100, 100),
        frequency_penalty=st.floats(-100, 100),
        seed=st.integers(0, 2**64 - 1),
        logit_bias=st.lists(st.tuples(st.integers(0, 2**32 - 1), st.floats(-100, 100)), max_size=3).map(tuple),
    ),
    context=st.lists(st.integers(0, 2**32 - 1), max_size=5),
    prompt=st.text(st.characters(exclude_categories=["Cs"])),
)
def test_a_request_arrives_as_it_was_sent(sampling: Sampling, context: list[int], prompt: str) -> None:
    message = Generate(7, prompt, None, "[]", None, False, tuple(context), 4096, -1, ("a", "b"), sampling)
    assert decode_to_worker(encode_to_worker(message)) == message


def test_a_count_of_tokens_may_be_larger_than_any_context() -> None:
    done = Done(1, "stop", 16_000_000, 1, 0, 0, ())
    assert decode_from_worker(encode_from_worker(done)) == done


def test_token_histories_stay_out_of_representations() -> None:
    assert "271" not in repr(Done(1, "stop", 1, 1, 1, 1, (271,)))


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value
