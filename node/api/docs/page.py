"""The page for people: every route of the document with its fields and a command to try; no script, no other asset."""

import html
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --dim: #888; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font: 14px/1.45 ui-monospace, monospace; }
pre { border: 1px solid var(--line); border-radius: 6px; padding: .6rem .8rem; overflow-x: auto; }
details { border-top: 1px solid var(--line); padding: .5rem 0; }
summary { cursor: pointer; }
summary b { display: inline-block; min-width: 4.5rem; }
table { border-collapse: collapse; width: 100%; }
td { border-top: 1px solid var(--line); padding: .2rem .6rem .2rem 0; vertical-align: top; }
.dim { color: var(--dim); }
"""
POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def write_page(document: Mapping[str, Any], url: str) -> str:
    """Return the page for `document`; `url` is where the API answers."""
    parts = [
        f"<p>{_text(document['info']['description'])} The same for programs: <a href=openapi.json>openapi.json</a>."
    ]
    for tag in document["tags"]:
        told = list(_operations(document, tag["name"], url))
        if told:
            parts += [f"<h2>{_text(tag['description'])}</h2>", *told]
    title = f"{document['info']['title']} {document['info']['version']}"
    return (
        f'<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style><body><h1>{_text(title)}</h1>{''.join(parts)}</body></html>"
    )


def _operations(document: Mapping[str, Any], tag: str, url: str) -> Iterator[str]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if tag in operation["tags"]:
                yield _operation(document, path, method.upper(), operation, url)


def _operation(document: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any], url: str) -> str:
    words = f"<b>{method}</b> <code>{_text(path)}</code> <span class=dim>{_text(operation['summary'])}</span>"
    note = f"<p>{_text(operation['description'])}" if "description" in operation else ""
    content = operation.get("requestBody", {}).get("content", {})
    rows = "".join(_parameter(parameter) for parameter in operation["parameters"])
    for media in content.values():
        rows += "".join(_fields(document, media["schema"]))
    table = f"<table>{rows}</table>" if rows else ""
    parts = (f"<summary>{words}</summary>", note, table, _example(path, method, content, url), _answers(operation))
    return f"<details>{''.join(parts)}</details>"


def _parameter(parameter: Mapping[str, Any]) -> str:
    return _row(parameter["name"], _kind(parameter["schema"]), parameter["description"], parameter["required"])


def _fields(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    target = _resolved(document, schema)
    for name, field in target.get("properties", {}).items():
        yield _row(name, _kind(field), field.get("description", ""), name in target.get("required", ()))


def _row(name: str, kind: str, meaning: str, required: bool) -> str:
    needed = " <span class=dim>required</span>" if required else ""
    return f"<tr><td><code>{_text(name)}</code>{needed}<td><code>{_text(kind)}</code><td>{_text(meaning)}"


def _example(path: str, method: str, content: Mapping[str, Any], url: str) -> str:
    words = [f"curl {url}{path}" if method == "GET" else f"curl -X {method} {url}{path}"]
    if "application/octet-stream" in content:
        words.append("-H 'Content-Type: application/octet-stream' --data-binary @FILE")
    elif content:
        example = content["application/json"].get("example")
        if example is None:
            return ""
        words.append(f"-H 'Content-Type: application/json' -d '{json.dumps(example, ensure_ascii=False)}'")
    return f"<pre>{_text(' '.join(words))}</pre>"


def _answers(operation: Mapping[str, Any]) -> str:
    told = (
        f"<tr><td>{_text(status)}<td>{_text(answer['description'])}<td><code>"
        f"{_text(', '.join(answer.get('content', {})))}</code>"
        for status, answer in operation["responses"].items()
    )
    return f"<table>{''.join(told)}</table>"


def _kind(schema: Mapping[str, Any]) -> str:
    """Return a schema in a few words, for a table."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "const" in schema or "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return " | ".join(kind for each in schema["anyOf"] if (kind := _kind(each)) != "null")
    if schema.get("type") == "array":
        return f"[{_kind(schema.get('items', {}))}]"
    return str(schema.get("type", "any"))


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in schema:
        return schema
    found: Mapping[str, Any] = document["components"]["schemas"][str(schema["$ref"]).rpartition("/")[2]]
    return found


def _text(value: object) -> str:
    return html.escape(str(value))
