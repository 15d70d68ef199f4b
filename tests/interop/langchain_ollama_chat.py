"""LangChain's own suite for chat models, run in a process of its own: `pytest langchain_ollama_chat.py`.

`TILENODE_API` is the address of the node.
"""

import os
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_ollama import ChatOllama
from langchain_tests.integration_tests import ChatModelIntegrationTests

API = os.environ["TILENODE_API"]
# Ollama's API has no tool choice, so its client sends none: what ChatOpenAI demands is tested through that one.
OWN_CHOICE = pytest.mark.xfail(reason="the tiny demo model calls the tools that it was trained with, by its own choice")
OWN_KEYS = pytest.mark.xfail(reason="the tiny demo model writes JSON with the keys that it was trained with")


class TestChatOllama(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOllama

    @property
    def chat_model_params(self) -> dict[str, Any]:
        # The penalty lets the tiny model find the end of a text that a schema asks it for.
        wishes = {"temperature": 0, "repeat_penalty": 2.0, "repeat_last_n": -1, "num_predict": 900}
        return {"model": "demo", "base_url": API, **wishes}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def has_tool_choice(self) -> bool:
        return False

    @OWN_CHOICE
    def test_tool_calling(self, model: BaseChatModel) -> None:
        super().test_tool_calling(model)

    @OWN_CHOICE
    async def test_tool_calling_async(self, model: BaseChatModel) -> None:
        await super().test_tool_calling_async(model)

    @OWN_CHOICE
    def test_bind_runnables_as_tools(self, model: BaseChatModel) -> None:
        super().test_bind_runnables_as_tools(model)

    @OWN_CHOICE
    def test_tool_calling_with_no_arguments(self, model: BaseChatModel) -> None:
        super().test_tool_calling_with_no_arguments(model)

    @OWN_CHOICE
    def test_unicode_tool_call_integration(
        self,
        model: BaseChatModel,
        *,
        tool_choice: str | None = None,  # noqa: PT028 - the suite's own signature
        force_tool_call: bool = True,  # noqa: PT028 - as above
    ) -> None:
        super().test_unicode_tool_call_integration(model, tool_choice=tool_choice, force_tool_call=force_tool_call)

    @OWN_KEYS
    def test_json_mode(self, model: BaseChatModel) -> None:
        super().test_json_mode(model)
