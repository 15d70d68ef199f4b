"""The registry's pull side, case by case after the OCI distribution specification, and what it does not let out."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from node.api.registry_blob import MAX_DOWNLOADS
from protocol.digest import Digest, digest_of, format_oci_digest
from protocol.manifest import MANIFEST_MEDIA_TYPE
from protocol.model_name import parse_model_name
from protocol.referrer import CHUNK_MAPS, EMPTY, EMPTY_CONFIG, INDEX_MEDIA_TYPE, PROVENANCE
from protocol.registry_route import MAX_PAGE
from store.testing import add_model, make_model_directory, make_tensors
from tests.node.registry.served import Registry

NOTHING = format_oci_digest(digest_of(b"nothing of this"))


def publish(registry: Registry, name: str, directory: Path, seed: int = 0, width: int = 64) -> Digest:
    registry.node.publish(name, make_model_directory(directory, make_tensors(seed, 4, width)))
    return registry.manifest(name)


def is_error(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    (error,) = answer.json()["errors"]
    assert error["code"] == code
    assert error.keys() == {"code", "message", "detail"}


def change_byte(path: Path, offset: int) -> None:
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


async def test_it_says_that_it_is_a_registry(registry: Registry) -> None:
    for path in ("/v2/", "/v2"):
        answer = await registry.get(path)
        assert (answer.status_code, answer.json()) == (200, {})
        assert answer.headers["docker-distribution-api-version"] == "registry/2.0"


async def test_a_manifest_by_tag_and_by_digest(registry: Registry, tmp_path: Path) -> None:
    digest = publish(registry, "demo", tmp_path / "model")
    named = format_oci_digest(digest)
    content = registry.node.store.layout.blob_path(digest).read_bytes()
    for reference in ("latest", named):
        for repository in ("library/demo", "demo"):
            answer = await registry.get(f"/v2/{repository}/manifests/{reference}")
            assert (answer.status_code, answer.content) == (200, content)
            assert answer.headers["content-type"] == MANIFEST_MEDIA_TYPE
            assert answer.headers["docker-content-digest"] == named
            head = await registry.http.head(f"/v2/{repository}/manifests/{reference}")
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == str(len(content))
            assert head.headers["docker-content-digest"] == named
    for known in (answer.headers["etag"], f'"x", W/"{named}"', "*"):
        assert (await registry.get("/v2/demo/manifests/latest", if_none_match=known)).status_code == 304
    assert (await registry.get("/v2/demo/manifests/latest", if_none_match='"other"')).status_code == 200


async def test_manifests_that_are_not_there(registry: Registry, tmp_path: Path) -> None:
    publish(registry, "demo", tmp_path / "model")
    is_error(await registry.get("/v2/demo/manifests/other"), 404, "MANIFEST_UNKNOWN")
    is_error(await registry.get("/v2/demo/manifests/.INVALID_MANIFEST_NAME"), 404, "MANIFEST_UNKNOWN")
    is_error(await registry.get(f"/v2/demo/manifests/{NOTHING}"), 404, "MANIFEST_UNKNOWN")
    is_error(await registry.get("/v2/demo/manifests/sha256:zz"), 400, "DIGEST_INVALID")
    is_error(await registry.get("/v2/other/manifests/latest"), 404, "NAME_UNKNOWN")
    is_error(await registry.get("/v2/Other/manifests/latest"), 400, "NAME_INVALID")
    assert (await registry.http.head("/v2/demo/manifests/other")).status_code == 404


async def test_blobs_whole_and_in_ranges(registry: Registry, tmp_path: Path) -> None:
    publish(registry, "demo", tmp_path / "model", width=720)
    layer = registry.weights("demo")
    path = f"/v2/library/demo/blobs/{format_oci_digest(layer.digest)}"
    content = registry.node.store.layout.blob_path(layer.digest).read_bytes()
    answer = await registry.get(path)
    assert (answer.status_code, answer.content) == (200, content)
    assert answer.headers["content-length"] == str(layer.size)
    assert answer.headers["docker-content-digest"] == format_oci_digest(layer.digest)
    assert answer.headers["accept-ranges"] == "bytes"
    head = await registry.http.head(path, headers={"range": "bytes=0-1"})
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(layer.size), b"")
    for header, first, end in (
        ("bytes=0-0", 0, 1),
        ("bytes=1000-2500000", 1000, 2_500_001),
        (f"bytes={layer.size - 5}-", layer.size - 5, layer.size),
        ("bytes=-7", layer.size - 7, layer.size),
        (f"bytes=5-{layer.size * 2}", 5, layer.size),
    ):
        answer = await registry.get(path, range=header)
        assert (answer.status_code, answer.content) == (206, content[first:end])
        assert answer.headers["content-range"] == f"bytes {first}-{end - 1}/{layer.size}"
    for ignored in ("bytes=0-1,3-4", "bytes=9-3", "lines=0-1", "bytes=x"):
        answer = await registry.get(path, range=ignored)
        assert (answer.status_code, len(answer.content)) == (200, layer.size)
    outside = await registry.get(path, range=f"bytes={layer.size}-")
    is_error(outside, 416, "RANGE_INVALID")
    assert outside.headers["content-range"] == f"bytes */{layer.size}"


async def test_a_range_of_another_version_is_the_whole(registry: Registry, tmp_path: Path) -> None:
    publish(registry, "demo", tmp_path / "model")
    layer = registry.weights("demo")
    path = f"/v2/demo/blobs/{format_oci_digest(layer.digest)}"
    assert (await registry.get(path, range="bytes=0-1", if_range='"another"')).status_code == 200
    same = f'"{format_oci_digest(layer.digest)}"'
    assert (await registry.get(path, range="bytes=0-1", if_range=same)).status_code == 206
    assert (await registry.get(path, if_none_match=same)).status_code == 304


async def test_blobs_that_are_not_there(registry: Registry, tmp_path: Path) -> None:
    publish(registry, "demo", tmp_path / "model")
    is_error(await registry.get(f"/v2/demo/blobs/{NOTHING}"), 404, "BLOB_UNKNOWN")
    is_error(await registry.get("/v2/demo/blobs/sha256:0"), 400, "DIGEST_INVALID")
    is_error(await registry.get("/v2/demo/blobs/sha512:" + "0" * 128), 400, "DIGEST_INVALID")
    assert (await registry.http.head(f"/v2/demo/blobs/{NOTHING}")).status_code == 404


async def test_every_way_to_change_something_is_refused(registry: Registry, tmp_path: Path) -> None:
    digest = format_oci_digest(publish(registry, "demo", tmp_path / "model"))
    for method, path in (
        ("POST", "/v2/demo/blobs/uploads/"),
        ("POST", f"/v2/demo/blobs/uploads/?mount={digest}&from=other"),
        ("PATCH", "/v2/demo/blobs/uploads/1"),
        ("PUT", f"/v2/demo/blobs/uploads/1?digest={digest}"),
        ("PUT", "/v2/demo/manifests/latest"),
        ("DELETE", "/v2/demo/manifests/latest"),
        ("DELETE", f"/v2/demo/blobs/{digest}"),
        ("OPTIONS", "/v2/"),
    ):
        answer = await registry.http.request(method, path, content=b"x" * 100)
        is_error(answer, 405, "UNSUPPORTED")
        assert answer.headers["allow"] == "GET, HEAD"
    assert format_oci_digest(registry.manifest("demo")) == digest


async def test_tags_and_repositories_come_in_pages(registry: Registry, tmp_path: Path) -> None:
    for tag in ("v1", "v10", "v2", "latest@1.0"):
        publish(registry, f"demo:{tag}", tmp_path / tag)
    publish(registry, "ann/other", tmp_path / "other")
    tags = ["latest", "latest-1.0", "v1", "v10", "v2"]
    whole = await registry.get("/v2/library/demo/tags/list")
    assert whole.json() == {"name": "library/demo", "tags": tags}
    assert "link" not in whole.headers
    assert await followed(registry, "/v2/library/demo/tags/list?n=2", "tags") == [tags[:2], tags[2:4], tags[4:]]
    assert (await registry.get("/v2/library/demo/tags/list?last=v1")).json()["tags"] == ["v10", "v2"]
    assert (await registry.get("/v2/library/demo/tags/list?n=0")).json()["tags"] == []
    names = ["ann/other", "library/demo"]
    assert (await registry.get("/v2/_catalog")).json() == {"repositories": names}
    assert await followed(registry, "/v2/_catalog?n=1", "repositories") == [names[:1], names[1:]]
    is_error(await registry.get("/v2/_catalog?n=many"), 400, "PAGINATION_NUMBER_INVALID")
    is_error(await registry.get("/v2/nobody/tags/list"), 404, "NAME_UNKNOWN")


async def followed(registry: Registry, path: str, key: str) -> list[list[str]]:
    pages: list[list[str]] = []
    following: str | None = path
    while following:
        answer = await registry.get(following)
        pages.append(answer.json()[key])
        following = answer.links.get("next", {}).get("url")
    return pages


async def test_referrers_and_what_they_carry(registry: Registry, tmp_path: Path) -> None:
    digest = publish(registry, "demo", tmp_path / "model")
    answer = await registry.get(f"/v2/demo/referrers/{format_oci_digest(digest)}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, INDEX_MEDIA_TYPE)
    index = answer.json()
    assert (index["schemaVersion"], index["mediaType"]) == (2, INDEX_MEDIA_TYPE)
    assert {entry["artifactType"] for entry in index["manifests"]} == {CHUNK_MAPS, PROVENANCE}
    assert "oci-filters-applied" not in answer.headers
    for entry in index["manifests"]:
        manifest = await registry.get(f"/v2/demo/manifests/{entry['digest']}")
        assert format_oci_digest(digest_of(manifest.content)) == entry["digest"]
        document = json.loads(manifest.content)
        assert document["subject"]["digest"] == format_oci_digest(digest)
        for part in (document["config"], *document["layers"]):
            blob = await registry.get(f"/v2/demo/blobs/{part['digest']}")
            assert (format_oci_digest(digest_of(blob.content)), len(blob.content)) == (part["digest"], part["size"])
            tail = await registry.get(f"/v2/demo/blobs/{part['digest']}", range="bytes=1-")
            assert (tail.status_code, tail.content) == (206, blob.content[1:])
            head = await registry.http.head(f"/v2/demo/blobs/{part['digest']}")
            assert head.headers["content-length"] == str(part["size"])
    empty = await registry.get(f"/v2/demo/blobs/{format_oci_digest(EMPTY.digest)}")
    assert empty.content == EMPTY_CONFIG
    only = await registry.get(f"/v2/demo/referrers/{format_oci_digest(digest)}", artifactType="")
    assert len(only.json()["manifests"]) == 2
    filtered = await registry.http.get(
        f"/v2/demo/referrers/{format_oci_digest(digest)}", params={"artifactType": PROVENANCE}
    )
    assert [entry["artifactType"] for entry in filtered.json()["manifests"]] == [PROVENANCE]
    assert filtered.headers["oci-filters-applied"] == "artifactType"
    none = await registry.get(f"/v2/demo/referrers/{NOTHING}")
    assert (none.status_code, none.json()["manifests"]) == (200, [])


async def test_older_versions_are_there_by_their_digest(registry: Registry, tmp_path: Path) -> None:
    first = publish(registry, "demo", tmp_path / "one", seed=1)
    layer = registry.weights("demo")
    second = publish(registry, "demo", tmp_path / "two", seed=2)
    assert first != second
    answer = await registry.get(f"/v2/demo/manifests/{format_oci_digest(first)}")
    assert digest_of(answer.content) == first
    assert (await registry.get(f"/v2/demo/blobs/{format_oci_digest(layer.digest)}")).status_code == 200
    latest = await registry.get("/v2/demo/manifests/latest")
    assert latest.headers["docker-content-digest"] == format_oci_digest(second)


async def test_only_signed_models_are_offered(registry: Registry, tmp_path: Path) -> None:
    add_model(registry.node.store, "secret", make_model_directory(tmp_path / "secret", make_tensors(7)))
    publish(registry, "demo", tmp_path / "model")
    digest = format_oci_digest(registry.manifest("secret"))
    is_error(await registry.get("/v2/secret/manifests/latest"), 404, "NAME_UNKNOWN")
    is_error(await registry.get(f"/v2/demo/manifests/{digest}"), 404, "MANIFEST_UNKNOWN")
    is_error(await registry.get(f"/v2/demo/blobs/{digest}"), 404, "BLOB_UNKNOWN")
    layer = format_oci_digest(registry.weights("secret").digest)
    is_error(await registry.get(f"/v2/demo/blobs/{layer}"), 404, "BLOB_UNKNOWN")
    assert (await registry.get("/v2/_catalog")).json() == {"repositories": ["library/demo"]}


async def test_a_blob_is_served_under_its_own_repository_only(registry: Registry, tmp_path: Path) -> None:
    publish(registry, "one", tmp_path / "one", seed=1)
    publish(registry, "two", tmp_path / "two", seed=2)
    layer = format_oci_digest(registry.weights("one").digest)
    assert (await registry.get(f"/v2/one/blobs/{layer}")).status_code == 200
    is_error(await registry.get(f"/v2/two/blobs/{layer}"), 404, "BLOB_UNKNOWN")


async def test_nothing_of_a_publisher_that_signed_two_logs(registry: Registry, tmp_path: Path) -> None:
    publish(registry, "demo", tmp_path / "model")
    registry.node.gossip.origins._stopped = frozenset({registry.node.did})
    is_error(await registry.get("/v2/demo/manifests/latest"), 404, "NAME_UNKNOWN")
    assert (await registry.get("/v2/_catalog")).json() == {"repositories": []}


async def test_a_damaged_blob_is_an_error_or_a_cut_connection_never_bytes(registry: Registry, tmp_path: Path) -> None:
    publish(registry, "demo", tmp_path / "model", width=1500)
    layer = registry.weights("demo")
    path = registry.node.store.layout.blob_path(layer.digest)
    change_byte(path, layer.size - 20)
    url = f"/v2/demo/blobs/{format_oci_digest(layer.digest)}"
    received = bytearray()
    async with registry.http.stream("GET", url) as answer:
        assert (answer.status_code, answer.headers["content-length"]) == (200, str(layer.size))
        with pytest.raises(httpx.RemoteProtocolError):
            await receive(answer, received)
    quarantined = registry.node.store.layout.quarantine_path(layer.digest).read_bytes()
    assert len(received) < layer.size
    assert quarantined.startswith(received)
    is_error(await registry.get(url), 404, "BLOB_UNKNOWN")
    is_error(await registry.get("/v2/demo/blobs/" + NOTHING), 404, "BLOB_UNKNOWN")


async def receive(answer: httpx.Response, received: bytearray) -> None:
    async for piece in answer.aiter_raw():
        received += piece


async def test_damage_in_the_first_bytes_has_a_status(registry: Registry, tmp_path: Path) -> None:
    publish(registry, "demo", tmp_path / "model")
    layer = registry.weights("demo")
    config = registry.node.store.resolve(parse_model_name("demo")).manifest.config.digest
    for digest in (layer.digest, config):
        change_byte(registry.node.store.layout.blob_path(digest), 3)
        is_error(await registry.get(f"/v2/demo/blobs/{format_oci_digest(digest)}"), 404, "BLOB_UNKNOWN")
        assert registry.node.store.layout.quarantine_path(digest).exists()


async def test_who_leaves_ends_the_download_and_its_lease(registry: Registry, tmp_path: Path) -> None:
    publish(registry, "demo", tmp_path / "model", width=2500)
    layer = registry.weights("demo")
    store = registry.node.store
    async with registry.http.stream("GET", f"/v2/demo/blobs/{format_oci_digest(layer.digest)}") as answer:
        assert answer.status_code == 200
        await until(lambda: layer.digest in store.leases.held())
        store.remove(parse_model_name("demo"))
        assert store.blobs.has(layer.digest), "a lease keeps what is being sent"
    await until(lambda: layer.digest not in store.leases.held())
    await until(lambda: registry.app._downloads._running == 0)


async def test_too_many_downloads_are_asked_to_come_again(registry: Registry, tmp_path: Path) -> None:
    publish(registry, "demo", tmp_path / "model")
    registry.app._downloads._running = MAX_DOWNLOADS
    url = f"/v2/demo/blobs/{format_oci_digest(registry.weights('demo').digest)}"
    is_error(await registry.get(url), 429, "TOOMANYREQUESTS")
    registry.app._downloads._running = 0
    assert (await registry.get(url)).status_code == 200


async def test_switched_off_there_is_no_registry(registry: Registry, tmp_path: Path) -> None:
    publish(registry, "demo", tmp_path / "model")
    registry.open = False
    for path in ("/v2/", "/v2/_catalog", "/v2/demo/manifests/latest"):
        assert (await registry.get(path)).status_code == 404


async def test_no_name_or_digest_of_a_model_reaches_the_log(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "tilenode.registry")
    publish(registry, "canary-name", tmp_path / "model")
    await registry.get("/v2/canary-name/manifests/other-canary")
    await registry.get("/v2/other-canary/tags/list")
    said: list[Any] = [vars(record) for record in caplog.records]
    assert said
    assert "canary" not in str(said)


async def until(holds: Callable[[], bool]) -> None:
    """Return once it holds; what is awaited happens in other threads, which tell nobody."""
    while not holds():
        await trio.sleep(0.01)


async def test_the_longest_page_is_bounded(registry: Registry, tmp_path: Path) -> None:
    publish(registry, "demo", tmp_path / "model")
    assert (await registry.get(f"/v2/_catalog?n={MAX_PAGE * 5}")).json() == {"repositories": ["library/demo"]}
