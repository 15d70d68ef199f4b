"""A reference: the node's own engine in a process of its own, without a node, a worker's socket or HTTP around it.

    python -m tests.bench.engine_alone MODEL_DIRECTORY MOST_TOKENS

It is started with a worker's `MLX_SETTINGS` in its environment. Each line of input is a JSON list of user messages that
are answered together, greedily, as text; each is answered with one line, seconds per token of one stream
(`chat_client.token_s`).
"""

import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Sequence

from node.models.blas import preload_blas
from node.models.worker import SWITCH_S
from protocol.worker.messages import Done, Failed, FromWorker, Generate, Load, Sampling, Text
from tests.bench.chat_client import NO_END, Timed, token_s


class Heard:
    """What the engine said for one line."""

    def __init__(self, answers: int) -> None:
        self._answers = answers
        self.all_ended = threading.Event()
        self._pieces: dict[int, list[tuple[float, int]]] = defaultdict(list)
        self._ended: list[Timed] = []

    def take(self, messages: Sequence[FromWorker]) -> None:
        """Note the time of what is of interest."""
        now_s = time.perf_counter()
        for message in messages:
            match message:
                case Text(request=number):
                    self._pieces[number].append((now_s, len(message.text)))
                case Done(request=number):
                    self._ended.append(Timed(now_s, message.eval_tokens, self._pieces[number]))
                    if len(self._ended) == self._answers:
                        self.all_ended.set()
                case Failed():
                    raise RuntimeError(message.why)

    @property
    def token_s(self) -> float:
        """Seconds per token of one stream."""
        return token_s(self._ended)


def main(directory: str, most_tokens: int) -> None:
    """Answer line by line until the input ends."""
    preload_blas()
    sys.setswitchinterval(SWITCH_S)
    from node.models.engine.answer import open_answerer

    heard = Heard(0)
    answerer = open_answerer(Load(directory), lambda messages: heard.take(messages), time.monotonic_ns)
    for line in sys.stdin:
        texts = json.loads(line)
        heard = Heard(len(texts))
        for number, text in enumerate(texts):
            answerer.take(_question(number, text, most_tokens))
        while answerer.busy:
            answerer.step()
        heard.all_ended.wait()  # the last words are on their way
        sys.stdout.write(f"{heard.token_s}\n")
        sys.stdout.flush()


def _question(number: int, text: str, most_tokens: int) -> Generate:
    return Generate(
        request=number,
        prompt=None,
        messages_json=json.dumps([{"role": "user", "content": text}]),
        tools_json="[]",
        template=None,
        thinking=False,
        context=(),
        num_ctx=1 << 16,
        num_predict=most_tokens,
        stop=(),
        sampling=Sampling(temperature=0.0, logit_bias=tuple((int(token), bias) for token, bias in NO_END.items())),
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
