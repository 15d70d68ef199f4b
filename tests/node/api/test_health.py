"""`/metrics`, `/api/health` and `/api/stop` on the real server with the demo model."""

import re

import httpx
import pytest

from tests.node.api.conftest import ServedApi

pytestmark = pytest.mark.model

LINE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\.)*",?)*)\})? (\S+)')
CANARY = "canary-7f3a"


def read_metrics(api: ServedApi) -> dict[str, float]:
    answer = httpx.get(f"{api.url}/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    values = {}
    for line in answer.text.splitlines():
        if not line.startswith("#"):
            found = LINE.fullmatch(line)
            assert found is not None, line
            values[line.rpartition(" ")[0]] = float(found[3])
    return values


def ask(api: ServedApi, text: str) -> str:
    body = {"model": "demo", "messages": [{"role": "user", "content": text}], "options": {"temperature": 0}}
    answer = httpx.post(f"{api.url}/api/chat", json={**body, "stream": False}, timeout=60)
    return str(answer.json()["message"]["content"])


def test_what_is_done_is_counted_and_nothing_of_what_was_said(api: ServedApi) -> None:
    api.only_demo()
    before = read_metrics(api)
    assert ask(api, "Hello!") == "Hello! How can I help you?"
    assert ask(api, f"Repeat after me: {CANARY}")
    assert httpx.get(f"{api.url}/{CANARY}").status_code == 404
    assert httpx.post(f"{api.url}/api/chat", json={"model": CANARY}).status_code == 404
    after = read_metrics(api)

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown('tilenode_requests_total{method="POST",route="/api/chat",status="200"}') == 2
    assert grown('tilenode_requests_total{method="POST",route="/api/chat",status="404"}') == 1
    assert grown('tilenode_requests_total{method="GET",route="none",status="404"}') == 1
    assert grown('tilenode_answers_total{reason="stop"}') == 2
    assert grown("tilenode_answer_tokens_total") >= 9
    assert grown("tilenode_prompt_tokens_total") >= 20
    assert after["tilenode_models_loaded"] == 1
    assert after['tilenode_model_memory_bytes{model="demo:latest"}'] > 5_000_000
    assert after['tilenode_worker_resident_bytes{model="demo:latest"}'] > 50_000_000
    assert after['tilenode_requests_active{model="demo:latest"}'] == 0
    assert after["tilenode_model_loads_total"] >= 1
    assert after["tilenode_model_load_seconds_total"] > 0
    assert CANARY not in httpx.get(f"{api.url}/metrics").text


def test_the_metrics_are_those_that_the_stock_parser_reads(api: ServedApi) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    families = list(parser.text_string_to_metric_families(httpx.get(f"{api.url}/metrics").text))
    assert {family.type for family in families} == {"counter", "gauge"}


def test_health_without_a_proof_loads_nothing(api: ServedApi) -> None:
    api.unload()
    answer = httpx.get(f"{api.url}/api/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    assert "proof" not in answer.json()
    assert api.worker_pids() == []


def test_a_deep_look_proves_a_token_and_keeps_the_model_no_longer(api: ServedApi) -> None:
    api.only_demo()
    until = httpx.get(f"{api.url}/api/ps").json()["models"][0]["expires_at"]
    answer = httpx.get(f"{api.url}/api/health?deep=1", timeout=60).json()
    assert (answer["status"], answer["proof"]["model"], answer["proof"]["tokens"]) == ("ok", "demo:latest", 1)
    later = httpx.get(f"{api.url}/api/ps").json()["models"][0]["expires_at"]
    assert later[:16] == until[:16]


def test_a_deep_look_at_an_empty_node_asks_the_demo_model(api: ServedApi) -> None:
    api.unload()
    assert httpx.get(f"{api.url}/api/health?deep=1", timeout=60).json()["proof"]["model"] == "demo:latest"


def test_a_model_is_let_go_by_name(api: ServedApi) -> None:
    api.only_demo()
    stopped = httpx.post(f"{api.url}/api/stop", json={"model": "demo"})
    assert stopped.json() == {"model": "demo", "stopped": True}
    assert httpx.post(f"{api.url}/api/stop", json={"model": "demo"}).json()["stopped"] is False
    assert api.worker_pids() == []
    assert httpx.post(f"{api.url}/api/stop", json={"model": "nope"}).status_code == 404
    assert httpx.post(f"{api.url}/api/stop", json={}).status_code == 400
