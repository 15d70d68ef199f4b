"""The description of the registry, which answers before any other route while it is switched on."""

from typing import Any, Final

from node.api.docs.operation import Answer, Operation, Operations, in_path

_REGISTRY_JSON: Final = "application/json"
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_BYTES: Final = "application/octet-stream"
_OBJECT: Final[dict[str, Any]] = {"type": "object"}
_FILE: Final[dict[str, Any]] = {"type": "string", "format": "binary"}
_REPOSITORY: Final = in_path("repository", "a model's name, such as library/demo")


def _read(summary: str, kind: str, schema: Any, *parameters: Any) -> Operation:
    return Operation(summary, {200: Answer("here it is", {kind: schema})}, _OBJECT, parameters=parameters)


REGISTRY: Final[Operations] = {
    ("/v2/", "GET"): _read("whether this is a registry", _REGISTRY_JSON, _OBJECT),
    ("/v2/_catalog", "GET"): _read("list the repositories", _REGISTRY_JSON, _OBJECT),
    ("/v2/{repository}/tags/list", "GET"): _read("list a model's tags", _REGISTRY_JSON, _OBJECT, _REPOSITORY),
    ("/v2/{repository}/manifests/{reference}", "GET"): _read(
        "fetch a manifest", _MANIFEST, _OBJECT, _REPOSITORY, in_path("reference", "a tag or a digest")
    ),
    ("/v2/{repository}/blobs/{digest}", "GET"): _read(
        "fetch a file or a part of it", _BYTES, _FILE, _REPOSITORY, in_path("digest", "sha256: and 64 hex characters")
    ),
    ("/v2/{repository}/referrers/{digest}", "GET"): _read(
        "list what refers to a manifest", _REGISTRY_JSON, _OBJECT, _REPOSITORY, in_path("digest", "that of a manifest")
    ),
}
