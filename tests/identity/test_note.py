import json
from pathlib import Path
from typing import Any

import pytest

from identity import errors
from identity.errors import NoteInvalid, UnsignableMessage, VerifierKeyInvalid
from identity.note import (
    format_verifier_key,
    open_note,
    parse_verifier_key,
    sign_note,
    verifier_key_of,
)
from identity.testing import key_from_number

VECTORS = Path(__file__).parents[2] / "specs" / "vectors" / "0002-signed-note-and-checkpoint"
NOTES = json.loads((VECTORS / "notes.json").read_text())
KEYS = json.loads((VECTORS / "verifier-keys.json").read_text())
KEY = key_from_number(1)


@pytest.mark.parametrize("case", NOTES, ids=lambda case: case["comment"][:50])
def test_note_vectors(case: dict[str, Any]) -> None:
    known = [parse_verifier_key(key) for key in case["input"]["known"]]
    note = case["input"]["note"].encode()
    if case["expect"] == "ok":
        opened = open_note(note, known)
        assert opened.text == case["output"]["text"]
        assert list(opened.signers) == known
    else:
        with pytest.raises(errors.IdentityError) as caught:
            open_note(note, known)
        assert type(caught.value).__name__ == case["expect"]


@pytest.mark.parametrize("case", KEYS, ids=lambda case: case["comment"][:50])
def test_verifier_key_vectors(case: dict[str, Any]) -> None:
    text = case["input"]["key"]
    if case["expect"] == "ok":
        assert format_verifier_key(parse_verifier_key(text)) == text
    else:
        with pytest.raises(VerifierKeyInvalid):
            parse_verifier_key(text)


def test_what_is_signed_opens_under_the_device_key() -> None:
    text = f"{KEY.did}\nany text\nwith — characters\n"
    note = sign_note(text, KEY)
    opened = open_note(note, [verifier_key_of(KEY.did)])
    assert opened.text == text
    assert opened.signers == (verifier_key_of(KEY.did),)


def test_a_device_signs_only_notes_that_begin_with_its_name() -> None:
    with pytest.raises(UnsignableMessage):
        sign_note("example.com/log\n0\n", KEY)


@pytest.mark.parametrize("text", ["", "no newline", f"{KEY.did}\n\ttab\n", f"{KEY.did}\r\n"])
def test_a_text_that_is_none_is_not_signed(text: str) -> None:
    with pytest.raises(NoteInvalid):
        sign_note(text, KEY)


def test_the_size_is_capped_and_bytes_must_be_text() -> None:
    note = sign_note(f"{KEY.did}\n{'x' * 100}\n", KEY)
    with pytest.raises(NoteInvalid):
        open_note(note, [verifier_key_of(KEY.did)], max_bytes=len(note) - 1)
    open_note(note, [verifier_key_of(KEY.did)], max_bytes=len(note))
    with pytest.raises(NoteInvalid):
        open_note(b"\xff" + note, [verifier_key_of(KEY.did)])
