"""Answers of the registry that are sent whole: JSON, manifests, and errors in the form of the OCI specification."""

import json
from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response

from node.api.errors import ApiRefused, RegistryRefused
from protocol.digest import Digest, format_oci_digest
from protocol.errors import ChunkMapInvalid, ManifestInvalid, RangeUnsatisfiable, RouteInvalid
from protocol.manifest import MANIFEST_MEDIA_TYPE
from store.errors import BlobMissing, BlobTooLarge, ChunkCorrupt, LayerCorrupt

# Clients of the first registries ask for it.
VERSION_HEADER: Final = {"docker-distribution-api-version": "registry/2.0"}
_UNKNOWN: Final = frozenset({"MANIFEST_UNKNOWN", "UNSUPPORTED"})


def answer_json(
    content: object, headers: Mapping[str, str] | None = None, media_type: str = "application/json"
) -> Response:
    """Return an answer with JSON, or with `content` as it stands where it is bytes already."""
    body = content if isinstance(content, bytes) else json.dumps(content, separators=(",", ":")).encode()
    return Response(body, media_type=media_type, headers={**VERSION_HEADER, **(headers or {})})


def answer_manifest(digest: Digest, content: bytes, if_none_match: str | None) -> Response:
    """Return an answer with a manifest, or 304 where the client says that it has it."""
    headers = {**VERSION_HEADER, **content_headers(digest)}
    if is_known(digest, if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(content, headers={**headers, "content-type": MANIFEST_MEDIA_TYPE})


def content_headers(digest: Digest) -> dict[str, str]:
    """Return the headers that name content by its digest."""
    named = format_oci_digest(digest)
    return {"docker-content-digest": named, "etag": f'"{named}"'}


def is_known(digest: Digest, if_none_match: str | None) -> bool:
    """Return whether the header `If-None-Match` names this content."""
    named = format_oci_digest(digest)
    tags = [tag.strip().removeprefix("W/").strip('"') for tag in (if_none_match or "").split(",")]
    return named in tags or "*" in tags


def answer_error(error: BaseException) -> Response:
    """Return `error` as `{"errors": [{code, message, detail}]}` with the status that fits it."""
    status, code, detail, headers = 500, "UNKNOWN", {}, {}
    match error:
        case RegistryRefused():
            status, code, detail = error.status, error.code, error.detail
        case RouteInvalid():
            status, code = (404 if error.code in _UNKNOWN else 400), error.code
        case RangeUnsatisfiable():
            status, code, headers = 416, "RANGE_INVALID", {"content-range": f"bytes */{error.size}"}
        case ApiRefused():
            status, code = error.status, "DENIED"
        case BlobMissing() | BlobTooLarge() | LayerCorrupt() | ChunkCorrupt() | ChunkMapInvalid() | ManifestInvalid():
            status, code = 404, "BLOB_UNKNOWN"
    if status == 405:
        headers = {"allow": "GET, HEAD"}
    if status == 401:
        headers = {"www-authenticate": 'Basic realm="tilenode"'}
    # What went wrong inside is for the log and the person at this machine, not for who asks.
    message = str(error) if status != 500 else "this registry could not answer"
    told: dict[str, Any] = {"errors": [{"code": code, "message": message, "detail": detail}]}
    answer = answer_json(told, headers)
    answer.status_code = status
    return answer
