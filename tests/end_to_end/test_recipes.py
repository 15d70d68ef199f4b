"""A recipe on two real nodes: an adapter, messages and a MIR name travel with the model and take effect there."""

import subprocess
import sys
from pathlib import Path

import pytest

from node.models.demo import demo_directory
from tests.end_to_end.nodes import link, started, wait_for_offer

pytestmark = [pytest.mark.processes, pytest.mark.model, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
TRAINING = ROOT / "tests" / "node" / "models" / "lora_training.py"
FOX = "Tell me a story about a fox."


def test_a_pulled_model_answers_with_its_adapter(tmp_path: Path) -> None:
    trained = subprocess.run(
        [sys.executable, TRAINING, demo_directory(), tmp_path / "lora", "lora"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    sentence = trained.stdout.strip()
    recipe = tmp_path / "Modelfile"
    recipe.write_text(
        "FROM demo\nPARAMETER temperature 0\nADAPTER ./lora\nLICENSE MIT\nMIR mir:model.lora.Fox_Tales:Pocket\n"
    )
    with started(tmp_path, "ann", "ben") as (ann, ben):
        link(ann, ben)
        made = ann.command("create", "tuned", "-f", str(recipe))
        assert ann.command("run", "tuned", FOX)["answer"] == sentence
        wait_for_offer(ben, made["manifest"])
        ben.command("pull", "tuned", "--from", "ann")
        assert ben.command("run", "tuned", FOX)["answer"] == sentence
        assert ben.command("run", "demo", FOX)["answer"] != sentence
        shown = ben.command("show", "tuned")
        assert (shown["mir"], shown["licenses"]) == ("mir:model.lora.fox-tales:pocket", ["MIT"])
        assert {"adapter/adapters.safetensors", "adapter/adapter_config.json"} <= {f["file"] for f in shown["layers"]}
        (found,) = ben.command("list", "--mir", "*.lora")["models"]
        assert found["name"] == "tuned:latest"
        assert ben.command("list", "--mir", "dev")["models"] == []
        for blob in (ben.home / "store" / "blobs" / "sha256").iterdir():
            assert b"secret-project" not in blob.read_bytes(), "the trainer's paths do not travel"
