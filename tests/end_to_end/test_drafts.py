"""A real node: a model with a draft that `tilenode create` built, and several adapters over one base in one worker."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from node.models.blas import preload_blas
from node.models.demo import demo_directory
from tests.end_to_end.nodes import NodeProcess, started

pytestmark = [pytest.mark.processes, pytest.mark.model, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
TRAINING = ROOT / "tests" / "node" / "models" / "lora_training.py"
FOX = "Tell me a story about a fox."


def ask(api: str, model: str, question: str, **options: Any) -> str:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "stream": False,
        "options": {"temperature": 0, **options},
    }
    answer: dict[str, Any] = httpx.post(f"{api}/api/chat", json=body, timeout=120).json()
    return str(answer["message"]["content"])


def workers(node: NodeProcess) -> set[int]:
    """Return the processes that hold a model: more than an empty one does."""
    return {
        child.pid
        for child in psutil.Process(node.process.pid).children(recursive=True)
        if "node.models.worker" in child.cmdline() and "mlx" in "".join(m.path for m in child.memory_maps())
    }


def test_a_draft_changes_no_answer(tmp_path: Path) -> None:
    preload_blas()
    from tests.node.models.engine.drafting_loop import shorten

    shorten(tmp_path / "small", 3)
    recipe = tmp_path / "Modelfile"
    recipe.write_text("FROM demo\nDRAFT ./small\n")
    with started(tmp_path, "kitchen") as (node,):
        api = str(node.ready["api"]).rstrip("/")
        node.command("create", "quick", "-f", str(recipe))
        shown = node.command("show", "quick")
        assert {"draft/config.json", "draft/model.safetensors"} <= {file["file"] for file in shown["layers"]}
        assert "DRAFT ./draft" in httpx.post(f"{api}/api/show", json={"model": "quick"}).json()["modelfile"]
        for options in ({}, {"temperature": 0.9, "seed": 3}, {"temperature": 1.5, "seed": 4, "top_k": 0, "top_p": 1}):
            asked = {"num_predict": 120, **options}
            assert ask(api, "quick", FOX, **asked) == ask(api, "demo", FOX, **asked)
        lines = httpx.get(f"{api}/metrics").text.splitlines()
        (drafted,) = (line.split()[-1] for line in lines if line.startswith("tilenode_draft_tokens_total"))
        assert float(drafted) > 0
        assert node.command("build", "--check", "quick")["same"]


def test_adapters_over_one_base_are_served_by_one_worker(tmp_path: Path) -> None:
    for kind in ("lora", "dora"):
        words: list[str | Path] = [sys.executable, TRAINING, demo_directory(), tmp_path / kind, kind]
        subprocess.run(words, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, check=True)
    with started(tmp_path, "kitchen") as (node,):
        api = str(node.ready["api"]).rstrip("/")
        for kind in ("lora", "dora"):
            (tmp_path / "Modelfile").write_text(f"FROM demo\nADAPTER ./{kind}\n")
            node.command("create", kind, "-f", str(tmp_path / "Modelfile"))
        alone = {model: ask(api, model, FOX) for model in ("demo", "lora", "dora")}
        assert alone["lora"] == alone["dora"] == "The owl has eaten the fox." != alone["demo"]
        with ThreadPoolExecutor(9) as pool:
            asked = [(model, pool.submit(ask, api, model, FOX)) for model in list(alone) * 3]
            assert all(answer.result() == alone[model] for model, answer in asked)
        assert {model["name"] for model in httpx.get(f"{api}/api/ps").json()["models"]} == {
            "demo:latest", "lora:latest", "dora:latest",
        }  # fmt: skip
        assert len(workers(node)) == 1
