"""No second way to sign: the product's source is searched for whatever could make or check an Ed25519 signature."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for floor in ("identity", "protocol", "store", "node") for path in (ROOT / floor).rglob("*.py"))
# The one place that signs and verifies, and what else of PyNaCl is no signature.
SIGNING_MODULE = ROOT / "identity" / "keys.py"
SIGNING_IMPORTS = (
    "nacl.signing",
    "cryptography.hazmat.primitives.asymmetric",
    "fastecdsa",
    "securesystemslib",
    "ecdsa",
)
SIGNING_NAMES = ("crypto_sign", "SigningKey", "VerifyKey", "Ed25519PrivateKey", "Ed25519PublicKey")
# crypto_sign_ed25519_pk_to_curve25519 re-encodes a public key.
HARMLESS_NAMES = ("crypto_sign_ed25519_pk_to_curve25519",)
# The libp2p host signs its own handshakes with the device key; the messages begin with libp2p's own domains.
MAY_READ_THE_SEED = ("node/net/swarm.py", "node/net/transport.py")


def test_there_is_product_source_to_search() -> None:
    assert SIGNING_MODULE in SOURCES
    assert len(SOURCES) > 20


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_one_module_can_sign(path: Path) -> None:
    found = list(_signing_names(ast.parse(path.read_text())))
    if path == SIGNING_MODULE:
        assert found
    else:
        assert not found, f"{path} uses {found}; identity/keys.py is the only signing path"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_libp2p_host_reads_the_seed(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    reads = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and (_is_seed_of_a_key(node) or node.attr == "_signing_key")
    ]
    if not (path == SIGNING_MODULE or name in MAY_READ_THE_SEED):
        assert not reads, f"{name} reads a key's seed at lines {reads}"


def _signing_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Name):
            names = [node.id]
        elif isinstance(node, ast.Attribute):
            names = [node.attr]
        for name in names:
            last = name.rpartition(".")[2]
            if name.startswith(SIGNING_IMPORTS) or (last.startswith(SIGNING_NAMES) and last not in HARMLESS_NAMES):
                yield name


def _is_seed_of_a_key(node: ast.Attribute) -> bool:
    """`key.seed`, `self._device_key.seed`; samplers have seeds as well."""
    value = node.value
    owner = value.id if isinstance(value, ast.Name) else value.attr if isinstance(value, ast.Attribute) else ""
    return node.attr == "seed" and owner.endswith("key")
