"""A ledger's place, an empty ledger, and a key that seals."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dp.ledger.ledger import Budget, HeadSigner, Ledger


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger.create(path, Budget(epsilon=8, delta=1e-5)) as made:
        yield made


@pytest.fixture
def seal() -> HeadSigner:
    key = Ed25519PrivateKey.generate()

    def verify(message: bytes, signature: bytes) -> bool:
        try:
            key.public_key().verify(signature, message)
        except InvalidSignature:
            return False
        return True

    return HeadSigner(sign=key.sign, verify=verify)
