"""What a model can be asked for, read off its tokenizer's files alone: nothing is loaded for a list.

The signs are those by which the program that runs the model tells it, so that lists promise what the worker keeps.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from protocol.manifest import Manifest
from store.blobs import Blobs
from store.embedding_files import embeds
from store.errors import BlobMissing, LayerCorrupt

COMPLETION: Final = "completion"
EMBEDDING: Final = "embedding"
TOOLS: Final = "tools"
THINKING: Final = "thinking"
INSERT: Final = "insert"
MAX_TOKENIZER_BYTES: Final = 128 << 20

_TEMPLATE: Final = "chat_template.jinja"
_CONFIG: Final = "tokenizer_config.json"
CONFIG_FILES: Final = (_TEMPLATE, _CONFIG)
_VOCABULARIES: Final = ("tokenizer.json", _CONFIG, "added_tokens.json", "special_tokens_map.json", "vocab.json")
# What stands in the chat template of a model family that calls tools: all words of a line must.
_TOOL_SIGNS: Final = (
    ("<minimax:tool_call>",),
    ("<|tool_call>", "<tool_call|>"),
    ("<start_function_call>",),
    ("<longcat_tool_call>",),
    ("<arg_key>",),
    ("<|tool_list_start|>",),
    ("<|tool_call_start|>",),
    ("<tool_call>\\n<function=",),
    ("<tool_call>\n<function=",),
    ("<|tool_calls_section_begin|>",),
    ('<function name="', '<param name="'),
    ("[TOOL_CALLS]",),
    ("<atem:function_calls>",),
    ("<tool_call>", "tool_call.name"),
)
# Or these are all among its tokens.
_TOOL_TOKENS: Final = (
    ("<|tool_call_start|>", "<|tool_call_end|>"),
    ("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"),
    ("<|channel|>", "<|message|>", "<|start|>", "<|return|>"),
)
# What opens and closes a model's thinking: among its tokens, or in its template.
_THINK_SIGNS: Final = (
    ("<think>", "</think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<|think:start|>", "<|think:end|>"),
    ("<|channel>", "<channel|>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"),
    ("<|channel|>", "<|message|>", "<|start|>", "<|return|>"),
)
# Of a model that can be told to think, the template knows the mark itself or has a switch.
_THINK_SWITCHES: Final = ("thinking", "reasoning_effort")
# Tokens that mark where words are missing.
_INSERT_TOKENS: Final = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ("<PRE>", "<SUF>", "<MID>"),
    ("[PREFIX]", "[SUFFIX]"),
)


def read_capabilities(blobs: Blobs, manifest: Manifest, family: str) -> tuple[str, ...]:
    """Return what a stored model can be asked for, in the words of Ollama's API; damaged files promise nothing."""
    if embeds(family, (layer.filepath for layer in manifest.layers)):
        return (EMBEDDING,)
    files = {}
    for name in {_TEMPLATE, *_VOCABULARIES}:
        layer = manifest.layer(name)
        if layer is not None and layer.size <= MAX_TOKENIZER_BYTES:
            with suppress(BlobMissing, LayerCorrupt):
                files[name] = blobs.read(layer.digest, MAX_TOKENIZER_BYTES)
    return capabilities(files)


def capabilities(files: Mapping[str, bytes]) -> tuple[str, ...]:
    """Return what a model that writes can be asked for; `files` are those of its tokenizer, by name."""
    template = own_template(files)
    found = [COMPLETION]
    if any(_stand_in(template, sign) for sign in _TOOL_SIGNS) or any(_has_tokens(files, *t) for t in _TOOL_TOKENS):
        found.append(TOOLS)
    marks = [sign for sign in _THINK_SIGNS if _has_tokens(files, *sign) or _stand_in(template, sign[:2])]
    if any(word in template for word in (*_THINK_SWITCHES, *(sign[0] for sign in marks))) and marks:
        found.append(THINKING)
    if any(_has_tokens(files, *tokens) for tokens in _INSERT_TOKENS):
        found.append(INSERT)
    return tuple(found)


def own_template(files: Mapping[str, bytes]) -> str:
    """Return the chat template among the tokenizer's files, empty where there is none."""
    if _TEMPLATE in files:
        return files[_TEMPLATE].decode(errors="replace")
    try:
        config = json.loads(files.get(_CONFIG, b"{}"))
    except (ValueError, RecursionError):
        return ""
    template = config.get("chat_template") if isinstance(config, dict) else None
    if isinstance(template, list):  # several by name; the one called default is used
        named = {str(each.get("name")): each.get("template") for each in template if isinstance(each, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else ""


def _stand_in(template: str, words: Sequence[str]) -> bool:
    return all(word in template for word in words)


def _has_tokens(files: Mapping[str, bytes], *tokens: str) -> bool:
    """Return whether each of `tokens` stands in a vocabulary, spelled as JSON does it with and without escapes."""
    spelled = [{json.dumps(token).encode(), json.dumps(token, ensure_ascii=False).encode()} for token in tokens]
    vocabularies = [files[name] for name in _VOCABULARIES if name in files]
    return all(any(word in data for word in words for data in vocabularies) for words in spelled)
