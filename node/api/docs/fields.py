"""What the fields of request bodies mean, by their names: the same word means the same in every API."""

from collections.abc import Mapping
from typing import Any, Final

_CHOICE: Final[dict[str, Any]] = {
    "anyOf": [{"enum": ["none", "auto", "required"]}, {"type": "object"}, {"type": "null"}]
}
_KEEP: Final[dict[str, Any]] = {
    "anyOf": [{"type": "number"}, {"type": "string", "examples": ["5m", "1h30m", "-1s"]}, {"type": "null"}]
}
_FORMAT: Final[dict[str, Any]] = {"anyOf": [{"enum": ["json", ""]}, {"type": "object"}, {"type": "null"}]}

MEANINGS: Final[Mapping[str, str]] = {
    "model": "the model's name, such as demo or demo:latest",
    "name": "what older clients send in place of model",
    "messages": "the conversation so far, the last line being the question",
    "prompt": "the text to go on from",
    "suffix": "what follows the words that are to be filled in; for models that know how",
    "system": "what the model is told before everything else",
    "template": "a chat template in Jinja, in place of the model's own",
    "raw": "give the prompt to the model as it stands, without any template",
    "context": "the token history that an earlier answer came with",
    "images": "refused: no model here sees",
    "stream": "whether the answer comes in pieces",
    "stream_options": "include_usage adds what was read and written, at the end of a stream",
    "options": "temperature, top_p, top_k, min_p, seed, num_predict, num_ctx, stop, repeat_penalty and others",
    "format": "json, or a JSON schema that the answer keeps to",
    "response_format": "what the answer keeps to: text, any JSON object, or a JSON schema",
    "keep_alive": "how long the model stays in memory: seconds, or a duration with a unit; negative for ever",
    "think": "whether the model thinks before it answers, for some models also how hard",
    "thinking": "whether the model thinks before it answers",
    "reasoning": "how hard the model thinks",
    "reasoning_effort": "how hard the model thinks",
    "logprobs": "tell the probability of each token of the answer",
    "top_logprobs": "how many likely tokens to tell beside each, 0 to 20",
    "truncate": "cut an input that is too long, where that has a meaning; a prompt that is too long is refused",
    "shift": "taken without effect: an answer ends where the context is full",
    "tools": "the functions that the model may call, each with a JSON schema of its arguments",
    "tool_choice": "none, auto, required, or one tool by name; enforced",
    "parallel_tool_calls": "whether one answer may call several tools; enforced",
    "from": "the model that it is made from",
    "files": "the files that it is made from: names, and digests of blobs that were sent",
    "adapters": "the files of a LoRA adapter: names, and digests of blobs that were sent",
    "draft": "a small model that guesses ahead",
    "license": "the licence, or several",
    "parameters": "options that every answer of the model begins with",
    "quantize": "int8, int4 or fp16",
    "quantization": "another name for quantize",
    "source": "the model that is copied",
    "destination": "the name of the copy",
    "input": "the text, or several",
    "dimensions": "how many numbers of each vector are wanted",
    "encoding_format": "float, or base64 of 32-bit floats",
    "max_tokens": "how many tokens the answer may have",
    "max_completion_tokens": "how many tokens the answer may have",
    "max_output_tokens": "how many tokens the answer may have",
    "temperature": "0 takes the likeliest token, more lets chance decide",
    "top_p": "draw among the likeliest tokens that make up this share",
    "top_k": "draw among so many of the likeliest tokens",
    "seed": "the same seed gives the same answer",
    "stop": "texts at which the answer ends",
    "stop_sequences": "texts at which the answer ends",
    "n": "how many answers",
    "logit_bias": "token ids, and what is added to their logits",
    "presence_penalty": "how much a token that was there already is held back",
    "frequency_penalty": "how much a token is held back for each time that it was there",
    "echo": "whether the prompt is told again before its continuation",
    "previous_response_id": "the response that this one follows on",
    "instructions": "what the model is told before everything else",
    "text": "how the answer is written: its format",
    "store": "whether later requests may follow on the response",
    "metadata": "words of the client's own, told again with the answer",
}
# Where the body says nothing because it is read by hand.
SHAPES: Final[Mapping[str, Mapping[str, Any]]] = {
    "keep_alive": _KEEP,
    "format": _FORMAT,
    "tool_choice": _CHOICE,
}


def explain(schema: dict[str, Any]) -> None:
    """Say in the schema of a request body what its fields mean, and of which shape those are that it leaves open."""
    for name, field in schema.get("properties", {}).items():
        if name in MEANINGS and "description" not in field:
            field["description"] = MEANINGS[name]
        if name in SHAPES and not field.keys() & {"type", "anyOf", "$ref", "enum", "const"}:
            field.update(SHAPES[name])
