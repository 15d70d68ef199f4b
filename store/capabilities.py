"""What a model can be asked for, read off its tokenizer's files alone: nothing is loaded for a list.

The signs are those by which the program that runs the model tells it, so that lists promise what the worker keeps.
"""

import json
from collections.abc import Mapping
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
    ("<tool_call>", "tool_call.name"),
)
# Tokens that open and close a model's thinking, and those that mark where words are missing.
_THINK_TOKENS: Final = (
    ("<think>", "</think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<|think:start|>", "<|think:end|>"),
    ("<|channel>", "<channel|>"),
)
_INSERT_TOKENS: Final = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<|fim_begin|>", "<|fim_hole|>", "<|fim_end|>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ("<PRE>", "<SUF>", "<MID>"),
    ("[PREFIX]", "[SUFFIX]", "[MIDDLE]"),
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
    if any(all(word in template for word in sign) for sign in _TOOL_SIGNS):
        found.append(TOOLS)
    thinks = (start for start, end in _THINK_TOKENS if _has_tokens(files, start, end))
    if any("enable_thinking" in template or start in template for start in thinks):
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


def _has_tokens(files: Mapping[str, bytes], *tokens: str) -> bool:
    """Return whether each of `tokens` stands in a vocabulary, spelled as JSON does it with and without escapes."""
    spelled = [{json.dumps(token).encode(), json.dumps(token, ensure_ascii=False).encode()} for token in tokens]
    vocabularies = [files[name] for name in _VOCABULARIES if name in files]
    return all(any(word in data for word in words for data in vocabularies) for words in spelled)
