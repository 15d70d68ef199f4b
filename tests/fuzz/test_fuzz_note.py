"""Hostile notes, keys and vault files: only this package's named errors may escape."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from identity.did import did_of_peer_id, parse_did
from identity.errors import IdentityError
from identity.keychain import read_mark
from identity.note import format_verifier_key, open_note, parse_verifier_key, sign_note, verifier_key_of
from identity.secrets import decode_secrets, encode_secrets
from identity.testing import key_from_number, secrets_from_number
from identity.vault import VaultSecretStore

KEY = key_from_number(1)
KNOWN = [verifier_key_of(KEY.did)]
GOOD = sign_note(f"{KEY.did}\n1\nany\n", KEY)
SECRETS = encode_secrets(secrets_from_number(1)).encode()
PIECES = [
    b"\n",
    b"\n\n",
    "\u2014 ".encode(),
    KEY.did.encode(),
    b" ",
    b"AAAA",
    b"=",
    GOOD,
    GOOD.split(b"\n")[-2],
    b"\xff",
]


@st.composite
def mutations(draw: st.DrawFn, good: bytes) -> bytes:
    """A valid input with some bytes replaced, cut out or put in."""
    data = bytearray(good)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(data)


@given(
    st.one_of(mutations(GOOD), st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join), st.binary(max_size=200))
)
def test_notes(note: bytes) -> None:
    try:
        opened = open_note(note, KNOWN)
    except IdentityError:
        return
    # The key has signed one text.
    assert opened.text == f"{KEY.did}\n1\nany\n"


@given(st.one_of(mutations(format_verifier_key(KNOWN[0]).encode()), st.binary(max_size=100)))
def test_verifier_keys(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        assert format_verifier_key(parse_verifier_key(text)) == text
    except IdentityError:
        return


@given(st.one_of(mutations(KEY.did.encode()), st.binary(max_size=100)))
def test_names(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for parse in (parse_did, did_of_peer_id):
        try:
            parse(text)
        except IdentityError:
            continue


@given(st.one_of(mutations(SECRETS), st.binary(max_size=100)))
def test_secrets(data: bytes) -> None:
    try:
        decode_secrets(data.decode("utf-8", "replace"), "a test")
    except IdentityError:
        return


def never() -> bytes:
    return b""  # an empty passphrase is refused before the costly derivation


def test_vault_and_mark_files(tmp_path_factory: object) -> None:
    directory = Path(str(tmp_path_factory.mktemp("fuzz")))  # type: ignore[attr-defined]  # pytest's factory

    @given(st.one_of(mutations(b"tilenode vault\n\x01" + bytes(100)), mutations(b'{"id":"00","stored":true,"v":1}')))
    def check(content: bytes) -> None:
        for name in ("vault", "keychain"):
            (directory / name).write_bytes(content)
        for read in (VaultSecretStore(directory / "vault", never).load, lambda: read_mark(directory)):
            try:
                read()
            except IdentityError:
                continue

    check()
