"""Where models may come from is read from the environment once, and the token in it is shown nowhere."""

import os
from pathlib import Path

from node.config import read_environment, silence_libraries
from node.model_sources import model_sources
from node.models.process import worker_environment

TOKEN = "hf_canary_0123456789"


def test_the_variables_of_the_hub_and_of_ollama_are_read() -> None:
    sources = read_environment(
        {
            "HF_ENDPOINT": "https://hub.example",
            "HF_TOKEN": f" {TOKEN}\n",
            "HF_HUB_OFFLINE": "yes",
            "HF_HUB_CACHE": "/cache/hub",
            "OLLAMA_MODELS": "/ollama",
        }
    ).sources
    assert (sources.hub_endpoint, sources.hub_token, sources.hub_offline) == ("https://hub.example", TOKEN, True)
    assert (sources.hub_cache, sources.ollama_models) == (Path("/cache/hub"), Path("/ollama"))


def test_without_them_the_programs_own_places_are_meant() -> None:
    sources = read_environment({"HF_TOKEN": ""}).sources
    assert (sources.hub_endpoint, sources.hub_token, sources.hub_offline) == ("", None, False)
    assert sources.hub_cache == Path("~/.cache/huggingface/hub").expanduser()
    assert sources.ollama_models == Path("~/.ollama/models").expanduser()
    assert read_environment({"HF_HOME": "/hf"}).sources.hub_cache == Path("/hf/hub")
    assert read_environment({"XDG_CACHE_HOME": "/c"}).sources.hub_cache == Path("/c/huggingface/hub")


def test_the_token_is_in_no_description_and_in_no_workers_environment(tmp_path: Path) -> None:
    environment = read_environment({"HF_TOKEN": TOKEN})
    assert TOKEN not in repr(environment)
    assert TOKEN not in repr(model_sources(environment.sources))
    assert "HF_TOKEN" not in worker_environment(tmp_path)


def test_remotes_are_asked_by_their_own_spellings() -> None:
    ollama, hub = model_sources(read_environment({}).sources)
    assert [remote.owns("ollama:x") for remote in (ollama, hub)] == [True, False]
    assert [remote.owns("hf:a/b") for remote in (ollama, hub)] == [False, True]
    assert [remote.may_have("a/b@v1") for remote in (ollama, hub)] == [False, True]
    assert not any(remote.owns("a/b") or remote.may_have("a:b") for remote in (ollama, hub))


def test_the_xet_library_keeps_no_log_of_its_own() -> None:
    silence_libraries()
    assert os.environ["HF_XET_LOG_DEST"]
