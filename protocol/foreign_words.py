"""Words that stand in other programs' Modelfiles and have no meaning here: what they do there, for the error."""

from collections.abc import Mapping
from typing import Final

_LOADING: Final = "it tunes how another program loads a model and would change nothing here: take the line out"
_SAMPLING: Final = "it would change the answers and is not supported here: take the line out, or use top_p and min_p"

FOREIGN_PARAMETERS: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            *("numa", "num_batch", "num_gpu", "main_gpu", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mmap"),
            *("use_mlock", "embedding_only", "num_thread", "num_keep", "penalize_newline", "num_gqa"),
            *("rope_frequency_base", "rope_frequency_scale", "draft_num_predict"),
        ),
        _LOADING,
    ),
    **dict.fromkeys(
        (*("mirostat", "mirostat_tau", "mirostat_eta", "tfs_z", "typical_p"),),
        _SAMPLING,
    ),
    "presence_penalty": "a Modelfile cannot set it here: use repeat_penalty, or set it with each request",
    "frequency_penalty": "a Modelfile cannot set it here: use repeat_penalty, or set it with each request",
}
FOREIGN_INSTRUCTIONS: Final[Mapping[str, str]] = {
    "PARSER": "another program's reading of answers; here the model's own tokenizer config decides: take the line out",
    "RENDERER": "another program's prompt code; here the model's own template is used: take the line out",
    "REQUIRES": "the version of another program: take the line out",
    "EMBED": "it was taken out of every program that knew it: take the line out",
}
