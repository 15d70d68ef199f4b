"""Log-probabilities as they go from the worker to the client: JSON text of one exact form, see specs/0015.

Every token of an answer may have twenty likely ones beside it. The worker knows their words as JSON already; the node
checks the form, which also keeps line ends out, and passes the text on without taking it apart.
"""

import json
import re
from collections.abc import Iterable
from typing import Any, Final

from typing_extensions import TypedDict

LEAST: Final = -9999.0
"""What a token that cannot come weighs, as other programs' servers say it."""

_STRING: Final = r'"(?:[^"\\\x00-\x1f]|\\["\\bfnrt]|\\u00[01][0-9a-f])*+"'
_NUMBER: Final = r"-?(?:0|[1-9][0-9]{0,3})(?:\.[0-9]{1,20})?(?:e-[0-9]{1,3})?"
_BYTE: Final = r"(?:0|[1-9][0-9]{0,2})"
_LIKELY: Final = rf'\{{"token":{_STRING},"bytes":\[(?:{_BYTE}(?:,{_BYTE})*+)?\],"logprob":{_NUMBER}'
_CHOSEN: Final = rf'{_LIKELY},"top_logprobs":\[(?:{_LIKELY}\}}(?:,{_LIKELY}\}})*+)?\]\}}'
_FORM: Final = re.compile(rf"\[{_CHOSEN}(?:,{_CHOSEN})*+\]")


class LikelyToken(TypedDict):
    """A token as text, its bytes, and the natural logarithm of its probability."""

    token: str
    bytes: list[int]
    logprob: float


class ChosenToken(LikelyToken):
    """A token of the answer, with the likeliest ones at its place, likeliest first."""

    top_logprobs: list[LikelyToken]


def begin(said: bytes) -> str:
    """Return the beginning of a token's object, which is the same wherever the token comes: what it says."""
    facts = {"token": said.decode(errors="replace"), "bytes": list(said)}
    return f'{json.dumps(facts, ensure_ascii=False, separators=(",", ":"))[:-1]},"logprob":'


def chosen(begun: str, logprob: float, top: Iterable[tuple[str, float]]) -> str:
    """Return the object of a token of the answer from its beginning, and from those of the likeliest at its place."""
    likely = ",".join([f"{other}{max(weight, LEAST)}}}" for other, weight in top])
    return f'{begun}{max(logprob, LEAST)},"top_logprobs":[{likely}]}}'


def joined(objects: Iterable[str]) -> str:
    """Return the list of the objects that `chosen` gave."""
    return f"[{','.join(objects)}]"


def concatenated(first_json: str, second_json: str) -> str:
    """Return the list of the tokens of two lists that `joined` gave."""
    return f"{first_json[:-1]},{second_json[1:]}"


def is_well_formed(logprobs_json: str) -> bool:
    """Return whether the text has the form that `joined` gives, to the byte: it is JSON, and one line."""
    return _FORM.fullmatch(logprobs_json) is not None


def parse(logprobs_json: str) -> list[ChosenToken]:
    """Return the tokens of a well-formed text."""
    tokens: Any = json.loads(logprobs_json)
    return list(tokens)
