"""ModelSpec.yaml: a recipe for people who keep many, one value to a key (specs/0019)."""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from protocol.errors import ModelNameInvalid, ModelSpecInvalid, RevisionUnpinned
from protocol.model_name import ModelName, parse_model_name
from protocol.modelfile import Modelfile
from protocol.parameters import MAX_STOPS, PARAMETERS, Value
from protocol.quantization import Quantization
from protocol.yaml_tree import Items, Node, Place, Table, Text, parse_yaml_tree

FORMATS: Final = ("mlx", "safetensors")
KEYS: Final = (
    "name", "version", "base", "format", "quantization", "tokenizer", "draft", "prompt_template", "defaults",
    "system_prompt", "license",
)  # fmt: skip
BASE_KEYS: Final = ("hf_repo", "revision", "path")
HUB_PREFIX: Final = "hf:"
MAX_WORD_CHARS: Final = 4096

_PATH_STARTS: Final = (".", "/", "~")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}", re.ASCII)
_REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}", re.ASCII)
_REPO: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}", re.ASCII)
_UNPRINTABLE: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\xa0\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9._/@-]*", re.ASCII)
_ESCAPED: Final = re.compile(r"[^\x20-\x7e]")


@dataclass(frozen=True)
class ModelSpec:
    """What a ModelSpec.yaml says.

    Either `hf_repo` is set, with a `revision` or None for the newest, or `path`. `version` "" is no release.
    `defaults` are parameters as a Modelfile has them, the texts of `stop` after the numbers.
    `tokenizer` is a directory or a repository to take the tokenizer from, None for the base's own. `draft` is a small
    model that guesses what the large one says, in the words of a Modelfile's DRAFT.
    """

    name: str
    version: str = ""
    hf_repo: str | None = None
    revision: str | None = None
    path: str | None = None
    format: str = "mlx"
    quantization: Quantization = Quantization.NONE
    tokenizer: str | None = None
    draft: str | None = None
    prompt_template: str | None = None
    defaults: tuple[tuple[str, Value], ...] = ()
    system_prompt: str | None = None
    license: str | None = None


def parse_modelspec(text: str) -> ModelSpec:
    """Return the recipe that `text` holds; a byte order mark and CRLF line ends are accepted.

    Raises:
        ModelSpecInvalid: anything unknown, missing, of another type or given twice, with line and column.
        RevisionUnpinned: a release (`version`) of a repository without the 40-hex commit that it is built from.
    """
    root = parse_yaml_tree(text.removeprefix("\ufeff"))
    fields = _Fields(root, KEYS, "")
    base = _Fields(fields.required("base"), BASE_KEYS, "base.")
    if ("hf_repo" in base.nodes) == ("path" in base.nodes):
        _fail(base.place, "either hf_repo or path in base", "both" if "path" in base.nodes else "neither")
    if "path" in base.nodes and "revision" in base.nodes:
        _fail(base.nodes["revision"].place, "no revision beside a path", "one")
    spec = ModelSpec(
        name=fields.word("name", _read_name) or _fail(root.place, "name: and a model's name", "none"),
        version=fields.word("version", _read_version) or "",
        hf_repo=base.word("hf_repo", _read_repo),
        revision=base.word("revision", _read_revision),
        path=base.word("path", _read_path),
        format=fields.word("format", _choice(FORMATS)) or FORMATS[0],
        quantization=Quantization(fields.word("quantization", _choice(tuple(Quantization))) or Quantization.NONE),
        tokenizer=fields.word("tokenizer", _read_path),
        draft=fields.word("draft", _read_path),
        prompt_template=fields.text("prompt_template"),
        defaults=_read_defaults(fields.nodes["defaults"]) if "defaults" in fields.nodes else (),
        system_prompt=fields.text("system_prompt"),
        license=fields.text("license"),
    )
    _check_together(spec, fields, base)
    return spec


def format_modelspec(spec: ModelSpec) -> str:
    """Return the text that parses back to exactly `spec`.

    Raises:
        ModelSpecInvalid: a value that no ModelSpec.yaml can hold; the place is the one in the text that would have
            been returned.
    """
    lines = [f"name: {_format_text(spec.name)}"]
    lines += [f"version: {_format_text(spec.version)}"] if spec.version else []
    lines += ["base:"]
    for key in BASE_KEYS:
        if (value := getattr(spec, key)) is not None:
            lines.append(f"  {key}: {_format_text(value)}")
    lines += [f"format: {spec.format}", f"quantization: {spec.quantization}"]
    for key in ("tokenizer", "draft", "prompt_template", "system_prompt", "license"):
        if (value := getattr(spec, key)) is not None:
            lines.append(f"{key}: {_format_text(value)}")
    lines += _format_defaults(spec.defaults)
    text = "\n".join(lines) + "\n"
    if parse_modelspec(text) != spec:
        raise ModelSpecInvalid(1, 1, "values that a ModelSpec.yaml can hold", "others")
    return text


def spec_name(spec: ModelSpec) -> ModelName:
    """Return the name that the model gets: with the release where `version` is set."""
    name = parse_model_name(spec.name)
    return ModelName(name.host, name.namespace, name.name, name.tag, spec.version)


def spec_modelfile(spec: ModelSpec) -> Modelfile:
    """Return the Modelfile that says what `spec` says; quantization and tokenizer are no part of it."""
    return Modelfile(
        base=_base(spec),
        parameters=spec.defaults,
        template=spec.prompt_template,
        system=spec.system_prompt,
        draft=spec.draft,
        licenses=() if spec.license is None else (spec.license,),
    )


def _base(spec: ModelSpec) -> str:
    if spec.hf_repo is not None:
        repo = f"{HUB_PREFIX}{spec.hf_repo}"  # the prefix: a stored model or a directory may have the same name
        return f"{repo}@{spec.revision}" if spec.revision else repo
    path = spec.path or ""
    return path if path.startswith(_PATH_STARTS) else f"./{path}"


class _Fields:
    """The values of a table by key; an unknown key is an error."""

    def __init__(self, node: Node, known: tuple[str, ...], prefix: str) -> None:
        if not isinstance(node, Table):
            _fail(node.place, f"keys ({', '.join(known)})", _describe(node))
        self.place = node.place
        self.keys = {key.value: key.place for key, _ in node.entries}
        self.nodes = {key.value: value for key, value in node.entries}
        for name, place in self.keys.items():
            if name not in known:
                _fail(place, f"a key ({', '.join(known)})", _quote(name), _nearest(name, known))
        self._prefix = prefix

    def required(self, key: str) -> Node:
        return self.nodes[key] if key in self.nodes else _fail(self.place, f"{self._prefix}{key}:", "none")

    def text(self, key: str) -> str | None:
        """Return a text, None where the key is not there."""
        node = self.nodes.get(key)
        return None if node is None else _require_text(node).value

    def word(self, key: str, read: Callable[[Text], str]) -> str | None:
        """Return what `read` makes of a text of one line, None where the key is not there."""
        node = self.nodes.get(key)
        if node is None:
            return None
        text = _require_text(node)
        if not text.value or len(text.value) > MAX_WORD_CHARS or _UNPRINTABLE.search(text.value) or "\n" in text.value:
            _fail(
                text.place, f"{self._prefix}{key} on one line, at most {MAX_WORD_CHARS} characters", _quote(text.value)
            )
        return read(text)


def _read_name(text: Text) -> str:
    try:
        name = parse_model_name(text.value)
    except ModelNameInvalid as error:
        _fail(text.place, "a model's name", f"{_quote(text.value)}: {error.reason}")
    if name.version:
        _fail(text.place, "a name without '@': the release goes to version:", _quote(text.value))
    return text.value


def _read_version(text: Text) -> str:
    try:
        return parse_model_name(f"x@{text.value}").version
    except ModelNameInvalid:
        _fail(text.place, "a release of a-z, 0-9, '.', '_' and '-'", _quote(text.value))


def _read_repo(text: Text) -> str:
    if not _REPO.fullmatch(text.value):
        _fail(text.place, "a repository: organisation/name", _quote(text.value))
    return text.value


def _read_revision(text: Text) -> str:
    if not _REVISION.fullmatch(text.value) or ".." in text.value:
        _fail(text.place, "a revision: a commit of 40 hex characters, a tag or a branch", _quote(text.value))
    return text.value


def _read_path(text: Text) -> str:
    return text.value


def _choice(allowed: tuple[str, ...]) -> Callable[[Text], str]:
    def read(text: Text) -> str:
        if text.value not in allowed:
            _fail(text.place, f"one of {', '.join(allowed)}", _quote(text.value), _nearest(text.value, allowed))
        return text.value

    return read


def _check_together(spec: ModelSpec, fields: _Fields, base: _Fields) -> None:
    if spec.quantization is not Quantization.NONE and spec.format != "mlx":
        _fail(fields.nodes["quantization"].place, f"format: mlx for quantization {spec.quantization}", spec.format)
    if spec.version and spec.hf_repo and not _COMMIT.fullmatch(spec.revision or ""):
        place = base.nodes["revision"].place if spec.revision else base.keys["hf_repo"]
        found = _quote(spec.revision) if spec.revision else "none"
        raise RevisionUnpinned(
            place.line, place.column, f"revision: with a commit for the release {spec.version}", found
        )


def _read_defaults(node: Node) -> tuple[tuple[str, Value], ...]:
    fields = _Fields(node, tuple(PARAMETERS), "defaults.")
    values: list[tuple[str, Value]] = [
        (name, _read_number(name, value)) for name, value in fields.nodes.items() if name != "stop"
    ]
    if "stop" in fields.nodes:
        values += [("stop", text) for text in _read_stops(fields.nodes["stop"])]
    return tuple(values)


def _read_stops(node: Node) -> list[str]:
    if not isinstance(node, Items):
        return [_read_stop(node)]
    if len(node.values) > MAX_STOPS:
        _fail(node.place, f"at most {MAX_STOPS} texts", str(len(node.values)))
    return [_read_stop(item) for item in node.values]


def _read_stop(node: Node) -> str:
    text = _require_text(node)
    if not PARAMETERS["stop"].takes(text.value):
        _fail(text.place, PARAMETERS["stop"].expected, _quote(text.value))
    return text.value


def _read_number(name: str, node: Node) -> int | float:
    known = PARAMETERS[name]
    number = known.read(node.value) if isinstance(node, Text) and node.plain else None
    if number is None:
        _fail(node.place, known.expected, _describe(node))
    return number


def _require_text(node: Node) -> Text:
    if not isinstance(node, Text) or node.empty:
        _fail(node.place, "text", _describe(node))
    return node


def _describe(node: Node) -> str:
    match node:
        case Text():
            return "nothing" if node.empty else _quote(node.value)
        case Items():
            return "a list"
        case Table():
            return "keys and values"


def _fail(place: Place, expected: str, found: str, nearest: str | None = None) -> NoReturn:
    raise ModelSpecInvalid(place.line, place.column, expected, found, nearest)


def _nearest(word: str, known: Iterable[str]) -> str | None:
    close = difflib.get_close_matches(word[:40].lower(), list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def _quote(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:39]}…")


def _format_defaults(defaults: Iterable[tuple[str, Value]]) -> list[str]:
    numbers = {name: value for name, value in defaults if name != "stop"}
    stops = [str(value) for name, value in defaults if name == "stop"]
    lines = [f"  {name}: {value!r}" for name, value in numbers.items()]
    lines += ["  stop:", *(f"    - {_format_text(stop)}" for stop in stops)] if stops else []
    return ["defaults:", *lines] if lines else []


def _format_text(text: str) -> str:
    """Return a plain word where YAML cannot read it as anything else, otherwise a double-quoted text."""
    if _PLAIN.fullmatch(text) and text not in _WORDS_WITH_A_MEANING and len(text) <= 80:
        return text
    quoted = json.dumps(text, ensure_ascii=False)[1:-1]
    return f'"{_ESCAPED.sub(_escape, quoted)}"'


def _escape(match: "re.Match[str]") -> str:
    code = ord(match.group())
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


_WORDS_WITH_A_MEANING: Final[Mapping[str, None]] = dict.fromkeys(
    spelling for word in ("y", "n", "yes", "no", "true", "false", "on", "off", "null")
    for spelling in (word, word.upper(), word.capitalize())
)  # fmt: skip
