"""A loaded model of embeddings: token ids of some texts in, one vector of length 1 for each out."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import psutil

from node.models.engine.config_file import context_tokens, one_line, read_config
from node.models.engine.encoder import Encoder
from node.models.engine.encoder_shape import FAMILIES
from node.models.engine.engine import load_trunk
from node.models.engine.pooling import DecoderReader, EncoderReader, Reader, unit_vectors
from node.models.engine.rotary_encoder import RotaryEncoder
from node.models.engine.rotary_shape import ROTARY_FAMILIES
from node.models.engine.sentences import Sentences, read_sentences
from node.models.engine.text_tokens import TextTokens
from node.models.errors import InputInvalid, InputTooLong, ModelRefused
from protocol.worker.messages import MAX_DIMENSIONS

Tokens = npt.NDArray[np.int32]
# Of the memory that is free, what the keys and values of one long text may take.
CONTEXT_SHARE: Final = 0.5


class Embedder:
    """A model of embeddings; every call must come from the thread that loaded it."""

    def __init__(
        self,
        reader: Reader,
        texts: TextTokens,
        sentences: Sentences,
        *,
        architecture: str,
        vocabulary: int,
        dimensions: int,
        token_bytes: int = 0,
        memory_bytes: int = 0,
    ) -> None:
        self._reader = reader
        self._texts = texts
        self._sentences = sentences
        self._vocabulary = vocabulary
        self._token_bytes = token_bytes
        self._memory_bytes = memory_bytes
        self.architecture = architecture
        self.dimensions = dimensions
        self.max_tokens = texts.max_tokens
        self.notes = sentences.notes

    @classmethod
    def load(cls, directory: Path, memory_bytes: int = 0) -> "Embedder":
        """Return the model in `directory`, every tensor checked against what its architecture needs.

        What one long text takes beside the weights is bounded by `memory_bytes`; 0 leaves that to what is free.

        Raises:
            ModelRefused: unknown architecture, missing or extra tensors, damaged files, steps that are not known.
        """
        config = read_config(directory)
        model_type = str(config["model_type"])
        sentences = read_sentences(directory)
        try:
            if model_type in FAMILIES or model_type in ROTARY_FAMILIES:
                return _load_encoder(directory, model_type, config, sentences)
            return _load_decoder(directory, model_type, sentences, memory_bytes)
        except ModelRefused:
            raise
        except Exception as error:  # damaged files can make MLX raise anything; the load is refused
            raise ModelRefused(one_line(error)) from error

    @property
    def memory_bytes(self) -> int:
        """Bytes that MLX holds now."""
        return int(mx.get_active_memory())

    @property
    def batch_tokens(self) -> int:
        """How many tokens are read at once at most, filling included; one longer row goes alone."""
        return self._reader.batch_tokens

    def encode(self, number: int, given: object, truncate: bool) -> Tokens:
        """Return the token ids of input `number`, a text or a list of token ids.

        Raises:
            InputTooLong: it is longer than the model reads and may not be cut, or than there is memory for.
            InputInvalid: it is neither, has no tokens, or a token id that the model does not have.
        """
        if isinstance(given, str):
            found = self._texts.encode(number, given, truncate)
            if len(found) and (found.min() < 0 or found.max() >= self._vocabulary):
                raise ModelRefused("its tokenizer has tokens that the model has not")
        else:
            found = self._checked(number, given, truncate)
        if not len(found):
            raise InputInvalid(f"input {number} is empty")
        if self._token_bytes and len(found) > self._reader.batch_tokens:
            self._require_memory(number, len(found))
        return found

    def vectors(self, rows: Sequence[Tokens], pulse: Callable[[], None]) -> npt.NDArray[np.float32]:
        """Return one vector of length 1 for each of `rows`, read together; `pulse` may raise to stop the work.

        Raises:
            ModelRefused: the model computes values that are no numbers.
        """
        lengths = np.array([len(row) for row in rows], dtype=np.int32)
        tokens = np.zeros((len(rows), int(lengths.max())), dtype=np.int32)
        for number, row in enumerate(rows):
            tokens[number, : len(row)] = row
        found = unit_vectors(self._reader.read(tokens, lengths, self._sentences.pooling, pulse))
        mx.clear_cache()
        return found

    def _require_memory(self, number: int, count: int) -> None:
        room = self._memory_bytes or int(psutil.virtual_memory().available * CONTEXT_SHARE)
        if count * self._token_bytes > room:
            raise InputTooLong(f"input {number} has {count} tokens", room // self._token_bytes)

    def _checked(self, number: int, given: object, truncate: bool) -> Tokens:
        if not isinstance(given, list) or not all(type(token) is int for token in given):
            raise InputInvalid(f"input {number} is neither a text nor a list of token ids")
        if given and (min(given) < 0 or max(given) >= self._vocabulary):
            bad = next(token for token in given if not 0 <= token < self._vocabulary)
            raise InputInvalid(f"input {number} has the token id {bad}, the model has those below {self._vocabulary}")
        if len(given) > self.max_tokens and not truncate:
            raise InputTooLong(f"input {number} has {len(given)} tokens", self.max_tokens)
        return np.array(given[: self.max_tokens], dtype=np.int32)


def _load_encoder(directory: Path, model_type: str, config: Mapping[str, Any], sentences: Sentences) -> Embedder:
    rotary = model_type in ROTARY_FAMILIES
    encoder = (RotaryEncoder if rotary else Encoder).load(directory, model_type, config)
    shape = encoder.shape
    return Embedder(
        EncoderReader(encoder),
        TextTokens.load(directory, sentences, _window(sentences, shape.max_tokens)),
        sentences,
        architecture=model_type,
        vocabulary=shape.vocabulary,
        dimensions=_dimensions(shape.hidden),
    )


def _load_decoder(directory: Path, model_type: str, sentences: Sentences, memory_bytes: int) -> Embedder:
    trunk, config = load_trunk(directory)
    hidden, vocabulary = config.get("hidden_size"), config.get("vocab_size")
    if type(hidden) is not int or type(vocabulary) is not int:
        raise ModelRefused("config.json: hidden_size or vocab_size is missing")
    reader = DecoderReader(trunk)
    return Embedder(
        reader,
        TextTokens.load(directory, sentences, _window(sentences, context_tokens(config))),
        sentences,
        architecture=model_type,
        vocabulary=vocabulary,
        dimensions=_dimensions(hidden),
        token_bytes=reader.token_bytes(),
        memory_bytes=memory_bytes,
    )


def _window(sentences: Sentences, places: int) -> int:
    return min(places, sentences.max_tokens or places)


def _dimensions(hidden: int) -> int:
    if hidden > MAX_DIMENSIONS:
        raise ModelRefused(f"vectors of {hidden} dimensions, at most {MAX_DIMENSIONS} are known here")
    return hidden
