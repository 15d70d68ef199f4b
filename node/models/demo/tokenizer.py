"""The demo model's tokenizer: 2,048 byte-level BPE tokens, single digits, one token for each mark of the template.

Training is deterministic: one corpus gives one tokenizer on every machine. It does not give the shipped file again:
that one was learned before the corpus or its library reached their present state (1,986 of 2,040 learned tokens exist
in both, 627 under the same number), and it was kept through all later stages because the weights depend on it. So a
later stage of training starts from the shipped files, and only a model trained from nothing gets a new tokenizer.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from node.models.demo import demo_directory
from node.models.demo.conversation import seeded
from node.models.demo.families import draw_conversation
from node.models.demo.rendering import Span, render

VOCABULARY_SIZE = 2048
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Numbers 0, 1 and 2; they never appear in decoded text."""
MARKERS = (
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<tools>",
    "</tools>",
)
"""The last eight numbers; ordinary text, so that a program can parse them out of an answer."""


def chat_template() -> str:
    """The Jinja source by which messages and tools become the text that the model reads."""
    return files("node.models.demo").joinpath("template.jinja").read_text(encoding="utf-8").rstrip("\n")


def corpus_texts(conversations: int, seed: int) -> Iterator[str]:
    """The rendered text of that many conversations."""
    source = seeded(seed)
    for _ in range(conversations):
        yield "".join(span.text for span in render(draw_conversation(source)))


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A tokenizer learned from the texts; marks and special tokens are cut out first, so that no merge crosses them."""
    marks = re.compile("|".join(re.escape(mark) for mark in (*SPECIAL_TOKENS, *MARKERS)))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(MARKERS),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((piece for text in texts for piece in marks.split(text)), trainer)
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in MARKERS])
    return tokenizer


def encode(tokenizer: Tokenizer, spans: Sequence[Span]) -> tuple[list[int], list[bool]]:
    """Token numbers of the whole text, and for each whether the model is trained to write it."""
    tokens: list[int] = []
    trained: list[bool] = []
    for span in spans:
        ids = tokenizer.encode(span.text, add_special_tokens=False).ids
        tokens += ids
        trained += [span.trained] * len(ids)
    return tokens, trained


def write_description(directory: Path, tokenizer: Tokenizer) -> None:
    """Write every file of a model but its weights: tokenizer and its configuration, shape, generation defaults.

    The shape and the defaults are the shipped ones; they do not depend on the corpus.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(_tokenizer_config(), indent=1), encoding="utf-8")
    for name in ("config.json", "generation_config.json"):
        (directory / name).write_bytes((demo_directory() / name).read_bytes())


def _tokenizer_config() -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 2048,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "additional_special_tokens": ["<|im_start|>"],
        "chat_template": chat_template(),
    }
