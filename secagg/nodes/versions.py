"""Versions of one model in one sum: who trained on which, and what each update counts.

Where clients train at their own pace a sum may hold updates of several versions. A server that
hands one client a model of its own, and all others one on which their updates vanish, reads that
client's update off the correct sum (arXiv 2111.07380). So all clients agree on everybody's
version, as on everything public, and none opens a sum in which a version has fewer survivors
than ``minimum_same``.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Final, Self

from protocols.bonawitz import ClientId
from secagg.errors import InputError, RefusedError

DIGEST_SIZE: Final = 32  # bytes, SHA-256
LEAST_SAME: Final = 2  # of one alone the sum shows the update, where the others' vanish
MOST_VERSIONS: Final = 1000  # in one sum; there is nothing to choke on
LARGEST_FACTOR: Final = 2**16  # of a staleness weight: it takes room from a word


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """The version that each client of a sum trained on.

    Attributes:
      digests: number and digest of each version that is listed, ascending; the last is the
        newest, which the sum moves.
      clients: number and version of each client that may be in the sum, ascending.
      weights: what an update counts that is 0, 1, ... versions behind the newest, from 1 on and
        none above the first. What is further behind has no place in the sum.
      minimum_same: fewest survivors of one version, if it is in the sum at all.

    Raises:
      InputError: they contradict each other.
    """

    digests: tuple[tuple[int, bytes], ...]
    clients: tuple[tuple[ClientId, int], ...]
    weights: tuple[int, ...] = (1,)
    minimum_same: int
    _by_client: Mapping[ClientId, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        numbers = [number for number, _ in self.digests]
        named = [client for client, _ in self.clients]
        for what, found in (("digests", numbers), ("clients", named)):
            if not found or found != sorted(set(found)):
                raise InputError(f"{what} must be listed ascending, at least one")
        whole = [*numbers, *named, *self.weights, self.minimum_same]
        whole += [version for _, version in self.clients]
        if any(type(number) is not int or not 0 <= number < 2**63 for number in whole):
            raise InputError("versions, clients and their weights must be integers from 0")
        if len(numbers) > MOST_VERSIONS:
            raise InputError(f"{len(numbers)} versions are listed, at most {MOST_VERSIONS}")
        if any(len(digest) != DIGEST_SIZE for _, digest in self.digests):
            raise InputError(f"a version's digest must have {DIGEST_SIZE} bytes")
        if not (self.weights and min(self.weights) >= 1):
            raise InputError("weights of versions must be from 1 on, at least one")
        if self.weights[0] != max(self.weights) or self.weights[0] > LARGEST_FACTOR:
            raise InputError(
                f"weights of versions must have their largest first, at most {LARGEST_FACTOR}"
            )
        if self.minimum_same < LEAST_SAME:
            raise InputError(f"minimum_same {self.minimum_same} must be at least {LEAST_SAME}")
        object.__setattr__(self, "_by_client", dict(self.clients))
        if unknown := sorted(set(self._by_client.values()) - set(numbers)):
            raise InputError(f"no digest is listed for version {unknown[0]}")
        if self.newest - min(numbers) >= len(self.weights):
            raise InputError(
                f"version {min(numbers)} is {self.newest - min(numbers)} behind the newest, and "
                f"weights are said up to {len(self.weights) - 1}"
            )
        self._check(self._by_client, InputError)

    @property
    def newest(self) -> int:
        return self.digests[-1][0]

    @property
    def model_digest(self) -> bytes:
        """The digest of the newest."""
        return self.digests[-1][1]

    @property
    def stalest(self) -> int:
        """How far behind the newest a client's version is, at most."""
        return self.newest - min(self._by_client.values())

    def digest_of(self, client: ClientId) -> bytes:
        """The digest of what ``client`` trained on.

        Raises:
          RefusedError: it is not named.
        """
        if client not in self._by_client:
            raise RefusedError(f"client {client} is named no version of the model")
        return dict(self.digests)[self._by_client[client]]

    def weight_of(self, client: ClientId) -> int:
        """What an update of ``client`` counts."""
        return self.weights[self.newest - self._by_client[client]]

    def total(self, clients: Iterable[ClientId]) -> float:
        """What the updates of ``clients`` count together, where one of the newest counts 1."""
        return sum(map(self.weight_of, clients)) / self.weights[0]

    def check_survivors(self, alive: Set[ClientId]) -> None:
        """Refuse a sum in which somebody is hidden among too few of the same version.

        Raises:
          RefusedError: a stranger is named, or a version has too few.
        """
        if strangers := sorted(alive - self._by_client.keys()):
            raise RefusedError(f"client {strangers[0]} is named no version of the model")
        self._check(alive, RefusedError)

    def _check(self, clients: Iterable[ClientId], error: type[Exception]) -> None:
        for version, count in Counter(self._by_client[client] for client in clients).items():
            if count < self.minimum_same:
                raise error(
                    f"{count} clients would be in the sum with version {version} of the model, "
                    f"minimum_same is {self.minimum_same}"
                )

    def as_json(self) -> dict[str, Any]:
        return {
            "digests": [[number, digest.hex()] for number, digest in self.digests],
            "clients": self.clients,
            "weights": self.weights,
            "minimum_same": self.minimum_same,
        }

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Self:
        """Inverse of :meth:`as_json`; whoever reads checks that it encodes to the same."""
        return cls(
            digests=tuple((number, bytes.fromhex(digest)) for number, digest in said["digests"]),
            clients=tuple((client, version) for client, version in said["clients"]),
            weights=tuple(said["weights"]),
            minimum_same=said["minimum_same"],
        )
