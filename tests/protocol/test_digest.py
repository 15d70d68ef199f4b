"""Digests and model names refuse everything that could become a path."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.digest import digest_of, format_oci_digest, parse_digest, short_digest
from protocol.errors import DigestInvalid, ModelNameInvalid
from protocol.model_name import ModelName, format_model_name, parse_model_name
from protocol.text import clean_name


def test_digest_is_the_sha256_of_the_content() -> None:
    assert digest_of(b"tile") == hashlib.sha256(b"tile").hexdigest()
    assert parse_digest(format_oci_digest(digest_of(b""))) == digest_of(b"")
    assert short_digest(digest_of(b"")) == "e3b0c44298fc"


@pytest.mark.parametrize(
    "text", ["", "../x", "A" * 64, "sha512:" + "0" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n", "٠" * 64]
)
def test_what_is_not_64_lower_case_hex_is_refused(text: str) -> None:
    with pytest.raises(DigestInvalid):
        parse_digest(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("demo", ModelName("local", "library", "demo", "latest")),
        ("Demo:V2", ModelName("local", "library", "demo", "v2")),
        ("ann/demo", ModelName("local", "ann", "demo", "latest")),
        ("example.org/ann/demo:q4", ModelName("example.org", "ann", "demo", "q4")),
    ],
)
def test_names_fill_in_what_is_not_written(text: str, name: ModelName) -> None:
    assert parse_model_name(text) == name
    assert parse_model_name(format_model_name(name)) == name


@pytest.mark.parametrize(
    "text", ["", ":", "a:", "../x", "a/../b", "a//b", "/a", "a/b/c/d", "a b", "a\0", ".a", "a" * 81, "a:b:c"]
)
def test_names_that_could_be_paths_are_refused(text: str) -> None:
    with pytest.raises(ModelNameInvalid):
        parse_model_name(text)


@given(st.text())
def test_any_text_is_a_name_or_the_named_error(text: str) -> None:
    try:
        name = parse_model_name(text)
    except ModelNameInvalid:
        return
    assert all(
        part not in ("", ".", "..") and "/" not in part for part in (name.host, name.namespace, name.name, name.tag)
    )


@given(st.text())
def test_shown_text_holds_no_control_or_bidi_character(text: str) -> None:
    assert "\u202e" not in clean_name(text + "\u202e")
    assert "\x1b" not in clean_name(text + "\x1b")
    assert 1 <= len(clean_name(text)) <= 64
