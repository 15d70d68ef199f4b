"""Walks through a constraint: answers of a model that says anything it is allowed to, in any order."""

from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from node.models.blas import preload_blas
from node.models.demo import demo_directory
from protocol.worker.messages import Generate, Sampling

if TYPE_CHECKING:
    from node.models.engine.forms import Called, Form, Said

# Texts that close what is open: taken often, so that walks come to an end.
_CLOSING = ('"', "}", "]", ")", ">", "<", "\n", ",")


def load_tokenizer(directory: Path | None = None) -> Any:
    """Give mlx-lm's tokenizer of a model directory, by default the demo model's."""
    preload_blas()
    from mlx_lm import utils

    # mlx-lm publishes no types for it.
    untyped: Any = utils
    return untyped.load_tokenizer(directory or demo_directory(), {"trust_remote_code": False})


def request(**changes: Any) -> Generate:
    """Give a request for a chat, with `changes`."""
    usual: dict[str, Any] = {
        "request": 1,
        "prompt": None,
        "messages_json": "[]",
        "tools_json": "[]",
        "template": None,
        "thinking": False,
        "context": (),
        "num_ctx": 2048,
        "num_predict": -1,
        "stop": (),
        "sampling": Sampling(),
    }
    return Generate(**{**usual, **changes})


class Walker:
    """Says what a constraint allows, by chance; `endings` are texts that close what is open."""

    def __init__(self, tokenizer: Any, seed: int, endings: tuple[str, ...] = ()) -> None:
        self._tokenizer = tokenizer
        self._random = Random(seed)
        self._endings = [tokenizer.encode(text, add_special_tokens=False) for text in endings]
        self._planned: list[int] = []
        self._ends = set(tokenizer.eos_token_ids)
        self._closing = np.array(
            sorted({int(token) for text in _CLOSING for token in tokenizer.encode(text, add_special_tokens=False)})
        )

    def walk(self, form: "Form", most: int = 400) -> "tuple[bool, list[Said | Called]]":
        """Give whether the answer came to its end, and what it means."""
        detokenizer = self._tokenizer.detokenizer
        meaning: list[Said | Called] = []
        for _ in range(most):
            constraint = form.constraint
            assert constraint is not None
            if constraint.ended or form.ended:
                break
            token = self._choose(constraint.mask())
            if token in self._ends:
                break
            constraint.accept(token)
            detokenizer.add_token(token)
            meaning += form.feed(detokenizer.last_segment)
        else:
            return False, meaning
        detokenizer.finalize()
        return True, [*meaning, *form.feed(detokenizer.last_segment), *form.finish()]

    def _choose(self, mask: "np.ndarray[Any, np.dtype[np.bool_]] | None") -> int:
        assert mask is not None
        allowed = np.nonzero(mask)[0]
        assert len(allowed), "nothing may follow"
        if not self._planned and self._endings and self._random.random() < 0.2:
            self._planned = list(self._random.choice(self._endings))
        if self._planned and mask[self._planned[0]]:
            return self._planned.pop(0)
        self._planned = []
        closing = np.intersect1d(allowed, self._closing)
        if len(closing) and self._random.random() < 0.4:
            allowed = closing
        return int(self._random.choice(list(allowed)))


def said(meaning: "list[Said | Called]", *, thinking: bool = False) -> str:
    """Give the words of an answer, or of its thinking."""
    from node.models.engine.forms import Said

    return "".join(piece.text for piece in meaning if isinstance(piece, Said) and piece.thinking == thinking)


def called(meaning: "list[Said | Called]") -> "list[Called]":
    """Give the calls of an answer."""
    from node.models.engine.forms import Called

    return [piece for piece in meaning if isinstance(piece, Called)]
