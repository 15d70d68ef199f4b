"""A model that a linked device passes on, signed by one that is not linked here: its signer is named at every step."""

import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.nodes import NodeProcess, link, started, wait_for_offer

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


def test_the_signer_is_shown_before_and_after_a_pull(tmp_path: Path) -> None:
    with started(tmp_path, "ann", "ben", "cat") as (ann, ben, cat):
        link(ann, ben)
        (tmp_path / "Modelfile").write_text("FROM demo\nSYSTEM be brief\n")
        made = ann.command("create", "brief", "-f", str(tmp_path / "Modelfile"))
        ben.command("pull", "brief", "--from", "ann")
        link(ben, cat, "--models-only")
        wait_for_offer(cat, made["manifest"])
        (offer,) = cat.command("list", "--peers")["offers"]
        assert (offer["peer_name"], offer["publisher_name"]) == ("ben", "")
        assert offer["publisher"] == ann.ready["did"]
        shown = f"did:key:z6Mk…{ann.ready['did'][-4:]}"
        assert shown in said(cat, "list", "--peers")
        assert f"signed by {shown}" in said(cat, "pull", "brief", "--from", "ben")
        assert f"signed by {shown}" in said(cat, "verify", "brief")


def said(node: NodeProcess, *words: str) -> str:
    """Return what a command says to a person."""
    line = [word for word in node._command_line(words) if word != "--json"]
    done = subprocess.run(
        line, env=node._environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    return done.stdout
