"""The files by which a model of sentence embeddings says how its words become one vector, and which models those are.

They are those of the sentence-transformers library: `modules.json` lists the steps, the folder of each step has its
config. The step that reads the words lies in the model's own directory, and normalising has no config.
"""

import re
from collections.abc import Iterable
from typing import Final

MODULES: Final = "modules.json"
ENCODERS: Final = frozenset(
    {"bert", "camembert", "distilbert", "modernbert", "mpnet", "nomic_bert", "roberta", "xlm-roberta"}
)
"""Families that read a text in both directions: they embed and never write."""

SENTENCE_CONFIGS: Final = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_xlm-roberta_config.json",
)
"""Where the longest input is said; the library looks for them in this order."""
EMBEDDING_FILES: Final = frozenset({MODULES, *SENTENCE_CONFIGS, "config_sentence_transformers.json"})
_STEP_CONFIG: Final = re.compile(r"[0-9]_[A-Z][A-Za-z]{2,31}/config\.json", re.ASCII)


def is_embedding_file(path: str) -> bool:
    """Return whether the file of a model at `path` is one of those."""
    return path in EMBEDDING_FILES or is_step_config(path)


def is_step_config(path: str) -> bool:
    """Return whether `path` is spelled like the config of a step: `1_Pooling/config.json`."""
    return _STEP_CONFIG.fullmatch(path) is not None


def embeds(family: str, files: Iterable[str]) -> bool:
    """Return whether a model of `family` with these files is one that embeds, and does not write."""
    return family in ENCODERS or MODULES in files
