"""The next token: penalties, then greedy or a draw among the likely ones, with a random key of the request's own.

The global random state of MLX is never touched, so the same seed gives the same tokens whatever else runs.
Order, as in Ollama: penalties, top_k, temperature, top_p, min_p.
"""

from collections.abc import Sequence

import mlx.core as mx

from protocol.worker.messages import Sampling


class Sampler:
    """Chooses tokens for one request; called once per step, in order."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int], vocabulary: int) -> None:
        """Take the request's wishes, its prompt tokens (for `repeat_penalty`) and the size of the vocabulary."""
        self._sampling = sampling
        self._key = mx.random.key(sampling.seed)
        window = len(prompt) if sampling.repeat_last_n < 0 else sampling.repeat_last_n
        self._window = sampling.repeat_last_n
        self._recent = mx.array(list(prompt)[-window:] if window else [], dtype=mx.uint32)
        self._counts = mx.zeros((vocabulary,), dtype=mx.float32)

    def __call__(self, logits: mx.array) -> mx.array:
        """Return the chosen token as an array of shape (1,), from logits of shape (1, vocabulary); not evaluated."""
        logits = self._penalise(logits)
        if self._sampling.temperature == 0:
            # Over log-probabilities in the model's own type, exactly as mlx-lm does: ties must break the same way.
            token = mx.argmax(logits - mx.logsumexp(logits, keepdims=True), axis=-1)
        else:
            token = self._draw(logits.astype(mx.float32))
        self._remember(token)
        return token

    def _penalise(self, logits: mx.array) -> mx.array:
        wish = self._sampling
        if wish.repeat_penalty != 1.0 and self._recent.size:
            seen = logits[:, self._recent]
            seen = mx.where(seen < 0, seen * wish.repeat_penalty, seen / wish.repeat_penalty)
            logits[:, self._recent] = seen
        if wish.presence_penalty or wish.frequency_penalty:
            counts = self._counts.astype(logits.dtype)
            logits = logits - wish.frequency_penalty * counts - wish.presence_penalty * (counts > 0)
        return logits

    def _draw(self, logits: mx.array) -> mx.array:
        wish = self._sampling
        logits, tokens = _likeliest(logits, wish.top_k)
        scaled = logits / wish.temperature
        if wish.top_p < 1.0 or wish.min_p > 0.0:
            order = mx.argsort(-scaled, axis=-1)
            scaled = mx.take_along_axis(scaled, order, axis=-1)
            tokens = order if tokens is None else mx.take_along_axis(tokens, order, axis=-1)
            chances = mx.softmax(scaled, axis=-1)
            before = mx.cumsum(chances, axis=-1) - chances
            # What lies before the likeliest is 0, so one token is always kept even with top_p 0.
            keep = (before <= 0) | (before < wish.top_p)
            keep = keep & (chances >= wish.min_p * chances[:, :1])
            scaled = mx.where(keep, scaled, -mx.inf)
        self._key, draw = mx.random.split(self._key)
        index = mx.random.categorical(scaled, axis=-1, key=draw)
        return index if tokens is None else mx.take_along_axis(tokens, index[:, None], axis=-1)[:, 0]

    def _remember(self, token: mx.array) -> None:
        wish = self._sampling
        if wish.repeat_penalty != 1.0 and self._window != 0:
            recent = mx.concatenate([self._recent, token.astype(mx.uint32)])
            self._recent = recent if self._window < 0 else recent[-self._window :]
        if wish.presence_penalty or wish.frequency_penalty:
            self._counts = self._counts.at[token].add(1.0)


def _likeliest(logits: mx.array, top_k: int) -> tuple[mx.array, mx.array | None]:
    if not 0 < top_k < logits.shape[-1]:
        return logits, None
    tokens = mx.argpartition(-logits, kth=top_k - 1, axis=-1)[:, :top_k]
    return mx.take_along_axis(logits, tokens, axis=-1), tokens
