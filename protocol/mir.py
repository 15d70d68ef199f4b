"""MIR names: what kind of model something is, wherever it is kept and whatever it is called there (specs/0020)."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from protocol.errors import MirInvalid

SCHEME: Final = "mir:"
ANY: Final = "*"
MAX_MIR_CHARS: Final = 256

DOMAINS: Final[Mapping[str, str]] = {
    "dev": "in training, under evaluation, not released",
    "model": "released weights",
    "ops": "algorithms, optimisations and procedures on models",
    "info": "facts about layers and settings",
}
ARCHITECTURES: Final[Mapping[str, str]] = {
    "aet": "autoencoding transformer",
    "art": "autoregressive transformer",
    "brnn": "bidirectional recurrent network",
    "cnn": "convolutional network",
    "controlnet": "conditioning network beside a diffusion model",
    "detr": "detection transformer",
    "dit": "diffusion transformer",
    "dpt": "dense prediction transformer",
    "embedding": "learned embedding",
    "encoder": "encoder, tokenizers among them",
    "gan": "generative adversarial network",
    "gru": "gated recurrent unit",
    "lora": "low-rank adapter",
    "lstm": "long short-term memory",
    "moe": "mixture of experts",
    "rbm": "restricted Boltzmann machine",
    "rcnn": "region-based convolutional network",
    "resnet": "residual network",
    "rnn": "recurrent network",
    "scheduler": "noise scheduler",
    "ssm": "state-space model",
    "stst": "sequence-to-sequence transformer",
    "tae": "tiny autoencoder",
    "transformer": "transformer of any kind",
    "unclassified": "none of the others",
    "unet": "diffusion network in U form",
    "vae": "variational autoencoder",
    "vit": "vision transformer",
}
# Words of earlier revisions of the schema, and what they are called now.
_RENAMED: Final[Mapping[str, str]] = {
    "operations": "ops",
    "aetm": "aet",
    "artm": "art",
    "ststm": "stst",
    "taesd": "tae",
    "mamba": "ssm",
    "xfmr": "transformer",
}
_LIBRARIES: Final = frozenset({"diffusers", "transformers", "mlx", "onnx", "gguf"})

_SEPARATORS: Final = re.compile(r"[ _-]+")
_SIZE: Final = re.compile(r"(?:[0-9]+x|a)?[0-9]+(?:\.[0-9]+)?[kmb]", re.ASCII)
_VERSION: Final = re.compile(r"([0-9]+)(?:\.[0-9]+)+", re.ASCII)
_SERIES: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*", re.ASCII)
_COMPATIBILITY: Final = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*", re.ASCII)
_PATTERN: Final = re.compile(r"[A-Za-z0-9._:*?/ -]+", re.ASCII)


@dataclass(frozen=True, order=True)
class Mir:
    """The four parts of a MIR name, normalised; `compatibility` is `*` where every variant of the series is meant."""

    domain: str
    architecture: str
    series: str
    compatibility: str

    def __str__(self) -> str:
        return format_mir(self)


def parse_mir(text: str) -> Mir:
    """Return the name that `text` spells, in the one form that compares equal to all its spellings.

    Case is folded; spaces and underscores become hyphens. The series loses the organisation before its last `/`,
    parameter counts (`7b`), everything of a version after its first number (`v1.2` is `v1`), and a library's name at
    its end.

    Raises:
        MirInvalid: it is not `mir:domain.architecture.series:compatibility`; the error names the part.
    """
    _check_length(text)
    if text[: len(SCHEME)].lower() != SCHEME:
        raise MirInvalid(text, 0, f"{SCHEME!r} at the beginning", _quote(text[:20]), None)
    body, colon, compatibility = text[len(SCHEME) :].partition(":")
    domain, _, rest = body.partition(".")
    architecture, _, series = rest.partition(".")
    at = len(SCHEME)
    domain_found = _known(text, at, domain, "domain", DOMAINS)
    at += len(domain) + 1
    architecture_found = _known(text, at, architecture, "architecture", ARCHITECTURES)
    at += len(architecture) + 1
    series_found = normalise_series(series)
    if not _SERIES.fullmatch(series_found):
        raise MirInvalid(text, min(at, len(text)), "a series (a-z, 0-9 and '-') third", _quote(series))
    at += len(series) + 1
    if not colon:
        raise MirInvalid(text, len(text), "':' and what it is compatible with ('*' for any)", "the end of the name")
    return Mir(domain_found, architecture_found, series_found, _compatibility(text, at, compatibility))


def format_mir(mir: Mir) -> str:
    """Return the spelling of `mir` that parses back to it."""
    return f"{SCHEME}{mir.domain}.{mir.architecture}.{mir.series}:{mir.compatibility}"


def read_mir(text: str | None) -> Mir | None:
    """Return the name in a manifest's annotation; None where there is none, or one that is not normalised."""
    if text is None:
        return None
    try:
        mir = parse_mir(text)
    except MirInvalid:
        return None  # another program's, or a later schema's; the model is none the worse for it
    return mir if format_mir(mir) == text else None


def normalise_series(text: str) -> str:
    """Return the series that a model's or repository's name stands for; "" where nothing is left of it."""
    before = None
    series = text.rpartition("/")[2].lower()
    while series != before:  # a dot that goes can make another parameter count or version
        before = series
        series = "-".join(_series_words(series))
    return series


def matches(mir: Mir, pattern: str) -> bool:
    """Return whether `pattern` finds `mir`.

    A pattern is a MIR name in which `mir:` and parts at the end may be missing and `*` and `?` stand for any
    characters: `model.art`, `*.lora`, `model.art.gpt*:mlx-q4`, `:flux-1`. A single word finds any part: `lora`.

    Raises:
        MirInvalid: characters that no MIR name has, an unknown domain, or too many parts.
    """
    domain, architecture, series, compatibility = _pattern_parts(pattern)
    parts = (mir.domain, mir.architecture, mir.series, mir.compatibility)
    if domain and not architecture and not series and not compatibility and domain not in DOMAINS:
        return any(fnmatchcase(part, domain) for part in parts)
    wanted = (domain, architecture, series, compatibility)
    return all(not want or fnmatchcase(part, want) for part, want in zip(parts, wanted, strict=True))


def check_pattern(pattern: str) -> None:
    """Accept what `matches` takes.

    Raises:
        MirInvalid: see `matches`.
    """
    _pattern_parts(pattern)


def _pattern_parts(pattern: str) -> tuple[str, str, str, str]:
    _check_length(pattern)
    if not _PATTERN.fullmatch(pattern):
        raise MirInvalid(pattern, 0, "letters, digits, '.', ':', '-', '*' and '?'", _quote(pattern))
    folded = _SEPARATORS.sub("-", pattern.strip().lower()).removeprefix(SCHEME)
    body, _, compatibility = folded.partition(":")
    domain, _, rest = body.partition(".")
    architecture, _, series = rest.partition(".")
    if rest and not _has_wildcard(domain) and domain:
        domain = _known(pattern, pattern.lower().find(domain), domain, "domain", DOMAINS)
    if series and not _has_wildcard(series):
        series = normalise_series(series)
    if ":" in compatibility:
        raise MirInvalid(pattern, pattern.rfind(":"), "one ':' after the series", "another one")
    return domain, _RENAMED.get(architecture, architecture), series, compatibility


def _has_wildcard(text: str) -> bool:
    return "*" in text or "?" in text


def _series_words(series: str) -> list[str]:
    words = [word for word in _SEPARATORS.split(series) if word and not _SIZE.fullmatch(word)]
    if len(words) > 1 and words[-1] in _LIBRARIES:
        words.pop()
    return [_VERSION.sub(r"\1", word).replace(".", "") for word in words]


def _compatibility(text: str, at: int, found: str) -> str:
    folded = _SEPARATORS.sub("-", found.lower())
    if folded != ANY and not _COMPATIBILITY.fullmatch(folded):
        raise MirInvalid(text, at, "what it is compatible with: a-z, 0-9, '-' and '.', or '*'", _quote(found))
    return folded


def _known(text: str, at: int, word: str, what: str, known: Iterable[str]) -> str:
    folded = _RENAMED.get(word.lower(), word.lower())
    names = list(known)
    if folded in names:
        return folded
    close = difflib.get_close_matches(folded[:40], names, n=1, cutoff=0.5)
    article = "an" if what[0] in "aeiou" else "a"
    raise MirInvalid(text, min(at, len(text)), f"{article} {what} ({', '.join(names)})", _quote(word), *close)


def _check_length(text: str) -> None:
    if len(text) > MAX_MIR_CHARS:
        raise MirInvalid(text, MAX_MIR_CHARS, f"at most {MAX_MIR_CHARS} characters", str(len(text)))


def _quote(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:39]}…") if text else "nothing"
