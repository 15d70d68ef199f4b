"""Hostile checkpoints, entries, evidence, envelopes, statements and bundles: only named errors may escape, and what
is accepted is what was made."""

from hypothesis import given
from hypothesis import strategies as st

from identity.testing import key_from_number
from protocol.attestation import parse_statement
from protocol.checkpoint import open_checkpoint
from protocol.dsse import open_envelope, sign_envelope
from protocol.errors import ProtocolError
from protocol.evidence import decode_and_check_evidence, encode_evidence, find_fork
from protocol.log_entry import decode_log_entry, encode_log_entry
from protocol.provenance import decode_and_verify_provenance
from protocol.testing import MemoryLog, publish_in_memory, small_manifest, statements_for

KEY = key_from_number(1)
LOG = MemoryLog(KEY, [b"%d" % number for number in range(9)])
FORKED = MemoryLog(KEY, [b"x", *LOG.entries[1:]])
BUNDLE = publish_in_memory(LOG, "demo:v1", small_manifest())
STATEMENT, _ = statements_for(KEY, "demo:v1", small_manifest())["build"]
ENVELOPE = sign_envelope(KEY, STATEMENT)
NOTE = LOG.checkpoint()
FORK = find_fork(KEY.did, LOG.checkpoint(7), FORKED.checkpoint(9), FORKED.consistency(7, 9))
assert FORK is not None
EVIDENCE = encode_evidence(FORK)
ENTRY = LOG.entries[-1]


@st.composite
def mutations(draw: st.DrawFn, good: bytes) -> bytes:
    """A valid input with some bytes replaced, cut out or put in; never the input itself."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(data)


@given(st.one_of(mutations(BUNDLE), st.binary(max_size=200)))
def test_bundles(data: bytes) -> None:
    try:
        decode_and_verify_provenance(data)
    except ProtocolError:
        return
    assert data == BUNDLE


@given(st.one_of(mutations(EVIDENCE), st.binary(max_size=200)))
def test_evidence(data: bytes) -> None:
    try:
        assert encode_evidence(decode_and_check_evidence(data)) == data
    except ProtocolError:
        return


@given(st.one_of(mutations(ENVELOPE), st.binary(max_size=200)))
def test_envelopes(data: bytes) -> None:
    try:
        open_envelope(data, KEY.did)
    except ProtocolError:
        return
    assert data == ENVELOPE


@given(st.one_of(mutations(STATEMENT), st.binary(max_size=200), st.text(max_size=50).map(str.encode)))
def test_statements(data: bytes) -> None:
    try:
        parse_statement(data, "build")
    except ProtocolError:
        return


@given(st.one_of(mutations(ENTRY), st.binary(max_size=140)))
def test_entries(data: bytes) -> None:
    try:
        assert encode_log_entry(decode_log_entry(data)) == data
    except ProtocolError:
        return


@given(st.one_of(mutations(NOTE), st.binary(max_size=200)))
def test_checkpoints(data: bytes) -> None:
    try:
        checkpoint = open_checkpoint(data, KEY.did)
    except ProtocolError:
        return
    assert (checkpoint.size, checkpoint.root) == (11, LOG.root())
