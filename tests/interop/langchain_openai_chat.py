"""LangChain's own suite for chat models, run in a process of its own: `pytest langchain_openai_chat.py`.

`TILENODE_API` is the address of the node. ChatOpenAI asks chat completions, and again responses. Where the suite asks
what the demo model was never taught, its test is expected to fail, and one that asks what it was taught stands beside.
"""

import os
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from pydantic import BaseModel, SecretStr

API = os.environ["TILENODE_API"]
SHARED: dict[str, Any] = {"model": "demo", "base_url": f"{API}/v1", "api_key": SecretStr("none")}
# The demo model rambles where it must make up a text; this brings it to an end.
TERSE: dict[str, Any] = {"frequency_penalty": 2.0}
untaught = pytest.mark.xfail(reason="the demo model copies no made-up names and numbers into arguments", strict=True)


@tool
def get_weather(city: str) -> str:
    """Tell the weather in a city."""
    return '{"temperature": 21, "sky": "sunny"}'


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


class _Chat(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {"temperature": 0, "max_tokens": 1500}

    @property
    def has_tool_choice(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "demo:latest"

    def test_an_answer(self, model: BaseChatModel) -> None:
        assert model.invoke("What is 7 + 5?").text == "7 + 5 = 12."
        assert "".join(chunk.text for chunk in model.stream("What is 7 + 5?")) == "7 + 5 = 12."

    def test_a_round_with_a_tool(self, model: BaseChatModel) -> None:
        knowing = model.bind_tools([get_weather])
        question = HumanMessage("What is the weather in Paris?")
        asked = knowing.invoke([question])
        assert isinstance(asked, AIMessage)
        (call,) = asked.tool_calls
        assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})
        result = get_weather.invoke(call)
        assert isinstance(result, ToolMessage)
        assert knowing.invoke([question, asked, result]).text == "It is 21 degrees and sunny in Paris."

    def test_a_form(self, model: BaseChatModel) -> None:
        told = model.with_structured_output(Person).invoke("Give me JSON with name Ann and age 30.")
        assert told == Person(name="Ann", age=30)

    test_tool_calling = untaught(ChatModelIntegrationTests.test_tool_calling)
    test_tool_calling_async = untaught(ChatModelIntegrationTests.test_tool_calling_async)
    test_agent_loop = untaught(ChatModelIntegrationTests.test_agent_loop)
    test_unicode_tool_call_integration = untaught(ChatModelIntegrationTests.test_unicode_tool_call_integration)


class TestChatCompletions(_Chat):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**SHARED, **TERSE, "stream_usage": True}


class TestResponses(_Chat):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**SHARED, "use_responses_api": True, "extra_body": TERSE}
