"""Texts as a model of embeddings reads them: token ids, with the marks that its family puts around a text."""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tokenizers import BertWordPieceTokenizer, Tokenizer

from node.models.engine.config_file import one_line
from node.models.engine.sentences import Sentences
from node.models.errors import InputTooLong, ModelRefused

Tokens = npt.NDArray[np.int32]
MAX_TOKENIZER_BYTES: Final = 256 << 20
# A text of so many characters for each token that the model reads is looked at in pieces: what a library makes of
# 10 MB at once takes a gigabyte.
PIECE_CHARS: Final = 16
SMALLEST_PIECE_CHARS: Final = 1 << 16
# What is longer than this, and still has few tokens, is no text: ten million letters without a space.
MOST_CHARS: Final = 1 << 20
MOST_CHARS_OF_TOKEN: Final = 64


class TextTokens:
    """Makes token ids of texts, at most `max_tokens` of each."""

    def __init__(self, tokenizer: Any, max_tokens: int, lower_case: bool = False, prefix: str = "") -> None:
        # Files carry the padding and the limits of whoever wrote them.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._lower_case = lower_case
        self._prefix = prefix

    @classmethod
    def load(cls, directory: Path, sentences: Sentences, max_tokens: int) -> "TextTokens":
        """Return the tokenizer of the model in `directory`: `tokenizer.json`, else WordPiece from `vocab.txt`.

        Raises:
            ModelRefused: there is none, or it cannot be read.
        """
        path, words = directory / "tokenizer.json", directory / "vocab.txt"
        try:
            if path.is_file():
                _require_small(path)
                tokenizer: Any = Tokenizer.from_file(str(path))
            elif words.is_file():
                _require_small(words)
                tokenizer = _word_pieces(words, directory / "tokenizer_config.json")
            else:
                raise ModelRefused("it has no tokenizer.json")
        except ModelRefused:
            raise
        except Exception as error:  # the library raises bare exceptions for files that it cannot read
            raise ModelRefused(f"tokenizer: {one_line(error)}") from error
        return cls(tokenizer, max_tokens, sentences.lower_case, sentences.prefix)

    def encode(self, number: int, text: str, truncate: bool) -> Tokens:
        """Return the token ids of input `number`, cut to what the model reads where `truncate` allows that.

        Raises:
            InputTooLong: it has more, and may not be cut.
        """
        text = self._prefix + (text.lower() if self._lower_case else text)
        text, left = self._beginning(text)
        if left and not truncate:
            raise InputTooLong(f"input {number} has {left}", self.max_tokens)
        if not truncate:
            found = self._tokenizer.encode(text).ids
            if len(found) > self.max_tokens:
                raise InputTooLong(f"input {number} has {len(found)} tokens", self.max_tokens)
            return np.array(found, dtype=np.int32)
        self._tokenizer.enable_truncation(max_length=self.max_tokens)
        try:
            return np.array(self._tokenizer.encode(text).ids, dtype=np.int32)
        finally:
            self._tokenizer.no_truncation()

    def _beginning(self, text: str) -> tuple[str, str]:
        """Return as much of `text` as can matter, and how much it is if that is not all of it.

        Twice as many tokens as are read: where the text was cut off cannot change the first half of them.
        """
        most = max(MOST_CHARS, MOST_CHARS_OF_TOKEN * self.max_tokens)
        chars = max(SMALLEST_PIECE_CHARS, PIECE_CHARS * self.max_tokens)
        while len(text) > chars:
            if len(self._tokenizer.encode(text[:chars], add_special_tokens=False).ids) > 2 * self.max_tokens:
                return text[:chars], f"more than {2 * self.max_tokens} tokens"
            if chars >= most:
                return text[:chars], f"{len(text)} characters"
            chars = min(4 * chars, most)
        return text, ""


def _require_small(path: Path) -> None:
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise ModelRefused(f"{path.name} has more than {MAX_TOKENIZER_BYTES} bytes")


def _word_pieces(vocabulary: Path, config_path: Path) -> Any:
    config = json.loads(config_path.read_text(encoding="utf-8")) if config_path.is_file() else {}
    if not isinstance(config, dict):
        raise ModelRefused(f"{config_path.name}: expected a JSON object")
    return BertWordPieceTokenizer(
        str(vocabulary),
        lowercase=config.get("do_lower_case") is not False,
        handle_chinese_chars=config.get("tokenize_chinese_chars") is not False,
        strip_accents=config.get("strip_accents"),
    )
