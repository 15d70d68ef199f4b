"""What a body of the native API's `POST /api/create` asks to be built: a recipe, and the files that it names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import Field

from node.api.errors import BodyInvalid
from node.api.schemas import _Native
from protocol.digest import Digest, parse_digest
from protocol.errors import DigestInvalid, LayerPathInvalid
from protocol.layer_path import check_layer_path
from protocol.modelfile import ROLES, Modelfile
from protocol.parameters import MAX_STOPS, PARAMETERS, Parameter, Value
from protocol.quantization import Quantization

# What a recipe calls the files that came as blobs.
FILES: Final = "./files"
ADAPTERS: Final = "./adapters"
MAX_FILES: Final = 4096
_PATH_STARTS: Final = (".", "/", "~")
# The names that other programs have for packing weights, and ours for the packing that is like it.
_PACKINGS: Final = {
    **{str(known): known for known in Quantization},
    **dict.fromkeys(("f16", "float16"), Quantization.FP16),
    **dict.fromkeys(("q8_0", "q8"), Quantization.INT8),
    **dict.fromkeys(("q4_0", "q4_1", "q4_k_m", "q4_k_s", "q4"), Quantization.INT4),
}


class CreateMessage(_Native):
    """One line of the conversation that every chat with the model begins with."""

    role: str
    content: str


class CreateBody(_Native):
    """`POST /api/create`; `name` is what older clients send. `files` and `adapters` name blobs by digest."""

    model: str = ""
    name: str = ""
    from_: str = Field(default="", alias="from")
    files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    draft: str | None = None
    template: str | None = None
    license: str | list[str] | None = None
    system: str | None = None
    parameters: dict[str, Any] | None = None
    messages: list[CreateMessage] | None = None
    quantize: str | None = None
    quantization: str | None = None
    stream: bool | None = None


@dataclass(frozen=True)
class Wanted:
    """A model that somebody wants made: its name, its recipe, and which blobs the recipe's own names stand for."""

    name: str
    recipe: Modelfile
    quantization: Quantization
    blobs: Mapping[str, Mapping[str, Digest]]


def read_wanted(body: CreateBody) -> Wanted:
    """Return what `body` asks for.

    Raises:
        BodyInvalid: a field is missing, or not what it may be.
    """
    name = body.model or body.name
    if not name:
        raise BodyInvalid("model is required", "model")
    if bool(body.from_) == bool(body.files):
        raise BodyInvalid("neither 'from' or 'files' was specified" if not body.from_ else "give from or files", "from")
    if body.from_.startswith(_PATH_STARTS):
        raise BodyInvalid("from: expected the name of a model; files are sent as blobs and named in files", "from")
    if body.draft and body.draft.startswith(_PATH_STARTS):
        raise BodyInvalid("draft: expected the name of a model", "draft")
    licenses = [body.license] if isinstance(body.license, str) else body.license or []
    recipe = Modelfile(
        base=body.from_ or FILES,
        parameters=tuple(_parameters(body.parameters or {})),
        template=body.template or None,
        system=body.system or None,
        adapter=ADAPTERS if body.adapters else None,
        draft=body.draft or None,
        licenses=tuple(text for text in licenses if text),
        messages=tuple(_messages(body.messages or [])),
    )
    blobs = {FILES: _blobs("files", body.files or {}), ADAPTERS: _blobs("adapters", body.adapters or {})}
    return Wanted(name, recipe, _quantization(body.quantize or body.quantization), blobs)


def _parameters(given: Mapping[str, Any]) -> list[tuple[str, Value]]:
    found: list[tuple[str, Value]] = []
    for name, value in given.items():
        known = PARAMETERS.get(name.lower())
        where = f"parameters.{name[:40]}"
        if known is None:
            raise BodyInvalid(f"{where}: expected one of {', '.join(PARAMETERS)}", where)
        values = value if isinstance(value, list) and known.kind is str else [value]
        if len(values) > MAX_STOPS:
            raise BodyInvalid(f"{where}: at most {MAX_STOPS}", where)
        found += [(name.lower(), _parameter(where, known, each)) for each in values]
    return found


def _parameter(where: str, known: Parameter, value: object) -> Value:
    if known.kind is str:
        if isinstance(value, str) and known.takes(value):
            return value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        # JSON knows one kind of number, and clients send 40.0 for 40.
        whole = isinstance(value, float) and value.is_integer() and known.kind is int
        number = known.read(repr(int(value)) if whole else repr(value))
        if number is not None:
            return number
    raise BodyInvalid(f"{where}: got {str(value)[:40]!r}, expected {known.expected}", where)


def _messages(given: list[CreateMessage]) -> list[tuple[str, str]]:
    for index, message in enumerate(given):
        if message.role not in ROLES:
            where = f"messages.{index}.role"
            raise BodyInvalid(f"{where}: got {message.role[:40]!r}, expected one of {', '.join(ROLES)}", where)
    return [(message.role, message.content) for message in given]


def _blobs(field: str, given: Mapping[str, str]) -> dict[str, Digest]:
    if len(given) > MAX_FILES:
        raise BodyInvalid(f"{field}: {len(given)} files, at most {MAX_FILES}", field)
    found = {}
    for path, digest in given.items():
        try:
            check_layer_path(path)
            found[path] = parse_digest(digest)
        except LayerPathInvalid as error:
            raise BodyInvalid(f"{field}: {path[:80]!r}: {error.reason}", field) from None
        except DigestInvalid:
            raise BodyInvalid(f"{field}: {path[:80]!r}: invalid digest format: {digest[:80]!r}", field) from None
    return found


def _quantization(name: str | None) -> Quantization:
    if not name:
        return Quantization.NONE
    found = _PACKINGS.get(name.lower())
    if found is None:
        raise BodyInvalid(f"quantize: got {name[:40]!r}, expected one of {', '.join(Quantization)}", "quantize")
    return found
