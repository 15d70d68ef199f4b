"""Bodies of the control API: the vectors of specs/0017, and no other field than those."""

import json
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from node.control import adopt, ask, build, bundles, chats, link, models, node, registry, registry_server, versions

VECTORS = sorted((Path(__file__).parents[3] / "specs/vectors/0017-control-api").glob("*.json"))
BODIES: dict[str, type[BaseModel]] = {
    "/v1/account": node.AccountBody,
    "/v1/log/export": node.ExportBody,
    "/v1/create": build.CreateBody,
    "/v1/build/check": build.CheckBody,
    "/v1/pull": models.PullBody,
    "/v1/verify": models.NameBody,
    "/v1/rollback": versions.VersionBody,
    "/v1/remove": versions.RemoveBody,
    "/v1/copy": versions.MoveBody,
    "/v1/gc": versions.CollectBody,
    "/v1/repair": models.NameBody,
    "/v1/bundle/export": bundles.ExportBody,
    "/v1/bundle/look": bundles.LookBody,
    "/v1/bundle/import": bundles.ImportBody,
    "/v1/link/enable": link.EnableBody,
    "/v1/link/join": link.JoinBody,
    "/v1/link/approve": link.AnswerBody,
    "/v1/link/disable": link.PeerBody,
    "/v1/adopt": adopt.AdoptBody,
    "/v1/registry/serve": registry_server.ServeBody,
    "/v1/registry/connect": registry_server.ConnectBody,
    "/v1/registry/login": registry.LoginBody,
    "/v1/registry/logout": registry.HostBody,
    "/v1/registry/pack": registry.PackBody,
    "/v1/registry/pull": registry.RegistryPullBody,
    "/v1/registry/push": registry.PushBody,
    "/v1/ask": ask.AskBody,
    "/v1/chats/rename": chats.RenameBody,
    "/v1/chats/edit": chats.EditBody,
    "/v1/chats/delete": chats.DeleteBody,
    "/v1/sync": chats.SyncBody,
}


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_vectors(path: Path) -> None:
    vector = json.loads(path.read_text())
    found = "ok"
    try:
        BODIES[vector["input"]["route"]].model_validate_json(json.dumps(vector["input"]["body"]))
    except ValidationError:
        found = "ControlRequestInvalid"
    assert found == vector["expect"]


def test_every_route_with_a_body_has_a_vector() -> None:
    assert {json.loads(path.read_text())["input"]["route"] for path in VECTORS} == set(BODIES)


@pytest.mark.parametrize("body", BODIES.values(), ids=lambda body: body.__name__)
def test_unknown_fields_are_refused(body: type[BaseModel]) -> None:
    assert body.model_config["extra"] == "forbid"
