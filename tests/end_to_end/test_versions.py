"""Two real nodes: what one does with versions is what the other sees, and whose a model is stays clear."""

from pathlib import Path

import ollama
import pytest

from tests.end_to_end.nodes import NodeProcess, link, started, wait_for_offer

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]


def _create(node: NodeProcess, directory: Path, system: str) -> str:
    modelfile = directory / "Modelfile"
    modelfile.write_text(f"FROM demo\nSYSTEM {system}\n")
    return str(node.command("create", "mine", "-f", str(modelfile))["manifest"])


def test_what_one_device_does_with_versions_is_what_the_other_sees(tmp_path: Path) -> None:
    with started(tmp_path, "studio", "sofa") as (studio, sofa):
        link(studio, sofa)
        first = _create(studio, tmp_path, "one")
        wait_for_offer(sofa, first)
        assert sofa.command("pull", "mine", "--from", "studio")["manifest"] == first
        second = _create(studio, tmp_path, "two")
        wait_for_offer(sofa, second)
        assert sofa.command("pull", "mine")["manifest"] == second

        back = studio.command("rollback", "mine")
        assert (back["manifest"], back["changed"], back["published"]) == (first, True, True)
        wait_for_offer(sofa, first)
        pulled = sofa.command("pull", "mine")
        assert (pulled["manifest"], pulled["bytes_reused"] > 0) == (first, True)
        history = sofa.command("history", "mine")["versions"]
        assert [version["manifest"] for version in history] == [first, second, first]
        assert {version["event"] for version in history} == {"pull"}

        # Somebody else's model: only the name moves here, and it stays theirs.
        mine = sofa.command("rollback", "mine")
        assert (mine["manifest"], mine["published"], mine["publisher_name"]) == (second, False, "studio")
        tagged = sofa.command("tag", "mine", ":kept")
        assert (tagged["published"], tagged["publisher"]) == (False, studio.ready["did"])
        assert sofa.command("verify", "mine:kept")["publisher"] == studio.ready["did"]

        # A copy is this device's, and says where it came from.
        copied = sofa.command("cp", "mine@1", "ours")
        assert (copied["manifest"], copied["published"], copied["source"]) == (first, True, "mine:latest@1")
        wait_for_offer(studio, first)
        theirs = studio.command("pull", "ours", "--from", "sofa")
        assert (theirs["manifest"], theirs["publisher"]) == (first, sofa.ready["did"])


def test_the_stock_ollama_client_copies_and_deletes(tmp_path: Path) -> None:
    with started(tmp_path, "studio") as (studio,):
        manifest = _create(studio, tmp_path, "one")
        with ollama.Client(host=str(studio.ready["api"])) as client:
            assert client.copy("mine", "ours").status == "success"
            found = {model.model: model.digest for model in client.list().models}
            assert found["ours:latest"] == found["mine:latest"] == manifest
            studio.command("pin", "ours")
            with pytest.raises(ollama.ResponseError) as refused:
                client.delete("ours")
            assert refused.value.status_code == 400
            studio.command("unpin", "ours")
            assert client.delete("ours").status == "success"
            with pytest.raises(ollama.ResponseError) as missing:
                client.copy("ours", "theirs")
            assert missing.value.status_code == 404
            assert "ours:latest" not in {model.model for model in client.list().models}
            assert studio.command("verify", "mine")["manifest"] == manifest
