"""A node as a registry for stock programs: skopeo, docker-registry, curl, and PyPI's oras and modelpack-client."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import oras.client  # type: ignore[import-untyped]  # it has no stubs
import pytest

from node.models.demo import demo_directory
from protocol.digest import digest_of
from tests.end_to_end.nodes import Facts, NodeProcess, started, write_bulk_model
from tests.end_to_end.nodes import link as link_nodes
from tests.interop.stock_tools import docker_registry, free_port, needs, run

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

BULK_BYTES = 192 << 20


class Serving:
    """A node whose registry is switched on, with the embedded model's files as `tiny`."""

    def __init__(self, node: NodeProcess, model: Facts) -> None:
        self.node = node
        self.model = model
        self.server = str(node.ready["api"]).removeprefix("http://")
        self.reference = f"{self.server}/library/tiny:latest"
        self.files = {layer["file"]: layer["digest"] for layer in model["layers"]}


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    directory = tmp_path_factory.mktemp("serving")
    with started(directory, "ann") as (ann,):
        recipe = directory / "Modelfile"
        recipe.write_text(f"FROM {demo_directory()}\nSYSTEM be kind\n")
        model = ann.command("create", "tiny", "-f", str(recipe))
        assert ann.command("registry", "serve")["serving"] is False
        assert httpx.get(f"{ann.ready['api']}/v2/").status_code == 404
        assert ann.command("registry", "serve", "on")["serving"] is True
        assert ann.command("status")["registry"]["serving"] is True
        yield Serving(ann, model)
        assert ann.command("registry", "serve", "off")["serving"] is False
        assert httpx.get(f"{ann.ready['api']}/v2/").status_code == 404


def manifest_of(reference: str, *options: str) -> str:
    return digest_of(run("skopeo", "inspect", "--raw", *options, reference).encode())


def holds(directory: Path, files: dict[str, str]) -> bool:
    found = {str(path.relative_to(directory)): digest_of(path.read_bytes()) for path in directory.rglob("*.*")}
    named = {path.name: digest_of(path.read_bytes()) for path in directory.iterdir()}
    return (found | named).items() >= files.items()


def test_skopeo_lists_and_copies_with_the_digest_kept(serving: Serving, tmp_path: Path) -> None:
    needs("skopeo")
    listed = json.loads(run("skopeo", "list-tags", "--tls-verify=false", f"docker://{serving.server}/library/tiny"))
    assert listed["Tags"] == ["latest"]
    assert manifest_of(f"docker://{serving.reference}", "--tls-verify=false") == serving.model["manifest"]
    run("skopeo", "copy", "--src-tls-verify=false", f"docker://{serving.reference}", f"oci:{tmp_path}/copy:tiny")
    assert manifest_of(f"oci:{tmp_path}/copy:tiny") == serving.model["manifest"]
    for digest in serving.files.values():
        assert digest_of((tmp_path / "copy" / "blobs" / "sha256" / digest).read_bytes()) == digest
    by_digest = f"docker://{serving.server}/library/tiny@sha256:{serving.model['manifest']}"
    run("skopeo", "copy", "--src-tls-verify=false", by_digest, f"oci:{tmp_path}/again:tiny")


def test_skopeo_copies_into_a_docker_registry(serving: Serving, tmp_path: Path) -> None:
    needs("skopeo")
    with docker_registry(tmp_path / "registry") as address:
        target = f"docker://{address}/models/tiny:v1"
        off = ("--src-tls-verify=false", "--dest-tls-verify=false")
        run("skopeo", "copy", *off, f"docker://{serving.reference}", target)
        assert manifest_of(target, "--tls-verify=false") == serving.model["manifest"]


def test_a_docker_registry_mirrors_the_node(serving: Serving, tmp_path: Path) -> None:
    needs("skopeo")
    with docker_registry(tmp_path / "mirror", mirror_of=f"http://{serving.server}") as address:
        source = f"docker://{address}/library/tiny:latest"
        run("skopeo", "copy", "--src-tls-verify=false", source, f"oci:{tmp_path}/copy:tiny")
        assert manifest_of(f"oci:{tmp_path}/copy:tiny") == serving.model["manifest"]


def test_skopeo_cannot_write(serving: Serving, tmp_path: Path) -> None:
    needs("skopeo")
    run("skopeo", "copy", "--src-tls-verify=false", f"docker://{serving.reference}", f"oci:{tmp_path}/copy:tiny")
    target = f"docker://{serving.server}/library/other:latest"
    refused = run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{tmp_path}/copy:tiny", target, fails=True)
    assert "405" in refused or "read" in refused
    refused = run("skopeo", "delete", "--tls-verify=false", f"docker://{serving.reference}", fails=True)
    assert "405" in refused or "read" in refused or "UNSUPPORTED" in refused


def test_oras_pulls_the_files_under_their_names(serving: Serving, tmp_path: Path) -> None:
    client = oras.client.OrasClient(hostname=serving.server, insecure=True)
    client.pull(target=serving.reference, outdir=str(tmp_path / "files"))
    assert holds(tmp_path / "files", serving.files)


def test_modelpack_client_pulls(serving: Serving, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("modelpack")
    run(str(program), "--insecure", "pull", serving.reference, str(tmp_path / "files"))
    assert holds(tmp_path / "files", serving.files)


def test_curl_takes_up_a_download_where_it_broke_off(serving: Serving, tmp_path: Path) -> None:
    needs("curl")
    digest = serving.files["model.safetensors"]
    url = f"http://{serving.server}/v2/library/tiny/blobs/sha256:{digest}"
    target = tmp_path / "model.safetensors"
    run("curl", "-sS", "--fail", "-r", "0-999999", "-o", str(target), url)
    assert target.stat().st_size == 1_000_000
    run("curl", "-sS", "--fail", "-C", "-", "-o", str(target), url)
    assert digest_of(target.read_bytes()) == digest
    again = run(
        "curl",
        "-sS",
        "-o",
        str(tmp_path / "none"),
        "-w",
        "%{http_code}",
        "-H",
        f'If-None-Match: "sha256:{digest}"',
        url,
    )
    assert again == "304"


def test_a_web_page_reads_nothing(serving: Serving) -> None:
    url = f"http://{serving.server}/v2/_catalog"
    assert httpx.get(url, headers={"Origin": "http://example.com"}).status_code == 403
    assert httpx.get(url, headers={"Host": "example.com"}).status_code == 403
    assert httpx.get(url, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_skopeo_and_oras_copy_from_a_linked_device(tmp_path: Path) -> None:
    needs("skopeo")
    with started(tmp_path, "ann", "ben") as (ann, ben):
        recipe = tmp_path / "Modelfile"
        recipe.write_text(f"FROM {demo_directory()}\n")
        model = ann.command("create", "tiny", "-f", str(recipe))
        link_nodes(ann, ben)
        files = {layer["file"]: layer["digest"] for layer in model["layers"]}
        port = free_port()
        connection = ben.follow("registry", "connect", "ann", "--port", str(port))
        opened = connection.next_event("connected")
        assert (opened["server"], opened["models"]) == (f"127.0.0.1:{port}", ["library/tiny:latest"])
        source = f"docker://{opened['server']}/library/tiny:latest"
        run("skopeo", "copy", "--src-tls-verify=false", source, f"oci:{tmp_path}/copy:no", fails=True)
        login = ("--src-tls-verify=false", "--src-authfile", opened["login_file"])
        run("skopeo", "copy", *login, source, f"oci:{tmp_path}/copy:tiny")
        assert manifest_of(f"oci:{tmp_path}/copy:tiny") == model["manifest"]
        client = oras.client.OrasClient(hostname=opened["server"], insecure=True, auth_backend="basic")
        target = f"{opened['server']}/library/tiny:latest"
        client.pull(target=target, outdir=str(tmp_path / "files"), config_path=opened["login_file"])
        assert holds(tmp_path / "files", files)
        ann.command("link", "disable", "ben")
        run("skopeo", "copy", *login, source, f"oci:{tmp_path}/late:tiny", fails=True)
        assert httpx.get(f"http://{opened['server']}/v2/", auth=(opened["user"], opened["password"])).status_code in (
            403,
            503,
        )


def test_an_unlink_cuts_a_copy_that_runs(tmp_path: Path) -> None:
    with started(tmp_path, "ann", "ben") as (ann, ben):
        write_bulk_model(tmp_path / "bulk", BULK_BYTES)
        (tmp_path / "Modelfile").write_text("FROM ./bulk\n")
        model = ann.command("create", "bulk", "-f", str(tmp_path / "Modelfile"))
        weights = max(model["layers"], key=lambda layer: int(layer["size_bytes"]))
        link_nodes(ann, ben)
        connection = ben.follow("registry", "connect", "ann")
        opened = connection.next_event("connected")
        url = f"http://{opened['server']}/v2/library/bulk/blobs/sha256:{weights['digest']}"
        received = 0
        with httpx.stream("GET", url, auth=(opened["user"], opened["password"])) as answer:
            assert answer.status_code == 200
            with pytest.raises(httpx.RemoteProtocolError):  # noqa: PT012 - reading is what raises
                for piece in answer.iter_raw():
                    if not received:
                        ann.command("link", "disable", "ben")
                    received += len(piece)
        assert received < weights["size_bytes"]
