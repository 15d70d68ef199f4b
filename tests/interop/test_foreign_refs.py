"""skopeo copies into a node's store: the model is seen, adopted, used, and our own entries stay."""

import json
from pathlib import Path

import pytest

from protocol.digest import digest_of
from tests.end_to_end.nodes import started
from tests.interop.stock_tools import needs, run

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]


def test_a_model_that_skopeo_copied_in_is_adopted(tmp_path: Path) -> None:
    needs("skopeo")
    with started(tmp_path, "ann", "ben") as (ann, ben):
        (tmp_path / "ann.txt").write_text("FROM demo\nSYSTEM be kind\n")
        (tmp_path / "ben.txt").write_text("FROM demo\nSYSTEM be brief\n")
        model = ann.command("create", "kind", "-f", str(tmp_path / "ann.txt"))
        own = ben.command("create", "brief", "-f", str(tmp_path / "ben.txt"))
        ann.command("registry", "serve", "on")
        server = str(ann.ready["api"]).removeprefix("http://")
        store = ben.home / "store"
        run(
            "skopeo",
            "copy",
            "--src-tls-verify=false",
            f"docker://{server}/library/kind:latest",
            f"oci:{store}:from-ann",
        )
        (foreign,) = ben.command("list")["foreign"]
        assert (foreign["reference"], foreign["manifest"], foreign["problem"]) == ("from-ann", model["manifest"], "")
        refused = ben.fails("adopt", "something-else")
        assert "tilenode list" in refused["stderr"]
        adopted = ben.command("adopt", "from-ann", "kind")
        assert (adopted["name"], adopted["manifest"]) == ("kind:latest", model["manifest"])
        assert ben.command("list")["foreign"] == []
        assert ben.command("verify", "kind")["manifest"] == model["manifest"]
        ben.command("run", "kind", "Hello!")
        index = json.loads((store / "index.json").read_text())
        assert {entry["digest"] for entry in index["manifests"]} >= {
            f"sha256:{own['manifest']}",
            f"sha256:{model['manifest']}",
        }
        raw = run("skopeo", "inspect", "--raw", f"oci:{store}:kind/latest")
        assert digest_of(raw.encode()) == model["manifest"]
        ben.command("cp", "kind", "mine")
        (mine,) = [found for found in ben.command("list")["models"] if found["name"] == "mine:latest"]
        assert mine["publisher"] == ben.ready["did"]
