"""What HTTP, the node and the worker's process add to each token, beside the same engine called in its own process."""

import json
import subprocess
import time
from collections.abc import Iterator
from functools import partial

from node.models.process import MLX_SETTINGS
from tests.bench.chat_client import NO_END, ask_at_once, question, token_s
from tests.bench.run import CannotMeasure, Run, program
from tests.bench.serving import MODELS, PAUSE_S, Pair, api_address, middle, serve, story
from tests.bench.table import Row

LIMIT = 1.05
TURNS = 2
"""With each pair of processes, after one that loads the model."""
STREAMS = (1, 8)
PROCESSES = 6
"""Pairs of processes: where its memory happens to lie makes one faster than the other for as long as they live."""


def measure(run: Run) -> Iterator[Row]:
    """The same questions to a node and to the bare engine, for one stream and for eight.

    They take turns; now the one comes first and now the other, so that what the first leaves behind is not one side's.
    """
    for name, what, make in MODELS[: 1 if run.sizes.quick else None]:
        directory = run.scratch / f"overhead-{name}"
        make(directory)
        node = serve(run, name, directory)
        address, tokens = api_address(node), run.sizes.most_tokens
        run.progress(f"the engine alone and over HTTP: {what}")
        pairs: dict[int, list[Pair]] = {streams: [] for streams in STREAMS}
        for _ in range(1 if run.sizes.quick else PROCESSES):
            with program("tests.bench.engine_alone", str(directory), str(tokens), settings=MLX_SETTINGS) as alone:
                for streams, found in pairs.items():
                    texts = [story(place) for place in range(streams)]
                    # The first turn loads the model.
                    turns = range(1 + (1 if run.sizes.quick else TURNS))
                    found += [_turn(alone, address, name, texts, tokens, turn % 2 == 0) for turn in turns][1:]
            node.command("stop", name)
        for streams, found in pairs.items():
            yield _row(run, f"time of a token, {streams} {'stream' if streams == 1 else 'streams'}, {what}", found)


def _turn(
    alone: "subprocess.Popen[str]", address: str, model: str, texts: list[str], tokens: int, served_first: bool
) -> Pair:
    """Seconds of a token over HTTP, and of the engine alone, one after the other."""
    sides = {
        "served": partial(_over_http, address, model, texts, tokens),
        "bare": partial(_alone, alone, texts),
    }
    token_times_s: dict[str, float] = {}
    for side in sides if served_first else reversed(sides):
        time.sleep(PAUSE_S)
        token_times_s[side] = sides[side]()
    return token_times_s["served"], token_times_s["bare"]


def _row(run: Run, figure: str, pairs: list[Pair]) -> Row:
    served, bare = (1000 * seconds for seconds in middle(pairs))
    remark = f"the middle one of {len(pairs)} turns of {run.sizes.most_tokens} tokens, {PROCESSES} processes of each"
    limit = None if run.sizes.quick else LIMIT
    return Row(figure, served, "ms", "lower", "the engine in its process", bare, remark, limit)


def _over_http(address: str, model: str, texts: list[str], tokens: int) -> float:
    # What a client does with the words is its own cost, and the bare engine has none.
    answers = ask_at_once(address, [question(model, text, tokens, logit_bias=NO_END) for text in texts], asleep=True)
    return token_s([answer.timed for answer in answers])


def _alone(process: "subprocess.Popen[str]", texts: list[str]) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(texts) + "\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise CannotMeasure("the engine ended without an answer")
    return float(line)
