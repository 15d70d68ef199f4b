"""From what is asked to what a worker is told: a request with its model's words, examples, parameters."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from node.models.errors import CapabilityMissing, RequestTooLarge
from node.models.library import ServedModel
from node.models.options import Wishes
from node.models.requests import GenerateRequest
from protocol.worker.messages import MAX_TEXT_BYTES, MAX_TOKENS, NO_LOGPROBS, Generate, Ready, Sampling

Words = tuple[str | None, Sequence[Mapping[str, Any]] | None]


def question_of(
    request: GenerateRequest, model: ServedModel, wishes: Wishes, ready: Ready, *, number: int, seed: int
) -> Generate:
    """Return what the worker is asked; `seed` is used where the request named none.

    Raises:
        CapabilityMissing: the model cannot do what is asked.
        RequestTooLarge: it is more than a worker takes.
    """
    prompt, messages = _words(request, model, ready)
    _require_capabilities(request, ready)
    bias = tuple(sorted(request.logit_bias.items()))
    question = Generate(
        request=number,
        prompt=prompt,
        messages_json=None if messages is None else json.dumps(messages, ensure_ascii=False),
        tools_json=json.dumps(list(request.tools), ensure_ascii=False),
        template=request.template or model.modelfile.template,
        thinking=bool(request.thinking) and ready.can_think,
        context=tuple(request.context),
        num_ctx=wishes.num_ctx,
        num_predict=wishes.num_predict,
        stop=wishes.stop,
        sampling=_sampling(wishes, seed, bias),
        adapter=model.adapter,
        format_json=None if request.format is None else json.dumps(request.format, ensure_ascii=False),
        tool_choice=request.tool_choice,
        parallel_tool_calls=request.parallel_tool_calls,
        top_logprobs=NO_LOGPROBS if request.top_logprobs is None else request.top_logprobs,
        effort=request.effort,
        suffix=request.suffix,
    )
    _require_bounded(question)
    return question


def _require_bounded(question: Generate) -> None:
    # A worker that is sent more ends, and with it everybody's answers.
    texts = (question.prompt, question.suffix, question.template, question.messages_json, question.tools_json)
    size = sum(len(text.encode()) for text in (*texts, question.format_json) if text)
    if size > MAX_TEXT_BYTES or len(question.context) > MAX_TOKENS:
        raise RequestTooLarge(MAX_TEXT_BYTES, MAX_TOKENS)


def _require_capabilities(request: GenerateRequest, ready: Ready) -> None:
    if not ready.can_generate:
        raise CapabilityMissing(f'"{request.model}"', "generate")
    if request.thinking and not ready.can_think and not request.thinking_if_able:
        raise CapabilityMissing(f'"{request.model}"', "thinking")
    if request.tools and not ready.can_use_tools:
        raise CapabilityMissing(f'"{request.model}"', "tools")
    if request.suffix is not None and not ready.can_insert:
        raise CapabilityMissing(f'"{request.model}"', "insert")


def _sampling(wishes: Wishes, seed: int, bias: tuple[tuple[int, float], ...]) -> Sampling:
    return replace(wishes.sampling, seed=seed if wishes.seed is None else wishes.seed, logit_bias=bias)


def _words(request: GenerateRequest, model: ServedModel, ready: Ready) -> Words:
    """Return the prompt text, or the messages for the template, with the Modelfile's SYSTEM and MESSAGEs applied."""
    modelfile = model.modelfile
    system = request.system or modelfile.system
    examples = [{"role": role, "content": content} for role, content in modelfile.messages]
    has_template = ready.has_template or bool(request.template or modelfile.template)
    if request.messages is not None:
        if not has_template:
            raise CapabilityMissing(f'"{request.model}"', "chat")
        opens_with_system = bool(request.messages) and request.messages[0].get("role") == "system"
        # The system's words stay first: templates take them from there only.
        own = [request.messages[0]] if opens_with_system else []
        first = [{"role": "system", "content": system}] if system and not opens_with_system else own
        return None, [*first, *examples, *request.messages[len(own) :]]
    prompt = request.prompt or ""
    if request.raw or request.suffix is not None:
        return prompt, None
    if not has_template:
        return f"{system}\n\n{prompt}" if system else prompt, None
    first = [{"role": "system", "content": system}] if system else []
    return None, [*first, *([] if request.context else examples), {"role": "user", "content": prompt}]
