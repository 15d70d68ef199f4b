"""LangChain's own suite for embeddings, run in a process of its own: `pytest langchain_embeddings.py`.

`TILENODE_API` is the address of the node and `TILENODE_EMBEDDINGS` the name of the model.
"""

import os
from typing import Any

from langchain_core.embeddings import Embeddings
from langchain_ollama import OllamaEmbeddings
from langchain_openai import OpenAIEmbeddings
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from pydantic import SecretStr

API = os.environ["TILENODE_API"]
MODEL = os.environ["TILENODE_EMBEDDINGS"]


class TestOllamaEmbeddings(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return OllamaEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": MODEL, "base_url": API}


class TestOpenAIEmbeddings(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return OpenAIEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        # Otherwise it counts tokens with OpenAI's tokenizer, which it would download.
        return {
            "model": MODEL,
            "base_url": f"{API}/v1",
            "api_key": SecretStr("none"),
            "check_embedding_ctx_length": False,
        }
