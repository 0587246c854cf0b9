"""What a session asks of its arithmetic; two give it, by coefficients and by SEAL.

Work is a callable that is handed one ciphertext after another with its index, in this process
or in others, ``chunks=pool.map``. It is pickled *with its key*, on purpose and nowhere
else: workers run on the machine of the party whose key it is.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocols.ckks.params import VERSION, Agreement
from protocols.entropy import Entropy
from protocols.secrets import Secret
from protocols.wire import ClientId, u32

Values: TypeAlias = NDArray[np.float64] | NDArray[np.uint64]
Encrypt: TypeAlias = Callable[[tuple[int, Values]], bytes]
Part: TypeAlias = Callable[[tuple[int, bytes]], bytes]
Open: TypeAlias = Callable[[tuple[int, bytes]], Values]


class Sums(ABC):
    """Ciphertexts of all chunks, added up, and then their partial decryptions.

    What is read was checked, and changes nothing until it is added.
    """

    @abstractmethod
    def read(self, index: int, ciphertext: memoryview) -> Any:
        """One ciphertext of a client; ``DecodeError`` for one that is none or hides nothing."""

    @abstractmethod
    def add(self, index: int, read: Any) -> None: ...

    @abstractmethod
    def second(self, index: int) -> bytes:
        """c1 of the sum, packed, for the holders; then it is forgotten."""

    @abstractmethod
    def shared(self, index: int) -> bytes:
        """The sum, packed, for those with the shared key."""

    @abstractmethod
    def read_part(self, index: int, part: memoryview) -> Any:
        """A partial decryption; ``DecodeError`` for one that is none."""

    @abstractmethod
    def add_part(self, index: int, read: Any) -> None: ...

    @abstractmethod
    def values(self, index: int) -> Values:
        """What the sum opened to; then it is forgotten.

        Raises:
          RemoteProtocolError: a key, an upload or a partial decryption was wrong.
        """


class Arithmetic(ABC):
    """Keys and ciphertexts of one session.

    Args:
      agreement: of any round of the session; labels and parameters are the session's.
    """

    KIND: ClassVar[type[np.uint64] | type[np.float64]]  # of an entry of a sum

    def __init__(self, agreement: Agreement) -> None:
        self.agreement, self.params = agreement, agreement.params

    # --- the key of all holders ---

    @abstractmethod
    def public_share(self, holder: ClientId, seed: Secret, own: Secret) -> bytes:
        """b_i, packed. One a key: the mean of many tells the secret.

        Args:
          seed: of the secret s_i.
          own: of the error, where it is not drawn by SEAL.
        """

    @abstractmethod
    def check_share(self, share: bytes) -> None:
        """``DecodeError`` unless it is a polynomial, or as many as agreed."""

    @abstractmethod
    def total(self, shares: Mapping[ClientId, bytes]) -> bytes:
        """The sum of all b_i, packed."""

    @abstractmethod
    def explains(self, holder: ClientId, seed: Secret, share: bytes) -> bool:
        """Whether b_i is of the secret that ``seed`` stands for, but for an error of 21."""

    @abstractmethod
    def encrypt_for_all(
        self, agreement: Agreement, me: ClientId, total: bytes, entropy: Entropy
    ) -> Encrypt:
        """Work: (index, values) to a ciphertext that all holders together open."""

    @abstractmethod
    def check_second(self, index: int, second: bytes) -> None:
        """``DecodeError`` unless c1 of a sum is a polynomial and hides what it comes with."""

    @abstractmethod
    def part(self, holder: ClientId, seed: Secret, noise: Secret | None, about: bytes) -> Part:
        """Work: (index, c1) to c1 s_i + noise, both packed.

        Args:
          noise: 32 bytes that are the holder's own, and never shared. None: the key is no secret
            any more, nothing is hidden.
          about: label of the noise; it says which ciphertext it is for.
        """

    # --- the key of all clients ---

    @abstractmethod
    def encrypt_shared(
        self, agreement: Agreement, me: ClientId, secret: Secret, entropy: Entropy
    ) -> Encrypt:
        """Work: (index, values) to a ciphertext that opens by the clients' common secret."""

    @abstractmethod
    def open_shared(
        self, agreement: Agreement, secret: Secret, summands: Mapping[ClientId, bytes], sums: bytes
    ) -> Open:
        """Work: (index, packed ciphertext of the sum) to values, flooded if agreed.

        The noise is a function of the key and of c1: every client adds the same, and the mean
        of their results says no more than one of them.

        Args:
          summands: by client, the seed of its upload, or under SEAL the upload's digest.
          sums: the packed ciphertexts of all chunks.
        """

    # --- the server ---

    @abstractmethod
    def sums(self) -> Sums:
        """Sums of nothing yet."""

    @abstractmethod
    def finish(self, values: Values, survivors: int) -> Values:
        """The entries of a sum, chunk after chunk.

        Raises:
          RemoteProtocolError: one is larger than so many summands can make it.
        """


def label_of(agreement: Agreement, usage: bytes, me: ClientId, index: int) -> bytes:
    """Label of what one ciphertext of one client draws in one round."""
    return agreement.label(usage, u32(agreement.round) + u32(me) + u32(index))


def common_seed(agreement: Agreement) -> bytes:
    """The seed of a, bound to session and parameters, chosen by nobody."""
    return hashlib.sha256(VERSION + b" common " + agreement.key_context()).digest()


def holder_label(agreement: Agreement, holder: ClientId) -> bytes:
    """Label of a holder's secret polynomials."""
    return agreement.label(b"holder", u32(holder))
